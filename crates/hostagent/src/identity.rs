//! The host id: settings, else a permanent MAC address, else the hostname.

use std::fmt;
use std::fs;
use std::path::Path;

use protocol::HostId;
use protocol::name::NameError;

/// A host's id and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub host_id: HostId,
    pub source: IdSource,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdSource {
    Settings,
    /// The permanent hardware address of this interface.
    PermanentAddress {
        interface: String,
    },
    /// The address of this interface, which something may change: no interface has a permanent one.
    Address {
        interface: String,
    },
    /// No interface has an address.
    Hostname,
}

impl IdSource {
    /// Whether the id may be another one tomorrow, or that of another host: worth a warning.
    pub fn is_doubtful(&self) -> bool {
        match self {
            Self::Settings | Self::PermanentAddress { .. } | Self::Address { .. } => false,
            Self::Hostname => true,
        }
    }
}

impl fmt::Display for IdSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings => write!(f, "settings ([hostagent] host_id)"),
            Self::PermanentAddress { interface } => {
                write!(f, "permanent hardware address of network interface {interface}")
            }
            Self::Address { interface } => write!(
                f,
                "address of network interface {interface} (no interface has a permanent hardware address)"
            ),
            Self::Hostname => write!(
                f,
                "hostname, which may change or be that of another host, too (no interface has a hardware \
                 address): set [hostagent] host_id"
            ),
        }
    }
}

/// Why a host has no id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("[hostagent] host_id {value:?} {reason}")]
    Setting { value: String, reason: NameError },
    #[error(
        "no network interface has a hardware address, and the hostname {value:?} {reason}: set [hostagent] \
         host_id"
    )]
    Hostname { value: String, reason: NameError },
}

/// Finds the host's id. `sys` is where sysfs is (`/sys`).
pub fn identify(configured: Option<&str>, sys: &Path, hostname: &str) -> Result<Identity, IdentityError> {
    if let Some(value) = configured {
        let host_id = HostId::new(value).map_err(|reason| IdentityError::Setting {
            value: value.to_owned(),
            reason,
        })?;
        let source = IdSource::Settings;
        return Ok(Identity { host_id, source });
    }
    if let Some(identity) = choose(&interfaces(sys)) {
        return Ok(identity);
    }
    let host_id = HostId::new(hostname).map_err(|reason| IdentityError::Hostname {
        value: hostname.to_owned(),
        reason,
    })?;
    let source = IdSource::Hostname;
    Ok(Identity { host_id, source })
}

/// A network interface that can stand for its host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    name: String,
    /// Upper case, with colons.
    address: String,
    /// As opposed to random, taken over from another, or set by someone.
    is_permanent: bool,
}

/// The first with a permanent address, else the first, by name. (docker0, br-*, veth*, bond0 sort before
/// eth0, and their addresses change.)
fn choose(interfaces: &[Interface]) -> Option<Identity> {
    let permanent = interfaces.iter().find(|interface| interface.is_permanent);
    let chosen = permanent.or(interfaces.first())?;
    let interface = chosen.name.clone();
    Some(Identity {
        host_id: HostId::new(chosen.address.as_str()).ok()?,
        source: match chosen.is_permanent {
            true => IdSource::PermanentAddress { interface },
            false => IdSource::Address { interface },
        },
    })
}

