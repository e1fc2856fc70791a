//! The interfaces of this network namespace and their IPv4 addresses (getifaddrs(3)).

use std::ffi::CStr;
use std::io;
use std::net::Ipv4Addr;
use std::ptr;

use libc::c_int;

use super::check;

/// An interface with at least one IPv4 address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// As the kernel calls it; labels of single addresses (`eth0:1`) are left out.
    pub name: String,
    pub is_up: bool,
    pub is_loopback: bool,
    /// In the kernel's order.
    pub addresses: Vec<Ipv4Addr>,
}

/// All interfaces with IPv4 addresses, in the kernel's order.
///
/// # Errors
/// When they cannot be listed.
pub fn list() -> io::Result<Vec<Interface>> {
    let mut head: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: the library stores the head of a list that is freed below, once.
    check(unsafe { libc::getifaddrs(&raw mut head) })?;
    let mut found: Vec<Interface> = Vec::new();
    let mut next = head;
    // SAFETY: each entry is alive until the list is freed.
    while let Some(entry) = unsafe { next.as_ref() } {
        if let Some((name, address)) = ipv4(entry) {
            let flag = |flag: c_int| entry.ifa_flags & flag as u32 != 0;
            match found.iter_mut().find(|known| known.name == name) {
                Some(known) => known.addresses.push(address),
                None => found.push(Interface {
                    name,
                    is_up: flag(libc::IFF_UP),
                    is_loopback: flag(libc::IFF_LOOPBACK),
                    addresses: vec![address],
                }),
            }
        }
        next = entry.ifa_next;
    }
    // SAFETY: from getifaddrs, and not used any more.
    unsafe { libc::freeifaddrs(head) };
    Ok(found)
}

/// The interface's name and the address, where the entry is about an IPv4 address.
fn ipv4(entry: &libc::ifaddrs) -> Option<(String, Ipv4Addr)> {
    // SAFETY: the address is null or a socket address of the family that it names; that of IPv4 is read only
    // where the family is AF_INET. The name is a string that ends in NUL.
    let (address, label) = unsafe {
        let family = c_int::from(entry.ifa_addr.as_ref()?.sa_family);
        if family != libc::AF_INET {
            return None;
        }
        let address = entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
        (address, CStr::from_ptr(entry.ifa_name).to_string_lossy())
    };
    let name = label.split(':').next().unwrap_or_default().to_owned();
    let octets = address.sin_addr.s_addr.to_ne_bytes();
    Some((name, Ipv4Addr::from(octets)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there() {
        let found = list().unwrap();
        let loopback = found.iter().find(|interface| interface.is_loopback);
        let addresses = &loopback.unwrap().addresses;
        assert!(addresses.contains(&Ipv4Addr::LOCALHOST), "{found:?}");
    }
}
