//! How far a packet may still go (M11 in docs/protocol.md): a relay counts the TTL down as a router does, so that nothing goes
//! round for ever, whoever it is that sends it back: another call, another relay, a NAT.
//!
//! Where the kernel forwards, it does the same. A phone far away, whose packets come with few hops left, is to be heard
//! by one who is as far away on the other side. What goes round is told from that by what came before it: it came to
//! the same port with many more.

use std::time::Duration;

use crate::moment::Moment;

/// No packet passes more hosts than this.
const MOST_HOPS: u8 = 64;

/// With fewer left a packet may not reach everybody: few paths are longer.
const FEW_HOPS: u8 = 24;

/// Paths of one party do not differ by so many hosts.
const SPREAD_OF_PATHS: u8 = 16;

/// For how long it is known what came. A packet that goes round the world has used its hops up sooner.
const KNOWN_FOR: Duration = Duration::from_secs(10);

/// What has come to one port.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hops {
    /// The most that a packet had left.
    most: u8,
    /// When it came.
    at: Moment,
}

impl Hops {
    /// The TTL that a packet goes on with which came with this one; none where it has come round and has none left.
    pub(super) fn onward(&mut self, ttl: u8, now: Moment) -> Option<u8> {
        if ttl >= self.most || now >= self.at + KNOWN_FOR {
            self.most = ttl;
            self.at = now;
        }
        let is_from_far_away = ttl < FEW_HOPS && self.most - ttl < SPREAD_OF_PATHS;
        let left = if is_from_far_away {
            MOST_HOPS
        } else {
            ttl.min(MOST_HOPS)
        };
        left.checked_sub(1).filter(|&left| left > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Moment = Moment::after_start(Duration::from_secs(1000));

    /// How often one packet passes relays that lie on a circle, each so many hosts behind the one before it.
    fn rounds(relays: &mut [Hops], distance: u8, first: u8) -> usize {
        let (mut ttl, mut now) = (first, T);
        for passed in 0..10_000 {
            let relay = &mut relays[passed % 2];
            let Some(next) = relay.onward(ttl, now) else {
                return passed;
            };
            match next.checked_sub(distance) {
                Some(left) => ttl = left,
                None => return passed + 1,
            }
            now += Duration::from_millis(1 + 10 * u64::from(distance));
        }
        panic!("it goes round for ever: {first} at a distance of {distance}")
    }

    #[test]
    fn m11_nothing_goes_round_for_ever() {
        for first in 0..=255 {
            // Calls of one relay, relays of one network, relays far from each other.
            for distance in 0..20 {
                let mut relays = [Hops::default(); 2];
                let passed = rounds(&mut relays, distance, first);
                assert!(passed <= 128, "{first} at {distance}: {passed}");
                // The next ones, whatever they come with, while the first is remembered.
                let passed = rounds(&mut relays, distance, 64);
                assert!(passed <= 64, "{first} at {distance}: {passed}");
            }
        }
    }

    #[test]
    fn m11_a_party_is_heard_however_far_away() {
        for ttl in 1..=255 {
            let mut hops = Hops::default();
            let mut now = T;
            for _ in 0..1000 {
                let left = hops.onward(ttl, now).unwrap();
                assert!((FEW_HOPS - 1..MOST_HOPS).contains(&left), "{ttl}: {left}");
                // A route that changes a little changes nothing.
                assert!(hops.onward(ttl.saturating_sub(3).max(1), now).unwrap() >= FEW_HOPS - 4);
                now += Duration::from_millis(20);
            }
        }
    }

    #[test]
    fn m11_a_call_passes_several_relays() {
        for distance in 0..16 {
            let mut ttl = 64;
            for _ in 0..4 {
                ttl = Hops::default().onward(ttl - distance, T).unwrap();
            }
            assert!(ttl >= FEW_HOPS - 1, "{distance}: {ttl}");
        }
    }

    #[test]
    fn m11_what_came_long_ago_says_nothing_of_a_party_that_has_moved() {
        let mut hops = Hops::default();
        assert_eq!(hops.onward(60, T), Some(59));
        assert_eq!(hops.onward(5, T), Some(4));
        assert_eq!(hops.onward(5, T + KNOWN_FOR), Some(63));
        assert_eq!(hops.onward(1, T), Some(63), "the clock does not go back");
    }
}
