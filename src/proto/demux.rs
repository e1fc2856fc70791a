//! Tells STUN, DTLS, RTP and RTCP apart by their first bytes (RFC 7983, RFC 5761 section 4). Parses no further.

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// STUN with the magic cookie (RFC 8489 section 5).
    Stun,
    /// DTLS (RFC 7983 section 7): the keys of encrypted media.
    Dtls,
    Rtp(Rtp),
    /// RTCP (RFC 3550 section 6.1), also where it shares the RTP port.
    Rtcp,
    /// Anything else that media ports carry: UDPTL, keep-alives of one byte.
    Other,
}

/// What the header of an RTP packet (RFC 3550 section 5.1) says of the stream that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtp {
    /// 0 to 127.
    pub payload_type: u8,
    pub sequence: u16,
    pub ssrc: u32,
}

const STUN_HEADER: usize = 20;
const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const DTLS_HEADER: usize = 13;
const RTCP_HEADER: usize = 8;

/// Looks at the head of a datagram's payload; any length is fine.
pub fn classify(data: &[u8]) -> Kind {
    match data.first() {
        Some(first) if first >> 6 == 0 && is_stun(data) => Kind::Stun,
        Some(20..=63) if data.len() >= DTLS_HEADER => Kind::Dtls,
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
    match data {
        [_, 192..=223, ..] if data.len() >= RTCP_HEADER => Kind::Rtcp,
        [_, second, s0, s1, _, _, _, _, a, b, c, d, ..] => Kind::Rtp(Rtp {
            payload_type: second & 0x7f,
            sequence: u16::from_be_bytes([*s0, *s1]),
            ssrc: u32::from_be_bytes([*a, *b, *c, *d]),
        }),
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
        let rtp = |payload_type| {
            Kind::Rtp(Rtp {
                payload_type,
                sequence: 0x0102,
                ssrc: 0x0a0b_0c0d,
            })
        };
        let head = |second| [0x80, second, 1, 2, 9, 9, 9, 9, 10, 11, 12, 13];
        let stun = packet(&[0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42], 28);
        assert_eq!(classify(&stun), Kind::Stun);
        assert_eq!(
            classify(&packet(&[0, 1, 0, 8], 28)),
            Kind::Other,
            "no cookie"
        );
        assert_eq!(classify(&stun[..19]), Kind::Other, "cut");
        assert_eq!(classify(&packet(&head(8), 172)), rtp(8));
        assert_eq!(classify(&head(0x80 | 101)), rtp(101));
        assert_eq!(classify(&packet(&[0x80, 200], 28)), Kind::Rtcp);
        assert_eq!(classify(&packet(&[0x80, 8], 11)), Kind::Other, "short");
        assert_eq!(classify(&packet(&[22, 254, 253], 60)), Kind::Dtls);
        assert_eq!(classify(&packet(&[22, 254, 253], 12)), Kind::Other, "short");
        assert_eq!(classify(&packet(&[64, 254, 253], 60)), Kind::Other);
        assert_eq!(classify(&[]), Kind::Other);
        assert_eq!(classify(&[0x80]), Kind::Other);
    }
}
