//! TCP connections of this host to a dispatcher, as the kernel lists them (proc_pid_net(5)).

use std::fs;
use std::net::{IpAddr, SocketAddr};

/// An established connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Of its socket here.
    pub inode: u64,
    /// Bytes that came and were not read.
    pub unread: u64,
}

/// The first connection to there, whosever it is.
pub fn to(address: SocketAddr) -> Option<Link> {
    let table = match address.ip() {
        IpAddr::V4(_) => "tcp",
        IpAddr::V6(_) => "tcp6",
    };
    let table = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
    find(&table, address)
}

fn find(table: &str, to: SocketAddr) -> Option<Link> {
    let wanted = format!("{}:{:04X}", written(to.ip()), to.port());
    table.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_up = *words.get(2)? == wanted && *words.get(3)? == "01";
        let (_, unread) = words.get(4)?.split_once(':')?;
        let link = Link {
            inode: words.get(9)?.parse().ok()?,
            unread: u64::from_str_radix(unread, 16).ok()?,
        };
        is_up.then_some(link)
    })
}

/// Words of four bytes in the host's order, in hexadecimal digits.
fn written(ip: IpAddr) -> String {
    let bytes = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = bytes
        .chunks(4)
        .map(|word| word.try_into().map_or(0, u32::from_ne_bytes));
    words.map(|word| format!("{word:08X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn connections_and_what_they_have_not_read() {
        for here in ["127.0.0.1:0", "[::1]:0"] {
            // Not every host has IPv6.
            let Ok(listener) = TcpListener::bind(here) else {
                continue;
            };
            let address = listener.local_addr().unwrap();
            assert_eq!(to(address), None, "it only listens");
            let mut link = TcpStream::connect(address).unwrap();
            let before = to(address).unwrap();
            assert_eq!(before.unread, 0);
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(b"pong").unwrap();
            while to(address).unwrap().unread == 0 {
                std::thread::yield_now();
            }
            assert_eq!(
                to(address).unwrap(),
                Link {
                    unread: 4,
                    ..before
                }
            );
            link.read_exact(&mut [0; 4]).unwrap();
            assert_eq!(to(address).unwrap(), before);
        }
        assert_eq!(find("junk\n\n 0: x", "127.0.0.1:1".parse().unwrap()), None);
    }
}
