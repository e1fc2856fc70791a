//! Kernel settings by the names that sysctl(8) gives them, and lists of ports as they hold them. What is under `net`
//! is that of the calling thread's network namespace.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// Ports that no program is given by chance (linux/Documentation/networking/ip-sysctl.rst).
pub const RESERVED_PORTS: &str = "net.ipv4.ip_local_reserved_ports";

/// More than the longest list of ports.
const LONGEST: usize = 512 * 1024;

/// A setting's number; none where there is no such setting.
pub fn number(name: &str) -> Option<u32> {
    text(name).ok()?.trim().parse().ok()
}

/// A setting as it is written.
///
/// # Errors
/// There is no such setting, or it cannot be read.
pub fn text(name: &str) -> io::Result<String> {
    let mut file = File::open(path(name))?;
    // In one piece: the kernel gives the start of a list to the first reader and nothing to the next.
    let mut buffer = vec![0; LONGEST];
    let length = file.read(&mut buffer)?;
    buffer.truncate(length);
    String::from_utf8(buffer).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Whether this process may change a setting.
pub fn is_writable(name: &str) -> bool {
    OpenOptions::new().write(true).open(path(name)).is_ok()
}

/// Changes a setting until the next boot.
///
/// # Errors
/// There is no such setting, it may not be written, or the kernel does not take the value.
pub fn write(name: &str, value: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path(name))?;
    file.write_all(value.as_bytes())
}

/// The setting of an interface, for all of its names; one may have a dot.
pub fn of_interface(interface: &str, setting: &str) -> String {
    let interface = interface.replace('.', "/");
    format!("net.ipv4.conf.{interface}.{setting}")
}

/// As sysctl(8) does: dots and slashes change places.
fn path(name: &str) -> PathBuf {
    let swapped = name.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    });
    PathBuf::from("/proc/sys").join(swapped.collect::<String>())
}

/// Ports as the kernel lists them: `8080,9148-9150`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortList {
    /// First and last of each stretch, in order, with a gap between any two.
    stretches: Vec<(u16, u16)>,
}

impl PortList {
    /// Reads a list; none where it is not one.
    pub fn parse(text: &str) -> Option<PortList> {
        let mut list = PortList::default();
        let items = text.trim().split(',').filter(|item| !item.is_empty());
        for item in items {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            if first > last {
                return None;
            }
            list.stretches.push((first, last));
        }
        list.join();
        Some(list)
    }

    /// Whether all ports from the first to the last are in it.
    pub fn contains(&self, first: u16, last: u16) -> bool {
        let mut stretches = self.stretches.iter();
        stretches.any(|(from, to)| *from <= first && last <= *to)
    }

    /// With these ports, too.
    pub fn with(&self, first: u16, last: u16) -> PortList {
        let mut list = self.clone();
        list.stretches.push((first, last));
        list.join();
        list
    }

    fn join(&mut self) {
        self.stretches.sort_unstable();
        self.stretches.dedup_by(|next, kept| {
            let touch = u32::from(next.0) <= u32::from(kept.1) + 1;
            if touch {
                kept.1 = kept.1.max(next.1);
            }
            touch
        });
    }
}

impl fmt::Display for PortList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.stretches.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// Adds ports to those that are reserved already; true where they were not all in it.
///
/// # Errors
/// The list cannot be read or written.
pub fn reserve(first: u16, last: u16) -> io::Result<bool> {
    let list = reserved()?;
    if list.contains(first, last) {
        return Ok(false);
    }
    write(RESERVED_PORTS, &list.with(first, last).to_string())?;
    match reserved()?.contains(first, last) {
        true => Ok(true),
        false => Err(io::Error::other("the kernel has not taken the list")),
    }
}

/// The ports that are reserved.
///
/// # Errors
/// The list cannot be read.
pub fn reserved() -> io::Result<PortList> {
    let text = text(RESERVED_PORTS)?;
    PortList::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::testing::in_namespace;

    fn list(text: &str) -> PortList {
        PortList::parse(text).unwrap()
    }

    #[test]
    fn lists_of_ports() {
        assert_eq!(list("\n").to_string(), "");
        assert_eq!(
            list("9-10,8,22,11,1-3\n").to_string(),
            "1-3,8-11,22",
            "in order and joined"
        );
        assert_eq!(list("40000-50000,45000").to_string(), "40000-50000");
        assert_eq!(list("65535,0").to_string(), "0,65535");
        for wrong in ["a", "1-", "2-1", "1-70000", "-1"] {
            assert_eq!(PortList::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_range_is_added_and_nobody_else_s_is_lost() {
        let others = list("8080,40100-40200,50000-65535");
        assert!(!others.contains(40000, 59999));
        let merged = others.with(40000, 59999);
        assert_eq!(merged.to_string(), "8080,40000-65535");
        assert!(merged.contains(40000, 59999) && merged.contains(8080, 8080));
        assert!(!merged.contains(8080, 8081));
        assert_eq!(merged.with(40000, 59999), merged);
    }

    #[test]
    fn names_become_paths_as_with_sysctl() {
        assert_eq!(
            path("net.ipv4.ip_forward"),
            PathBuf::from("/proc/sys/net/ipv4/ip_forward")
        );
        let name = of_interface("eth0.100", "rp_filter");
        assert_eq!(name, "net.ipv4.conf.eth0/100.rp_filter");
        assert_eq!(
            path(&name),
            PathBuf::from("/proc/sys/net/ipv4/conf/eth0.100/rp_filter")
        );
        assert_eq!(number("net.ipv4.no_such_setting"), None);
        assert!(!is_writable("net.ipv4.no_such_setting"));
    }

    /// The kernel gives a list to one read only: with a small buffer all but its start would be dropped.
    #[test]
    fn a_long_list_survives_a_merge_in_the_kernel() {
        in_namespace("a long list of reserved ports", || {
            let odd: Vec<String> = (1001..4001)
                .step_by(2)
                .map(|p: u32| p.to_string())
                .collect();
            write(RESERVED_PORTS, &odd.join(",")).unwrap();
            assert!(reserve(40000, 59999).unwrap());
            assert!(!reserve(40000, 59999).unwrap());
            let want = format!("{},40000-59999", odd.join(","));
            assert_eq!(text(RESERVED_PORTS).unwrap().trim(), want);
        });
    }
}
