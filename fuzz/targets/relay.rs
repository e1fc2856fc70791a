//! What a relay reads besides media and its link: answers of name servers, and what the kernel tells over netlink.

use mediaproxy::netlink::wire::Messages;
use mediaproxy::netlink::{conntrack, nftables};
use mediaproxy::relay::discovery::parse_srv;

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
