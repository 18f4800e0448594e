//! Facts for `info` of a status: what an operator wants to know about a host at a glance. Read from
//! files and system calls only. None is secret.

use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{Facts, Family, Root};

mod addresses;

/// Collects the facts of one host.
pub struct Collector {
    root: Root,
    family: Family,
    init: &'static str,
    /// Constant while the host runs.
    virtualization: OnceLock<Option<String>>,
}

impl Collector {
    /// `init`: the init system's name.
    pub fn new(root: &Root, family: Family, init: &'static str) -> Self {
        Self {
            root: root.clone(),
            family,
            init,
            virtualization: OnceLock::new(),
        }
    }

    /// Omits unknown facts, except for those that the protocol requires: `hostname`, `os_family`,
    /// `arch`, `os_info`.
    pub fn collect(&self) -> Facts {
        let system = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let read = |path: &str| fs::read_to_string(self.root.join(path)).ok();
        let os_release = read("/etc/os-release").or_else(|| read("/usr/lib/os-release"));
        let hosts = read("/etc/hosts").unwrap_or_default();
        let memory = rustix::system::sysinfo();

        let mut facts = Facts::new();
        let mut set = |name: &str, value: Value| facts.insert(name.to_owned(), value);
        set("hostname", json!(full_name(&text(system.nodename()), &hosts)));
        set("os_family", json!(text(system.sysname())));
        set("arch", json!(text(system.machine())));
        set(
            "os_info",
            json!(os_info(os_release.as_deref().unwrap_or_default())),
        );
        set("kernel", json!(text(system.release())));
        // The standard library would also read the limits of the agent's own control group.
        if let Ok(cpus) = rustix::thread::sched_getaffinity(None) {
            set("cpus", json!(cpus.count()));
        }
        let unit = u128::from(memory.mem_unit.max(1));
        set(
            "memory_mib",
            json!((memory.totalram as u128 * unit / (1024 * 1024)) as u64),
        );
        if let Some(booted_at) = boot_time(memory.uptime) {
            set("booted_at", json!(booted_at));
        }
        set("package_family", json!(self.family.extension()));
        set("init", json!(self.init));
        if let Some(virtualization) = self.virtualization.get_or_init(|| virtualization(read)) {
            set("virtualization", json!(virtualization));
        }
        match addresses::by_interface() {
            Ok(addresses) if addresses.is_empty() => {}
            Ok(addresses) => {
                set("addresses", json!(addresses));
            }
            Err(error) => tracing::debug!(%error, "cannot read the host's addresses"),
        }
        facts
    }
}

/// The fully qualified name: the nodename, or its first full name in /etc/hosts. Does not ask DNS,
/// which may not answer for minutes.
fn full_name(nodename: &str, hosts: &str) -> String {
    if nodename.contains('.') {
        return nodename.to_owned();
    }
    let line_names = hosts.lines().map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace().skip(1).collect::<Vec<_>>()
    });
    let prefix = format!("{nodename}.");
    let mut of_this_host = line_names.filter(|names| names.contains(&nodename));
    let full = of_this_host.find_map(|names| names.into_iter().find(|name| name.starts_with(&prefix)));
    full.unwrap_or(nodename).to_owned()
}

/// os-release(5) -> `debian 12 bookworm`: id, version and code name, if present.
fn os_info(os_release: &str) -> String {
    let field = |name: &str| {
        let value = os_release
            .lines()
            .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))?;
        let value = value.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| value.to_owned())
    };
    let parts = ["ID", "VERSION_ID", "VERSION_CODENAME"].map(field);
    let known: Vec<String> = parts.into_iter().flatten().collect();
    match known.is_empty() {
        true => "linux".to_owned(),
        false => known.join(" "),
    }
}

/// RFC 3339, rounded to the minute: computed from the uptime, the seconds would vary.
fn boot_time(uptime_s: i64) -> Option<String> {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let booted = since_epoch.checked_sub(Duration::from_secs(uptime_s.try_into().ok()?))?;
    let minute = Duration::from_secs((booted.as_secs() + 30) / 60 * 60);
    let time = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + minute);
    Some(time.to_string())
}

