//! The host's IP addresses, asked of the kernel over rtnetlink(7): one question, and its answer in a few
//! datagrams.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
/// nlmsghdr
const HEADER: usize = 16;
/// ifaddrmsg
const ADDRESS_HEADER: usize = 8;
const IFA_ADDRESS: u16 = 1;
/// The own address, where IFA_ADDRESS is that of the other end of a point-to-point link.
const IFA_LOCAL: u16 = 2;
const SCOPE_HOST: u8 = 254;

/// Interface -> addresses, without those that only the host itself can reach.
pub(super) fn by_interface() -> io::Result<BTreeMap<String, Vec<String>>> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is 0, the default.
        None,
    )?;
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let addresses = dump(&socket)?;
    // Those of one interface come one after the other.
    for of_one in addresses.chunk_by(|(one, _), (next, _)| one == next) {
        let Some((index, _)) = of_one.first() else {
            continue;
        };
        // The interface may have gone meanwhile.
        if let Ok(name) = rustix::net::netdevice::index_to_name(&socket, *index) {
            let addresses = of_one.iter().map(|(_, address)| address.to_string());
            found.entry(name).or_default().extend(addresses);
        }
    }
    found.values_mut().for_each(|addresses| addresses.sort());
    Ok(found)
}

fn dump(socket: &OwnedFd) -> io::Result<Vec<(u32, IpAddr)>> {
    let mut request = Vec::with_capacity(HEADER + ADDRESS_HEADER);
    request.extend(((HEADER + ADDRESS_HEADER) as u32).to_ne_bytes());
    request.extend(RTM_GETADDR.to_ne_bytes());
    request.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    // Sequence number, port, and an ifaddrmsg of any family.
    request.extend([0; 8 + ADDRESS_HEADER]);
    rustix::net::sendto(
        socket,
        &request,
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;
    let mut found = Vec::new();
    // What the kernel sends in one datagram at most.
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let (_, length) = rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        match parse(&buffer[..length.min(buffer.len())], &mut found) {
            Datagram::More => {}
            Datagram::Last => return Ok(found),
            Datagram::Bad => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Datagram {
    More,
    Last,
    Bad,
}

/// Reads the messages of one datagram.
fn parse(mut datagram: &[u8], found: &mut Vec<(u32, IpAddr)>) -> Datagram {
    while !datagram.is_empty() {
        let (Some(length), Some(kind)) = (read_u32(datagram, 0), read_u16(datagram, 4)) else {
            return Datagram::Bad;
        };
        let Some(message) = datagram.get(HEADER..length as usize) else {
            return Datagram::Bad;
        };
        match kind {
            NLMSG_DONE => return Datagram::Last,
            NLMSG_ERROR => return Datagram::Bad,
            RTM_NEWADDR => found.extend(parse_address(message)),
            _ => {}
        }
        datagram = datagram.get(aligned(length as usize)..).unwrap_or_default();
    }
    Datagram::More
}

fn parse_address(message: &[u8]) -> Option<(u32, IpAddr)> {
    if *message.get(3)? == SCOPE_HOST {
        return None;
    }
    let index = read_u32(message, 4)?;
    let mut attributes = message.get(ADDRESS_HEADER..)?;
    let mut address = None;
    while !attributes.is_empty() {
        let length = usize::from(read_u16(attributes, 0)?);
        let value = attributes.get(4..length)?;
        match read_u16(attributes, 2)? {
            IFA_LOCAL => return Some((index, ip_address(value)?)),
            IFA_ADDRESS => address = Some((index, ip_address(value)?)),
            _ => {}
        }
        attributes = attributes.get(aligned(length)..).unwrap_or_default();
    }
    address
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// Netlink aligns messages and attributes to four bytes.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with an ifaddrmsg of `scope` on interface 2.
    fn message(scope: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![2, 24, 0, scope];
        body.extend(2u32.to_ne_bytes());
        for (kind, value) in attributes {
            body.extend((4 + value.len() as u16).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(aligned(body.len()), 0);
        }
        let mut whole = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        whole.extend(RTM_NEWADDR.to_ne_bytes());
        whole.extend([0; 10]);
        whole.extend(body);
        whole
    }

    #[test]
    fn addresses_are_read_from_the_kernels_messages() {
        let (here, peer): ([u8; 4], [u8; 4]) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let mut datagram = message(0, &[(3, b"eth0\0"), (IFA_ADDRESS, &here)]);
        datagram.extend(message(0, &[(IFA_ADDRESS, &peer), (IFA_LOCAL, &here)]));
        datagram.extend(message(SCOPE_HOST, &[(IFA_ADDRESS, &[127, 0, 0, 1])]));
        let mut found = Vec::new();
        assert_eq!(parse(&datagram, &mut found), Datagram::More);
        assert_eq!(found, [(2, IpAddr::from(here)), (2, IpAddr::from(here))]);
    }

    #[test]
    fn a_cut_or_senseless_datagram_neither_panics_nor_loops() {
        let whole = message(0, &[(IFA_ADDRESS, &[10, 0, 0, 1])]);
        for end in 1..whole.len() {
            assert_eq!(parse(&whole[..end], &mut Vec::new()), Datagram::Bad, "{end}");
        }
        for byte in 0..whole.len() {
            for value in [0, 1, 3, 255] {
                let mut broken = whole.clone();
                broken[byte] = value;
                parse(&broken, &mut Vec::new());
            }
        }
    }

    #[test]
    fn the_kernel_answers() {
        // A sandbox may have no network at all; then there is just nothing.
        for (interface, addresses) in by_interface().unwrap() {
            assert!(!interface.is_empty());
            for address in addresses {
                address.parse::<IpAddr>().unwrap();
            }
        }
    }
}
