//! The host id: from the settings, else a MAC address, else the hostname.
//!
//! The id first used is kept in the state folder: a host must not change its id because a network
//! card was replaced, or because docker has given its bridge another address.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use host::atomic_file;
use protocol::HostId;
use protocol::name::NameError;

/// Of the kept id, in the state folder.
const KEPT_ID: &str = "host-id";

/// A host's id and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub host_id: HostId,
    pub source: IdSource,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdSource {
    Settings,
    /// Kept in the state folder. `now`: what the host would choose now.
    Kept {
        now: HostId,
    },
    /// The permanent hardware address of this interface.
    PermanentAddress {
        interface: String,
    },
    /// The address of this interface; no interface has a permanent one.
    Address {
        interface: String,
    },
    /// No interface has a suitable address.
    Hostname,
}

impl IdSource {
    /// Whether the id may change, or be that of another host: worth a warning.
    pub fn is_doubtful(&self) -> bool {
        match self {
            Self::Settings | Self::PermanentAddress { .. } => false,
            Self::Kept { .. } | Self::Address { .. } | Self::Hostname => true,
        }
    }
}

impl fmt::Display for IdSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings => write!(f, "settings ([hostagent] host_id)"),
            Self::Kept { now } => write!(
                f,
                "file {KEPT_ID} in the state folder; the host itself would now be {now}. If this host is a copy of \
                 another one, or to use {now}, delete the file"
            ),
            Self::PermanentAddress { interface } => {
                write!(f, "permanent hardware address of network interface {interface}")
            }
            Self::Address { interface } => write!(
                f,
                "address of network interface {interface}, which may change (no interface has a permanent \
                 hardware address): set [hostagent] host_id to be sure"
            ),
            Self::Hostname => write!(
                f,
                "hostname, which may change or be that of another host (no network interface has a suitable \
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
        "no network interface has a suitable address, and the hostname {value:?} {reason}: set [hostagent] \
         host_id"
    )]
    Hostname { value: String, reason: NameError },
}

/// Finds the host's id. `sys`: of sysfs (`/sys`).
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

/// The id that [`keep`] has stored, if there is one, otherwise `own`. An id from the settings wins.
pub fn prefer_kept(state_dir: &Path, own: Identity) -> Identity {
    match kept(state_dir) {
        Some(kept) if own.source != IdSource::Settings && kept != own.host_id => Identity {
            host_id: kept,
            source: IdSource::Kept { now: own.host_id },
        },
        Some(_) | None => own,
    }
}

/// Stores the id that this host uses first. An id from the settings is not stored.
pub fn keep(state_dir: &Path, identity: &Identity) -> io::Result<()> {
    if identity.source == IdSource::Settings || kept(state_dir).is_some() {
        return Ok(());
    }
    let line = format!("{}\n", identity.host_id);
    atomic_file::replace(&state_dir.join(KEPT_ID), line.as_bytes(), 0o644)
}

/// `None`: there is no valid one.
fn kept(state_dir: &Path) -> Option<HostId> {
    let text = fs::read_to_string(state_dir.join(KEPT_ID)).ok()?;
    HostId::new(text.trim()).ok()
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    name: String,
    /// Upper case, with colons.
    address: String,
    suitability: Suitability,
}

/// How well an address identifies its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suitability {
    /// The hardware address of a network card.
    Permanent,
    /// Set by somebody, perhaps as a copy (NET_ADDR_STOLEN, NET_ADDR_SET).
    Set,
    /// Random, or of an interface that other hosts may have with the same address: a bridge, a
    /// bond, veth, docker, a tunnel, the USB link to a BMC.
    None,
}

/// The first by name with a permanent address, else the first with a suitable one.
fn choose(interfaces: &[Interface]) -> Option<Identity> {
    let first = |wanted| {
        interfaces
            .iter()
            .find(|interface| interface.suitability == wanted)
    };
    let chosen = first(Suitability::Permanent).or(first(Suitability::Set))?;
    let interface = chosen.name.clone();
    Some(Identity {
        host_id: HostId::new(chosen.address.as_str()).ok()?,
        source: match chosen.suitability {
            Suitability::Permanent => IdSource::PermanentAddress { interface },
            Suitability::Set | Suitability::None => IdSource::Address { interface },
        },
    })
}

