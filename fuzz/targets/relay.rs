//! What a relay reads besides media and its link: answers of name servers, what the kernel tells over netlink, and the ended
//! calls that a relay before it has kept.

use std::fs;

use mediaproxy::netlink::message::Messages;
use mediaproxy::netlink::{conntrack, nftables};
use mediaproxy::proto::link::FromRelay;
use mediaproxy::relay::rehearsal;
use mediaproxy::resolver::parse_srv;

use super::journal::{directory, segment};

/// An answer to a look-up of SRV records.
pub fn dns(data: &[u8]) {
    let Some(targets) = parse_srv(data) else {
        return;
    };
    // A name is 255 bytes at most (RFC 1035 section 2.3.4); one byte may take four to show.
    for target in &targets {
        assert!(!target.is_empty() && target.len() <= 4 * 255, "{target}");
    }
    // Each record takes at least a name, its fixed part and SRV's three numbers.
    assert!(targets.len() <= data.len() / 18);
}

/// A datagram of messages from netfilter: each through every reader.
pub fn netlink(data: &[u8]) {
    for message in Messages::new(data) {
        let Ok(message) = message else {
            return;
        };
        let _ = message.errno();
        let _ = conntrack::parse(&message);
        let _ = nftables::is_change_of(&message, "mediaproxy_40000");
        let (mut elements, mut rules) = (Vec::new(), Vec::new());
        let _ = nftables::parse_elements(&message, &mut elements);
        let _ = nftables::parse_rules(&message, &mut rules);
        // An element has a key of sixteen bytes in three attributes, a counter at least its name in two.
        assert!(elements.len() <= message.body.len() / 28);
        assert!(rules.len() <= message.body.len() / 16);
    }
}

/// The spool of a relay before this one, each line with its checksum: what is open is a line for a dispatcher, and the same
/// at the next start.
pub fn spool(data: &[u8]) {
    const FIRST_PORT: u16 = 40_000;
    let (segment, _) = segment(data);
    let state_dir = directory();
    let directory = state_dir.join(format!("relay-{FIRST_PORT}"));
    fs::create_dir_all(&directory).expect("a directory");
    fs::write(directory.join("0000000001.journal"), segment).expect("a segment");
    let open = || rehearsal::spool(&state_dir, FIRST_PORT).expect("it opens whatever is in it");
    let first = open();
    assert!(first.len() <= data.split(|b| *b == b'\n').count());
    for line in &first {
        let line = line.strip_suffix(b"\r\n").expect("a line");
        let is_told = matches!(
            FromRelay::parse(line),
            FromRelay::Expired(_) | FromRelay::Removed(_)
        );
        assert!(is_told, "{}", String::from_utf8_lossy(line));
    }
    assert_eq!(open(), first, "read again");
    fs::remove_dir_all(state_dir).expect("it goes");
}
