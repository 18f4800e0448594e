//! The host's IP addresses.

use std::collections::BTreeMap;
use std::io;

/// Interface -> addresses, without those that only the host itself can reach.
pub(super) fn by_interface() -> io::Result<BTreeMap<String, Vec<String>>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for interface in getifaddrs::getifaddrs()? {
        let address = interface.address.ip_addr();
        if let Some(address) = address.filter(|address| !address.is_loopback()) {
            found.entry(interface.name).or_default().push(address.to_string());
        }
    }
    found.values_mut().for_each(|addresses| addresses.sort());
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn the_kernel_answers() {
        // A sandbox may have no network at all; then the answer is empty.
        for (interface, addresses) in by_interface().unwrap() {
            assert!(!interface.is_empty());
            for address in addresses {
                assert!(!address.parse::<IpAddr>().unwrap().is_loopback());
            }
        }
    }
}