/// All interfaces with a unicast Ethernet address, by name. Unreadable ones are left out:
/// interfaces come and go.
fn interfaces(sys: &Path) -> Vec<Interface> {
    let Ok(entries) = fs::read_dir(sys.join("class/net")) else {
        return Vec::new();
    };
    let mut found: Vec<Interface> = entries
        .flatten()
        .filter_map(|entry| interface(entry.file_name().into_string().ok()?, &entry.path()))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// `folder`: of the interface in sysfs.
fn interface(name: String, folder: &Path) -> Option<Interface> {
    let read = |file: &str| {
        let text = fs::read_to_string(folder.join(file)).ok()?;
        Some(text.trim().to_owned())
    };
    // ARPHRD_LOOPBACK
    if name == "lo" || read("type").as_deref() == Some("772") {
        return None;
    }
    let is_shared = is_shared(&name, folder);
    // All members of a bond show its address; the kernel keeps their own one here.
    if let Some(own) = read("bonding_slave/perm_hwaddr").and_then(|text| host_address(&text)) {
        return Some(Interface {
            name,
            address: own,
            suitability: Suitability::Permanent,
        });
    }
    Some(Interface {
        address: host_address(&read("address")?)?,
        suitability: match read("addr_assign_type").as_deref() {
            _ if is_shared => Suitability::None,
            // NET_ADDR_PERM
            Some("0") => Suitability::Permanent,
            // NET_ADDR_RANDOM
            Some("1") | None => Suitability::None,
            Some(_) => Suitability::Set,
        },
        name,
    })
}

/// Whether other hosts may have the same interface with the same address.
fn is_shared(name: &str, folder: &Path) -> bool {
    let is_virtual = ["bridge", "bonding", "tun_flags"]
        .iter()
        .any(|file| folder.join(file).exists());
    let has_virtual_name = ["br-", "docker", "veth", "virbr", "bond", "tun", "tap", "lxcbr"]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    // Drivers of the USB links to BMCs: some vendors give each board the same address.
    let driver = fs::read_link(folder.join("device/driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name);
    let is_bmc_link = driver.is_some_and(|driver| {
        let driver = driver.to_string_lossy();
        driver.starts_with("cdc_") || driver.starts_with("rndis")
    });
    is_virtual || has_virtual_name || is_bmc_link
}

/// `02:fc:00:00:00:01` -> `02:FC:00:00:00:01`; `None`: not an Ethernet address (InfiniBand,
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
    const ETH_SET: Row = ("eth0", "1", "3", "02:fc:00:00:00:03");
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
            (&[LO, DOCKER0, BRIDGE, VETH], "web1", IdSource::Hostname),
            (&bond_rows, "02:FC:00:00:00:01", address("eth0")),
            // A container.
            (&[LO, DOCKER0, ETH_SET], "02:FC:00:00:00:03", address("eth0")),
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
            let is_permanent = matches!(source, IdSource::PermanentAddress { .. });
            assert_eq!(identity.source.is_doubtful(), !is_permanent);
        }
    }

    /// R27: vendors give these the same address on each board.
    #[test]
    fn a_usb_link_to_a_bmc_is_not_taken_and_a_bonds_member_keeps_its_own_address() {
        let usb: Row = ("ausb0", "1", "0", "02:fc:00:00:00:09");
        let sys = fake_sys(&[usb, ("eth0", "1", "3", "02:fc:00:00:00:01")]);
        let net = sys.path().join("class/net");
        fs::create_dir_all(net.join("ausb0/device")).unwrap();
        std::os::unix::fs::symlink("../cdc_ether", net.join("ausb0/device/driver")).unwrap();
        let found = || identify(None, sys.path(), "web1").unwrap().host_id;
        assert_eq!(found().as_str(), "02:FC:00:00:00:01");
        fs::create_dir_all(net.join("eth0/bonding_slave")).unwrap();
        fs::write(net.join("eth0/bonding_slave/perm_hwaddr"), "02:fc:00:00:00:02\n").unwrap();
        assert_eq!(found().as_str(), "02:FC:00:00:00:02");
    }

    #[test]
    fn the_id_first_used_is_kept() {
        let state = tempfile::tempdir().unwrap();
        let identity = |id: &str, source| Identity {
            host_id: HostId::new(id).unwrap(),
            source,
        };
        let first = identity("web1", IdSource::Hostname);
        assert_eq!(prefer_kept(state.path(), first.clone()), first);
        keep(state.path(), &first).unwrap();
        assert_eq!(prefer_kept(state.path(), first.clone()), first);
        let other = identity("web2", IdSource::Hostname);
        keep(state.path(), &other).unwrap();
        let later = prefer_kept(state.path(), other);
        assert_eq!(later.host_id.as_str(), "web1");
        let said = later.source.to_string();
        assert!(later.source.is_doubtful() && said.contains("web2"), "{said}");
        let set = identity("set", IdSource::Settings);
        assert_eq!(prefer_kept(state.path(), set.clone()), set);
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
