//! Sources that nothing speaks for but the way they send: the last few of one port, and whether one of them behaves
//! like a stream (E3). Decides nothing.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::moment::Moment;

/// Remembered for one port.
const CANDIDATES_KEPT: usize = 8;
/// A stream has no longer gaps. Who sends to all ports of a range in turn is not at each that often.
const STREAM_GAP: Duration = Duration::from_millis(150);
/// A stream has so many packets.
const STREAM_PACKETS: u32 = 5;
/// Sequence numbers advance by so much at most.
const SEQUENCE_STEP: i16 = 10;
/// So many connectivity checks are as good, with longer gaps (RFC 8445 section 14.3 sends them again after 500 ms).
const ENOUGH_CHECKS: u32 = 3;
const CHECK_GAP: Duration = Duration::from_millis(1200);

/// What one packet shows of the stream that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mark {
    Rtp {
        ssrc: u32,
        sequence: u16,
    },
    /// T.38 has no SSRC (ITU-T T.38 section 9.1).
    Udptl {
        sequence: u16,
    },
    /// A medium of which nothing is known.
    Plain,
    /// A connectivity check.
    Check,
}

impl Mark {
    /// The longest time between two packets of one stream of this kind.
    fn gap(self) -> Duration {
        match self {
            Mark::Check => CHECK_GAP,
            _ => STREAM_GAP,
        }
    }

    /// By how much the other's sequence number is ahead; none where it is another stream's.
    pub(super) fn ahead(self, later: Mark) -> Option<i16> {
        match (self, later) {
            (
                Mark::Rtp { ssrc, sequence },
                Mark::Rtp {
                    ssrc: other,
                    sequence: next,
                },
            ) if ssrc == other => Some(next.wrapping_sub(sequence) as i16),
            (Mark::Udptl { sequence }, Mark::Udptl { sequence: next }) => {
                Some(next.wrapping_sub(sequence) as i16)
            }
            (Mark::Plain, Mark::Plain) | (Mark::Check, Mark::Check) => Some(1),
            _ => None,
        }
    }
}

/// One source.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Candidate {
    pub address: SocketAddr,
    /// All its packets.
    pub packets: u64,
    mark: Mark,
    pub last: Moment,
    /// Since when it has been one stream, and its packets since.
    since: Moment,
    run: u32,
}

impl Candidate {
    fn new(address: SocketAddr, mark: Mark, now: Moment) -> Candidate {
        Candidate {
            address,
            packets: 1,
            mark,
            last: now,
            since: now,
            run: 1,
        }
    }

    fn hear(&mut self, mark: Mark, now: Moment) {
        self.packets += 1;
        match self
            .mark
            .ahead(mark)
            .filter(|_| now < self.last + mark.gap())
        {
            Some(1..=SEQUENCE_STEP) => {
                self.run += 1;
                self.mark = mark;
                self.last = now;
            }
            // Twice the same, or late by a little.
            Some(ahead) if (-SEQUENCE_STEP..=0).contains(&ahead) => {}
            _ => {
                let packets = self.packets;
                *self = Candidate::new(self.address, mark, now);
                self.packets = packets;
            }
        }
    }

    /// Returns true if it has been one stream for so long.
    pub(super) fn is_stream(&self, wait: Duration, now: Moment) -> bool {
        let least = match self.mark {
            Mark::Check => ENOUGH_CHECKS,
            _ => STREAM_PACKETS,
        };
        self.run >= least && now >= self.since + wait
    }

    /// Why it is not believed, for people.
    pub(super) fn why(&self) -> String {
        match (self.mark, self.run) {
            (Mark::Check, _) => "only STUN has come from it".to_owned(),
            (_, run) if run < STREAM_PACKETS => {
                format!("{run} of the {STREAM_PACKETS} packets in a row that make a stream")
            }
            (_, run) => format!("a stream of {run} packets that nothing speaks for"),
        }
    }

    /// Returns true if it may still become a stream.
    fn is_running(&self, now: Moment) -> bool {
        self.run > 1 && now < self.last + self.mark.gap()
    }
}

/// The last few sources of one port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Candidates(Vec<Candidate>);