/// All interfaces with an Ethernet address that is one host's, by name. What cannot be read is left out:
/// interfaces come and go.
fn interfaces(sys: &Path) -> Vec<Interface> {
    let Ok(entries) = fs::read_dir(sys.join("class/net")) else {
        return Vec::new();
    };
    let mut found: Vec<Interface> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let read = |file: &str| {
                let text = fs::read_to_string(entry.path().join(file)).ok()?;
                Some(text.trim().to_owned())
            };
            // ARPHRD_LOOPBACK
            if name == "lo" || read("type").as_deref() == Some("772") {
                return None;
            }
            Some(Interface {
                address: host_address(&read("address")?)?,
                // NET_ADDR_PERM
                is_permanent: read("addr_assign_type").as_deref() == Some("0"),
                name,
            })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// `02:fc:00:00:00:01` -> `02:FC:00:00:00:01`; `None` for what is no Ethernet address (InfiniBand,
/// tunnels), zero, or multicast.
fn host_address(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(6);
    for part in text.split(':') {
        let is_hex = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(is_hex.then_some(part)?, 16).ok()?);
    }
    let is_multicast = bytes.first()? & 1 == 1;
    let is_usable = bytes.len() == 6 && !is_multicast && bytes.iter().any(|&byte| byte != 0);
    is_usable.then(|| text.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, type, addr_assign_type, address.
    type Row = (&'static str, &'static str, &'static str, &'static str);

    const LO: Row = ("lo", "772", "0", "00:00:00:00:00:00");
    const ETH0: Row = ("eth0", "1", "0", "02:fc:00:00:00:01");
    const ETH1: Row = ("eth1", "1", "0", "02:fc:00:00:00:02");
    const DOCKER0: Row = ("docker0", "1", "3", "02:42:5e:00:00:01");
    const BRIDGE: Row = ("br-0a1b2c", "1", "2", "02:42:5e:00:00:02");
    const VETH: Row = ("aveth12", "1", "1", "ee:42:5e:00:00:03");
    const TUNNEL: Row = ("bips0", "768", "0", "00:00:00:00");
    const INFINIBAND: Row = (
        "aib0",
        "32",
        "0",
        "80:00:02:08:fe:80:00:00:00:00:00:00:f4:52:14:03:00:8f:8c:31",
    );
    const ZERO: Row = ("adummy", "1", "0", "00:00:00:00:00:00");
    const MULTICAST: Row = ("amulti", "1", "0", "01:00:5e:00:00:01");

    fn fake_sys(rows: &[Row]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        for (name, kind, assign_type, address) in rows {
            let folder = sys.path().join("class/net").join(name);
            fs::create_dir_all(&folder).unwrap();
            for (file, text) in [
                ("type", kind),
                ("addr_assign_type", assign_type),
                ("address", address),
            ] {
                fs::write(folder.join(file), format!("{text}\n")).unwrap();
            }
        }
        sys
    }

    #[test]
    fn the_first_permanent_address_wins_then_the_first_then_the_hostname() {
        let permanent = |name: &str| IdSource::PermanentAddress {
            interface: name.into(),
        };
        let address = |name: &str| IdSource::Address {
            interface: name.into(),
        };
        let bond_rows = [
            ("bond0", "1", "2", "02:fc:00:00:00:01"),
            ("eth0", "1", "3", "02:fc:00:00:00:01"),
            ("eth1", "1", "3", "02:fc:00:00:00:01"),
        ];
        let table: &[(&[Row], &str, IdSource)] = &[
            (&[LO, ETH1, ETH0], "02:FC:00:00:00:01", permanent("eth0")),
            (
                &[LO, DOCKER0, BRIDGE, VETH, ETH1],
                "02:FC:00:00:00:02",
                permanent("eth1"),
            ),
            (
                &[ZERO, MULTICAST, INFINIBAND, TUNNEL, ETH0],
                "02:FC:00:00:00:01",
                permanent("eth0"),
            ),
            (&[LO, DOCKER0, BRIDGE], "02:42:5E:00:00:02", address("br-0a1b2c")),
            (&bond_rows, "02:FC:00:00:00:01", address("bond0")),
            (&[LO, ZERO, MULTICAST], "web1", IdSource::Hostname),
            (&[], "web1", IdSource::Hostname),
        ];
        for (rows, id, source) in table {
            let sys = fake_sys(rows);
            let identity = identify(None, sys.path(), "web1").unwrap();
            assert_eq!(
                (identity.host_id.as_str(), &identity.source),
                (*id, source),
                "{rows:?}"
            );
            assert_eq!(identity.source.is_doubtful(), *source == IdSource::Hostname);
        }
    }

    #[test]
    fn settings_come_before_everything() {
        let sys = fake_sys(&[ETH0]);
        let identity = identify(Some("rack-7"), sys.path(), "web1").unwrap();
        assert_eq!(
            (identity.host_id.as_str(), identity.source),
            ("rack-7", IdSource::Settings)
        );
        let error = identify(Some("a b"), sys.path(), "web1").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("[hostagent] host_id \"a b\" contains ' '"),
            "{error}"
        );
    }

    #[test]
    fn no_address_and_no_usable_hostname_is_an_error_that_says_what_to_set() {
        let error = identify(None, Path::new("/nowhere"), "").unwrap_err();
        assert!(error.to_string().ends_with("set [hostagent] host_id"), "{error}");
    }
}
