//! Tests of discovery with scripted name servers, and of the packets that real ones send.

use super::*;

/// Answers from tables; what is not in them does not exist.
#[derive(Default)]
struct Script {
    srv: BTreeMap<String, Result<Vec<String>, Failure>>,
    hosts: BTreeMap<String, Vec<IpAddr>>,
}

impl Script {
    fn host(&mut self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        self.hosts.insert(name.to_owned(), addresses);
    }

    fn srv(&mut self, domain: &str, targets: &[&str]) {
        let targets = targets.iter().map(|t| (*t).to_owned()).collect();
        self.srv.insert(format!("_sip._udp.{domain}"), Ok(targets));
    }

    fn silence(&mut self, domain: &str) {
        let name = format!("_sip._udp.{domain}");
        self.srv.insert(name, Err(Failure::TryAgain));
        self.hosts.remove(domain);
    }
}

impl Resolver for Script {
    fn srv_targets(&mut self, name: &str) -> Result<Vec<String>, Failure> {
        let known = self.srv.get(name).cloned();
        known.unwrap_or(Err(Failure::NoSuchRecord))
    }

    fn addresses(&mut self, host: &str) -> Result<Vec<IpAddr>, String> {
        self.hosts
            .get(host)
            .cloned()
            .ok_or("no such host".to_owned())
    }
}

fn directory(names: &[&str]) -> Directory {
    let target = |name: &&str| DispatcherEntry {
        host: match name.parse() {
            Ok(address) => Host::Address(address),
            Err(_) => Host::Name((*name).to_owned()),
        },
        port: 25060,
    };
    Directory::new(&names.iter().map(target).collect::<Vec<_>>())
}

fn found(directory: &Directory) -> Vec<String> {
    let all = directory.dispatchers();
    all.keys().map(SocketAddr::to_string).collect()
}

#[test]
fn addresses_need_no_name_server() {
    let directory = directory(&["192.0.2.1", "2001:db8::1"]);
    assert!(directory.is_fixed());
    assert_eq!(
        found(&directory),
        ["192.0.2.1:25060", "[2001:db8::1]:25060"]
    );
}

#[test]
fn srv_records_win_and_their_targets_alone_count() {
    let mut script = Script::default();
    script.host("example.com", &["192.0.2.80"]);
    script.host("one.example.com", &["192.0.2.1"]);
    script.host("two.example.com", &["192.0.2.2", "2001:db8::2"]);
    script.srv("example.com", &["one.example.com", "two.example.com"]);
    let mut directory = directory(&["example.com"]);
    assert!(!directory.is_fixed());
    directory.refresh(&mut script);
    assert_eq!(found(&directory), ["192.0.2.1:25060", "192.0.2.2:25060"]);
}

#[test]
fn a_host_name_is_its_addresses() {
    let mut script = Script::default();
    script.host("one", &["192.0.2.1", "192.0.2.2"]);
    script.host("six", &["2001:db8::2"]);
    let mut directory = directory(&["one", "six", "192.0.2.1"]);
    directory.refresh(&mut script);
    let expected = ["192.0.2.1:25060", "192.0.2.2:25060", "[2001:db8::2]:25060"];
    assert_eq!(found(&directory), expected);
    script.host("one", &["192.0.2.9"]);
    directory.refresh(&mut script);
    assert!(!found(&directory).contains(&"192.0.2.2:25060".to_owned()));
}

#[test]
fn failing_name_servers_drop_nothing() {
    let mut script = Script::default();
    script.srv("example.com", &["one"]);
    script.host("one", &["192.0.2.1"]);
    let mut directory = directory(&["example.com"]);
    directory.refresh(&mut script);
    let known = found(&directory);
    // Its web server is no dispatcher, only because SRV records cannot be asked for.
    script.silence("example.com");
    script.host("example.com", &["192.0.2.80"]);
    directory.refresh(&mut script);
    assert_eq!(found(&directory), known);
    script.srv("example.com", &["one", "two"]);
    directory.refresh(&mut script);
    assert_eq!(found(&directory), known, "half of an answer");
    script.srv.clear();
    script.hosts.clear();
    directory.refresh(&mut script);
    assert_eq!(found(&directory), known, "no such name");
}

#[test]
fn a_target_that_is_gone_keeps_nobody_from_the_others() {
    let mut script = Script::default();
    script.srv("example.com", &["gone", "one"]);
    script.host("one", &["192.0.2.1"]);
    let mut directory = directory(&["example.com"]);
    directory.refresh(&mut script);
    assert_eq!(found(&directory), ["192.0.2.1:25060"]);
    script.srv("example.com", &["two", "gone"]);
    script.host("two", &["192.0.2.2"]);
    directory.refresh(&mut script);
    let both = ["192.0.2.1:25060", "192.0.2.2:25060"];
    assert_eq!(found(&directory), both, "which one is gone is not certain");
    script.srv("example.com", &["two"]);
    directory.refresh(&mut script);
    assert_eq!(found(&directory), ["192.0.2.2:25060"]);
}

#[test]
fn a_name_of_the_hosts_file_works_without_name_servers() {
    let mut script = Script::default();
    script.silence("relayhost");
    script.host("relayhost", &["192.0.2.1"]);
    let mut directory = directory(&["relayhost"]);
    directory.refresh(&mut script);
    assert_eq!(found(&directory), ["192.0.2.1:25060"]);
}

#[test]
fn localhost_is_found_by_the_system() {
    let addresses = SystemResolver.addresses("localhost").unwrap();
    assert!(addresses.iter().all(IpAddr::is_loopback) && !addresses.is_empty());
}

/// An answer with SRV records as a name server sends it, compressed names included.
fn srv_answer() -> Vec<u8> {
    let mut answer = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0];
    answer.extend_from_slice(b"\x04_sip\x04_udp\x07example\x03com\x00\x00\x21\x00\x01");
    for (name, port) in [(&b"\x03one"[..], 5060u16), (&b"\x03two"[..], 5070)] {
        answer.extend_from_slice(&[0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 12]);
        answer.extend_from_slice(&[0, 1, 0, 1]);
        answer.extend_from_slice(&port.to_be_bytes());
        answer.extend_from_slice(name);
        // "example.com" begins at 22.
        answer.extend_from_slice(&[0xc0, 22]);
    }
    answer
}

#[test]
fn srv_answers_are_read_and_cut_ones_never_panic() {
    let answer = srv_answer();
    let expected = ["one.example.com".to_owned(), "two.example.com".to_owned()];
    assert_eq!(parse_srv(&answer).unwrap(), expected);
    for end in 0..answer.len() {
        let cut = parse_srv(&answer[..end]);
        assert!(cut.is_none_or(|targets| targets.len() < 2), "{end}");
    }
    for index in 12..answer.len() {
        let mut broken = answer.clone();
        broken[index] = 0xff;
        let _ = parse_srv(&broken);
    }
}

#[test]
fn a_target_of_the_root_is_no_service() {
    let mut answer = vec![0x12, 0x34, 0x81, 0x80, 0, 0, 0, 1, 0, 0, 0, 0];
    answer.extend_from_slice(b"\x01x\x00\x00\x21\x00\x01\x00\x00\x00\x3c\x00\x07");
    answer.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(parse_srv(&answer), Some(Vec::new()));
}
