//! What speaks for a source of packets: whether the party's SDP, its SIP messages or an ICE check say that this is
//! where it is (E1). Does not look at the packets.

use std::net::{IpAddr, SocketAddr};

/// How much speaks for a source, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Nothing.
    Other,
    /// The SDP's address with another port, or the address that the party's SIP comes from.
    Near,
    /// The other party has answered its ICE check with success, through this port.
    Proven,
    /// Precisely what the party's SDP names.
    Exact,
}

impl Rank {
    /// In a word for people.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Rank::Other => "other",
            Rank::Near => "near",
            Rank::Proven => "ice",
            Rank::Exact => "exact",
        }
    }

    /// Returns true if a learned source that has fallen silent gives way to one of this rank. A phone with ICE chooses among
    /// the paths that it has proven, and its SDP names one of them.
    pub(super) fn replaces(self, learned: Rank) -> bool {
        self > learned || self == Rank::Proven && learned >= Rank::Proven
    }
}

/// Where SIP and SDP say that a party is, for one of its components.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evidence {
    /// What its SDP names; for RTCP the port above. None where that is the relay itself.
    pub named: Option<SocketAddr>,
    /// Where its SIP came from, the latest first.
    pub signaling: [Option<IpAddr>; 2],
    /// For RTCP: where RTP is heard from, and what speaks for that (E7).
    pub rtp: Option<(SocketAddr, Rank)>,
}

impl Evidence {
    /// What speaks for a source, ICE apart.
    pub(super) fn rank(&self, from: SocketAddr) -> Rank {
        if self.named == Some(from) {
            return Rank::Exact;
        }
        let near = match self.rtp {
            Some((rtp, rank)) if rtp.ip() == from.ip() => return rank.max(Rank::Near),
            Some(_) => false,
            None => {
                self.named.is_some_and(|named| named.ip() == from.ip())
                    || self.signaling.contains(&Some(from.ip()))
            }
        };
        if near { Rank::Near } else { Rank::Other }
    }

    /// Why a source has its rank, in words for people.
    pub(super) fn why(&self, from: SocketAddr) -> &'static str {
        match self.rank(from) {
            Rank::Exact if self.named == Some(from) => "its SDP names it",
            Rank::Other => "neither its SDP nor its SIP comes from there",
            _ if self.rtp.is_some() => "its RTP comes from there",
            _ if self.named.is_some_and(|named| named.ip() == from.ip()) => {
                "its SDP names this address with another port"
            }
            _ => "its SIP comes from this address",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn e1_what_sdp_and_sip_say_ranks_a_source() {
        let evidence = Evidence {
            named: Some(at("192.0.2.1:4000")),
            signaling: [Some([192, 0, 2, 9].into()), Some([192, 0, 2, 8].into())],
            rtp: None,
        };
        let ranks = [
            ("192.0.2.1:4000", Rank::Exact),
            ("192.0.2.1:4001", Rank::Near),
            ("192.0.2.9:1", Rank::Near),
            ("192.0.2.8:1", Rank::Near),
            ("192.0.2.7:4000", Rank::Other),
        ];
        for (from, rank) in ranks {
            assert_eq!(evidence.rank(at(from)), rank, "{from}");
        }
        assert_eq!(Evidence::default().rank(at("192.0.2.1:1")), Rank::Other);
    }

    #[test]
    fn e7_rtcp_is_where_rtp_is() {
        let evidence = Evidence {
            named: Some(at("192.0.2.1:4001")),
            signaling: [Some([192, 0, 2, 9].into()), None],
            rtp: Some((at("203.0.113.5:700"), Rank::Other)),
        };
        assert_eq!(evidence.rank(at("192.0.2.1:4001")), Rank::Exact);
        assert_eq!(evidence.rank(at("203.0.113.5:701")), Rank::Near);
        assert_eq!(evidence.rank(at("192.0.2.9:701")), Rank::Other);
        assert_eq!(evidence.rank(at("192.0.2.1:4003")), Rank::Other);
    }

    #[test]
    fn e4_who_gives_way_to_whom() {
        use Rank::{Exact, Near, Other, Proven};
        let all = [Other, Near, Proven, Exact];
        let given: Vec<_> = all
            .iter()
            .flat_map(|&new| all.iter().map(move |&old| (new, old)))
            .filter(|(new, old)| new.replaces(*old))
            .collect();
        let want = [
            (Near, Other),
            (Proven, Other),
            (Proven, Near),
            (Proven, Proven),
            (Proven, Exact),
            (Exact, Other),
            (Exact, Near),
            (Exact, Proven),
        ];
        assert_eq!(given, want);
    }
}