/// The container or hypervisor that the host runs in, if a file says so.
fn virtualization(read: impl Fn(&str) -> Option<String>) -> Option<String> {
    if let Some(container) = read("/run/systemd/container") {
        return Some(container.trim().to_owned());
    }
    let vendor = read("/sys/class/dmi/id/sys_vendor")?;
    let product = read("/sys/class/dmi/id/product_name").unwrap_or_default();
    virtual_hardware(vendor.trim(), product.trim()).map(str::to_owned)
}

/// By systemd-detect-virt's names.
fn virtual_hardware(vendor: &str, product: &str) -> Option<&'static str> {
    let starts = |prefix: &str| vendor.starts_with(prefix) || product.starts_with(prefix);
    let known = [
        ("QEMU", "kvm"),
        ("KVM", "kvm"),
        ("OpenStack", "kvm"),
        ("Amazon EC2", "amazon"),
        ("VMware", "vmware"),
        ("VirtualBox", "oracle"),
        ("innotek GmbH", "oracle"),
        ("Xen", "xen"),
        ("Google Compute Engine", "google"),
        ("Parallels", "parallels"),
    ];
    if vendor == "Microsoft Corporation" && product == "Virtual Machine" {
        return Some("microsoft");
    }
    known
        .into_iter()
        .find(|(prefix, _)| starts(prefix))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_names() {
        let hosts =
            "127.0.0.1 localhost\n127.0.1.1 web1.example.org web1 # web2.x\n::1 web2 web2.example.net\n";
        let table = [
            ("web1", "web1.example.org"),
            ("web2", "web2.example.net"),
            ("web3", "web3"),
            ("web3.example.org", "web3.example.org"),
        ];
        for (nodename, name) in table {
            assert_eq!(full_name(nodename, hosts), name);
        }
    }

    #[test]
    fn operating_systems() {
        let table = [
            (
                "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n",
                "debian 12 bookworm",
            ),
            (
                "NAME=\"Rocky Linux\"\nID=\"rocky\"\nVERSION_ID=\"9.3\"\nID_LIKE=\"rhel\"\n",
                "rocky 9.3",
            ),
            ("ID=arch\nVERSION_ID=\n", "arch"),
            ("", "linux"),
        ];
        for (text, info) in table {
            assert_eq!(os_info(text), info);
        }
    }

    #[test]
    fn virtual_machines() {
        let table = [
            ("QEMU", "Standard PC", Some("kvm")),
            ("Microsoft Corporation", "Virtual Machine", Some("microsoft")),
            ("Microsoft Corporation", "Surface", None),
            ("Google", "Google Compute Engine", Some("google")),
            ("Dell Inc.", "PowerEdge", None),
        ];
        for (vendor, product, name) in table {
            assert_eq!(virtual_hardware(vendor, product), name);
        }
    }

    #[test]
    fn a_hosts_files_are_those_under_its_root() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("usr/lib")).unwrap();
        fs::write(
            folder.path().join("usr/lib/os-release"),
            "ID=fedora\nVERSION_ID=42\n",
        )
        .unwrap();
        let facts = Collector::new(&Root::new(folder.path()), Family::Rpm, "sysv").collect();
        assert_eq!(facts["os_info"], "fedora 42");
        assert_eq!(facts["os_family"], "Linux");
        assert_eq!(facts["arch"], std::env::consts::ARCH);
        assert_eq!(
            (&facts["package_family"], &facts["init"]),
            (&json!("rpm"), &json!("sysv"))
        );
        assert!(
            facts["memory_mib"].as_u64() > Some(0) && facts["cpus"].as_u64() > Some(0),
            "{facts:?}"
        );
        let booted = facts["booted_at"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(booted).unwrap() < SystemTime::now() + Duration::from_secs(60));
    }

    #[test]
    fn what_changes_is_seen_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let release = folder.path().join("etc/os-release");
        fs::create_dir(folder.path().join("etc")).unwrap();
        let collector = Collector::new(&Root::new(folder.path()), Family::Deb, "sysv");
        for id in ["a", "b"] {
            fs::write(&release, format!("ID={id}\n")).unwrap();
            assert_eq!(collector.collect()["os_info"], id);
        }
    }
}
