//! Host names in `config.ini` where an address is meant. They are looked up once, at the start.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use super::values::{self, Host, Parsed};
use crate::session::address::Range;

/// The addresses of a name.
pub(super) type LookUp = fn(&str) -> io::Result<Vec<IpAddr>>;

/// By the system: /etc/hosts and name servers. May block for seconds.
pub(super) fn by_system(name: &str) -> io::Result<Vec<IpAddr>> {
    let found = (name, 0u16).to_socket_addrs()?;
    Ok(found.map(|address| address.ip()).collect())
}

/// Asks nobody.
pub(super) fn localhost_alone(name: &str) -> io::Result<Vec<IpAddr>> {
    match name {
        "localhost" => Ok(vec![Ipv4Addr::LOCALHOST.into()]),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Where to listen: `ip[:port]`, `any[:port]` or `name[:port]`; of a name's addresses the first of IPv4, else of IPv6.
pub(super) fn listen(look_up: LookUp, default_port: u16) -> impl Fn(&str) -> Parsed<SocketAddr> {
    move |text| {
        let allowed =
            "ip[:port] with an address of this host (IPv6 in brackets), its name, or any[:port]";
        if let Some(address) = values::any_or_address(text, default_port) {
            return Ok(address);
        }
        let Some((Host::Name(name), port)) = values::host_and_port(text, default_port) else {
            return Err(allowed.into());
        };
        let found = look_up(&name).map_err(|error| format!("{allowed}; {name}: {error}"))?;
        let first = found.iter().find(|ip| ip.is_ipv4()).or(found.first());
        let address = first.map(|&ip| SocketAddr::new(ip, port));
        address.ok_or_else(|| format!("{allowed}; {name} has no address"))
    }
}

/// A list of ranges of IPv4 addresses, `any` among them, and names, which stand for their addresses. Beside it the
/// names that have none now, each with the reason.
pub(super) fn ranges(look_up: LookUp) -> impl Fn(&str) -> Parsed<(Vec<Range>, Vec<String>)> {
    move |text| {
        let mut unknown = Vec::new();
        let mut ranges = Vec::new();
        for item in values::items(text) {
            let Some(found) = values::range(item) else {
                let Some(name) = values::host_name(item) else {
                    let allowed =
                        "a list of IPv4 ranges such as 10.0.0.0/8, names of hosts, or any";
                    return Err(values::at_item(text, item, allowed.into()));
                };
                match look_up(&name) {
                    Ok(found) => ranges.extend(found.into_iter().filter_map(Range::of_one)),
                    Err(error) => unknown.push(format!("{name}: {error}")),
                }
                continue;
            };
            ranges.push(found);
        }
        let mut once = Vec::new();
        for range in ranges {
            if !once.contains(&range) {
                once.push(range);
            }
        }
        Ok((once, unknown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_the_test(name: &str) -> io::Result<Vec<IpAddr>> {
        match name {
            "both" => Ok(vec![
                "2001:db8::1".parse().unwrap(),
                "192.0.2.7".parse().unwrap(),
            ]),
            "six" => Ok(vec!["2001:db8::1".parse().unwrap()]),
            "none" | "empty" => Ok(Vec::new()),
            other => localhost_alone(other),
        }
    }

    #[test]
    fn a_name_of_this_host() {
        let here = listen(of_the_test, 25060);
        for (text, address) in [
            ("localhost", "127.0.0.1:25060"),
            ("LocalHost.:7", "127.0.0.1:7"),
            ("both:8", "192.0.2.7:8"),
            ("six", "[2001:db8::1]:25060"),
            ("any:9", "0.0.0.0:9"),
            ("[::1]", "[::1]:25060"),
        ] {
            assert_eq!(here(text), Ok(address.parse().unwrap()), "{text}");
        }
        for bad in [
            "",
            "localhost:0",
            "localhost:x",
            "a b",
            "1.2.3",
            "both:",
            ":5",
        ] {
            assert!(here(bad).unwrap_err().ends_with("or any[:port]"), "{bad}");
        }
        let why = here("eth0").unwrap_err();
        assert!(why.ends_with("; eth0: entity not found"), "{why}");
        assert!(
            here("empty")
                .unwrap_err()
                .ends_with("; empty has no address")
        );
    }

    #[test]
    fn any_and_names_among_ranges() {
        let read = ranges(of_the_test);
        let shown = |text: &str| {
            let (ranges, unknown) = read(text).unwrap();
            let ranges: Vec<String> = ranges.iter().map(Range::to_string).collect();
            (ranges.join(" "), unknown.join(" "))
        };
        let shown = |text: &str| {
            let (ranges, unknown) = shown(text);
            format!("{ranges} | {unknown}")
        };
        assert_eq!(shown("any"), "0.0.0.0/0 | ");
        assert_eq!(shown("Any, 10.1.2.3/8"), "0.0.0.0/0 10.0.0.0/8 | ");
        assert_eq!(shown("0/0, 0"), "0.0.0.0/0 0.0.0.0/32 | ");
        assert_eq!(
            shown("localhost,both,localhost"),
            "127.0.0.1/32 192.0.2.7/32 | "
        );
        assert_eq!(
            shown("gone, 10.0.0.1"),
            "10.0.0.1/32 | gone: entity not found"
        );
        assert_eq!(shown(""), " | ");
        for bad in [
            "10/8",
            "10.0.0.0/33",
            "10.0.0.0/255.0.0.0",
            "a_b/8",
            "::1",
            "1.2.3",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
