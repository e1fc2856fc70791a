//! What a relay reads of the network besides media and its link: answers of name servers.

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
