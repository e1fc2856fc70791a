//! Which of this host's addresses the kernel would send from, and which there are. Routes are asked for by
//! connecting a UDP socket, which sends nothing and honours policy routing.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use super::{check, interfaces};

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

/// The longest packet that goes to somebody in one piece, bytes, as far as the kernel knows.
///
/// # Errors
/// Where no route leads there.
pub fn mtu_towards(destination: Ipv4Addr) -> io::Result<u32> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(SocketAddr::from((destination, DISCARD)))?;
    let (mut mtu, mut length) = (0, mem::size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the kernel writes one int and its length.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU,
            (&raw mut mtu).cast(),
            &raw mut length,
        )
    };
    check(result)?;
    let mtu: libc::c_int = mtu;
    Ok(u32::try_from(mtu).unwrap_or_default())
}

/// The address of the interface with the default route.
///
/// # Errors
/// Where there is no default route.
pub fn default_address() -> io::Result<Ipv4Addr> {
    source_towards(FAR_AWAY)
}

/// The first IPv4 address of an interface that is up, loopback left out.
///
/// # Errors
/// When the interfaces cannot be listed.
pub fn first_address() -> io::Result<Option<Ipv4Addr>> {
    let found = interfaces::list()?;
    let mut usable = found.iter().filter(|one| one.is_up && !one.is_loopback);
    Ok(usable.find_map(|one| one.addresses.first().copied()))
}

/// All IPv4 addresses of this host, loopback included, in order and each once.
///
/// # Errors
/// When the interfaces cannot be listed.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let interfaces = interfaces::list()?;
    let mut found: Vec<IpAddr> = interfaces
        .into_iter()
        .flat_map(|one| one.addresses)
        .map(IpAddr::V4)
        .collect();
    found.sort_unstable();
    found.dedup();
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
            assert!(addresses().unwrap().contains(&address.into()));
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
