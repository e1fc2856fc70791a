//! Tells STUN, RTP and RTCP apart by their first bytes (RFC 7983, RFC 5761 section 4). Parses no further.

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// STUN with the magic cookie (RFC 8489 section 5).
    Stun,
    /// RTP (RFC 3550 section 5.1) and its payload type, 0 to 127.
    Rtp(u8),
    /// RTCP (RFC 3550 section 6.1), also where it shares the RTP port.
    Rtcp,
    /// Anything else that media ports carry: DTLS, UDPTL, keep-alives of one byte.
    Other,
}

const STUN_HEADER: usize = 20;
const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const RTP_HEADER: usize = 12;
const RTCP_HEADER: usize = 8;

/// Looks at the head of a datagram's payload; any length is fine.
pub fn classify(data: &[u8]) -> Kind {
    match data.first() {
        Some(first) if first >> 6 == 0 && is_stun(data) => Kind::Stun,
        Some(first) if first >> 6 == 2 => version_two(data),
        _ => Kind::Other,
    }
}

fn is_stun(data: &[u8]) -> bool {
    data.len() >= STUN_HEADER
        && data.get(4..8) == Some(&STUN_COOKIE[..])
        && data.get(3).is_some_and(|low| low % 4 == 0)
}

/// Version 2 of RTP or RTCP; the second byte decides (RFC 5761 section 4).
fn version_two(data: &[u8]) -> Kind {
    match data.get(1) {
        Some(192..=223) if data.len() >= RTCP_HEADER => Kind::Rtcp,
        Some(second) if data.len() >= RTP_HEADER => Kind::Rtp(second & 0x7f),
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(head: &[u8], len: usize) -> Vec<u8> {
        let mut data = head.to_vec();
        data.resize(len, 0);
        data
    }

    #[test]
    fn kinds_by_first_bytes() {
        let stun = packet(&[0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42], 28);
        assert_eq!(classify(&stun), Kind::Stun);
        assert_eq!(
            classify(&packet(&[0, 1, 0, 8], 28)),
            Kind::Other,
            "no cookie"
        );
        assert_eq!(classify(&stun[..19]), Kind::Other, "cut");
        assert_eq!(classify(&packet(&[0x80, 8], 172)), Kind::Rtp(8));
        assert_eq!(classify(&packet(&[0x80, 0x80 | 101], 16)), Kind::Rtp(101));
        assert_eq!(classify(&packet(&[0x80, 200], 28)), Kind::Rtcp);
        assert_eq!(classify(&packet(&[0x80, 8], 11)), Kind::Other, "short");
        assert_eq!(classify(&packet(&[22, 254, 253], 60)), Kind::Other, "DTLS");
        assert_eq!(classify(&[]), Kind::Other);
        assert_eq!(classify(&[0x80]), Kind::Other);
    }
}
