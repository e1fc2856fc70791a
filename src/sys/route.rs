//! Which of this host's addresses the kernel would send from, and which there are. Routes are asked for by
//! connecting a UDP socket, which sends nothing and honours policy routing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::ptr;

use libc::{c_int, c_uint};

use super::check;

/// A host far away that no local route is for (a root name server).
const FAR_AWAY: Ipv4Addr = Ipv4Addr::new(198, 41, 0, 4);

/// Port 9 is for what is to be discarded (RFC 863); nothing is sent there.
const DISCARD: u16 = 9;

/// The address that packets to somebody leave from.
///
/// # Errors
/// Where no route leads there.
pub fn source_towards(destination: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(SocketAddr::from((destination, DISCARD)))?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(address) if !address.is_unspecified() => Ok(address),
        _ => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

/// The address of the interface with the default route.
///
/// # Errors
/// Where there is no default route.
pub fn default_address() -> io::Result<Ipv4Addr> {
    source_towards(FAR_AWAY)
}

/// The first IPv4 address of an interface that is up, loopback left out (getifaddrs(3)).
///
/// # Errors
/// When the interfaces cannot be listed.
pub fn first_address() -> io::Result<Option<Ipv4Addr>> {
    let up = |flags| flags & libc::IFF_UP as u32 != 0 && flags & libc::IFF_LOOPBACK as u32 == 0;
    let found = interface_addresses()?;
    Ok(found.iter().find(|(flags, _)| up(*flags)).map(|it| it.1))
}

/// All IPv4 addresses of this host, loopback included, in order and each once.
///
/// # Errors
/// When the interfaces cannot be listed.
pub fn addresses() -> io::Result<Vec<Ipv4Addr>> {
    let mut found: Vec<Ipv4Addr> = interface_addresses()?.iter().map(|it| it.1).collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The interfaces' flags and IPv4 addresses, as the kernel orders them.
fn interface_addresses() -> io::Result<Vec<(c_uint, Ipv4Addr)>> {
    let mut list: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: the library stores the head of a list that is freed below, once.
    check(unsafe { libc::getifaddrs(&raw mut list) })?;
    let mut found = Vec::new();
    let mut next = list;
    // SAFETY: each entry is alive until the list is freed, its address null or as its family says; a socket
    // address of IPv4 is read only where the family is AF_INET.
    while let Some(entry) = unsafe { next.as_ref() } {
        let family = unsafe { entry.ifa_addr.as_ref() }.map(|name| c_int::from(name.sa_family));
        if family == Some(libc::AF_INET) {
            let name = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            let address = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
            found.push((entry.ifa_flags, address));
        }
        next = entry.ifa_next;
    }
    // SAFETY: from getifaddrs, and not used any more.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_is_ours_and_not_loopback() {
        if let Some(address) = first_address().unwrap() {
            assert!(!address.is_loopback());
            UdpSocket::bind((address, 0)).unwrap();
            assert!(addresses().unwrap().contains(&address));
        }
    }

    #[test]
    fn loopback_is_reached_from_loopback() {
        assert_eq!(
            source_towards(Ipv4Addr::LOCALHOST).unwrap(),
            Ipv4Addr::LOCALHOST
        );
    }
}