impl Candidates {
    /// A packet of a source that is not believed; what it has shown so far.
    pub(super) fn hear(&mut self, from: SocketAddr, mark: Mark, now: Moment) -> Candidate {
        let known = self.0.iter_mut().find(|one| one.address == from);
        if let Some(candidate) = known {
            candidate.hear(mark, now);
            return *candidate;
        }
        let new = Candidate::new(from, mark, now);
        if self.0.len() < CANDIDATES_KEPT {
            self.0.push(new);
            return new;
        }
        // Single packets of many sources must not make a stream forgotten.
        let least = self
            .0
            .iter_mut()
            .min_by_key(|one| (one.is_running(now), one.last));
        if let Some(least) = least.filter(|one| !one.is_running(now)) {
            *least = new;
        }
        new
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.0.iter()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn forget(&mut self, address: SocketAddr) {
        self.0.retain(|one| one.address != address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Moment = Moment::after_start(Duration::from_secs(100));
    const WAIT: Duration = Duration::from_millis(300);

    fn at(port: u16) -> SocketAddr {
        SocketAddr::new([192, 0, 2, 1].into(), port)
    }

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn rtp(ssrc: u32, sequence: u16) -> Mark {
        Mark::Rtp { ssrc, sequence }
    }

    /// Returns true if a source becomes a stream within 100 packets, and after how many.
    fn qualifies(every: Duration, mark: impl Fn(u16) -> Mark) -> Option<u16> {
        let mut candidates = Candidates::default();
        (0..100).find(|&n| {
            let now = T + every * u32::from(n);
            candidates.hear(at(1), mark(n), now).is_stream(WAIT, now)
        })
    }

    #[test]
    fn e3_one_stream_for_a_while() {
        assert_eq!(qualifies(millis(20), |n| rtp(7, n)), Some(15));
        let around_zero = |n: u16| rtp(7, n.wrapping_sub(5));
        assert_eq!(qualifies(millis(20), around_zero), Some(15));
        assert_eq!(qualifies(millis(60), |n| rtp(7, n)), Some(5));
        assert_eq!(qualifies(millis(100), |n| rtp(7, n)), Some(4), "5 packets");
        assert_eq!(qualifies(millis(20), |n| rtp(u32::from(n), n)), None);
        assert_eq!(qualifies(millis(20), |n| rtp(7, n * 11)), None);
        assert_eq!(qualifies(millis(20), |_| rtp(7, 9)), None, "the same");
        let udptl = |sequence| Mark::Udptl { sequence };
        assert_eq!(qualifies(millis(20), udptl), Some(15));
        assert_eq!(qualifies(millis(20), |_| Mark::Plain), Some(15));
    }

    #[test]
    fn why_it_is_not_believed_says_what_it_lacks() {
        let mut candidates = Candidates::default();
        let why: Vec<String> = (0..6)
            .map(|n| {
                candidates
                    .hear(at(1), rtp(7, n), T + millis(20) * u32::from(n))
                    .why()
            })
            .collect();
        assert_eq!(why[3], "4 of the 5 packets in a row that make a stream");
        assert_eq!(why[4], "a stream of 5 packets that nothing speaks for");
        let check = candidates.hear(at(2), Mark::Check, T);
        assert_eq!(check.why(), "only STUN has come from it");
    }

    #[test]
    fn e3_who_sprays_a_range_is_no_stream_at_any_port_of_it() {
        for every in [250, 400, 800, 1200] {
            assert_eq!(qualifies(millis(every), |n| rtp(7, n)), None, "{every}");
            assert_eq!(qualifies(millis(every), |_| Mark::Plain), None, "{every}");
        }
    }

    #[test]
    fn e3_a_stream_survives_reordering_and_doubles() {
        let mut candidates = Candidates::default();
        let order = [0, 2, 1, 3, 3, 5, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        let last = order.iter().enumerate().map(|(n, &sequence)| {
            let now = T + millis(20) * n as u32;
            candidates
                .hear(at(1), rtp(7, sequence), now)
                .is_stream(WAIT, now)
        });
        assert!(last.last().unwrap());
    }

    #[test]
    fn e3_a_flood_of_sources_does_not_push_a_stream_out() {
        let mut candidates = Candidates::default();
        let mut found = false;
        for n in 0..20_u16 {
            let now = T + millis(20) * u32::from(n);
            found |= candidates.hear(at(1), rtp(7, n), now).is_stream(WAIT, now);
            // The second packet of the stream must find the first one there.
            for other in 0..if n == 0 { 7 } else { 1000 } {
                candidates.hear(at(1000 + n + other), rtp(9, 0), now + millis(1));
            }
        }
        assert!(found);
        assert_eq!(candidates.iter().count(), CANDIDATES_KEPT);
    }
}
