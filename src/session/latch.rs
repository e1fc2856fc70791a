//! Learns a party's address on one relay port from what arrives there (latching, RFC 7362; symmetric RTP,
//! RFC 4961). Does not forward and does not know who the party is.

use std::net::SocketAddrV4;
use std::time::Duration;

/// After a reset the old source is not believed for so long: stragglers of it are still under way. If it
/// still sends then, it is the party after all (a NAT that kept its mapping).
pub const STRAGGLERS: Duration = Duration::from_secs(5);

/// How an address was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A connectivity check: the party may yet choose another path (M3).
    Stun,
    Media,
}

/// What one relay port has learned of the party that sends to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latch {
    learned: Option<(SocketAddrV4, By)>,
    /// The source before the reset, and until when it is refused.
    refused: Option<(SocketAddrV4, Duration)>,
}

/// Whether a packet is the party's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The known source.
    Known,
    /// This packet taught the address.
    Learned,
    /// Another source than the learned one (M2).
    WrongSource,
    /// The source of before a reset (M5).
    Straggler,
}

impl Latch {
    /// Judges a packet by its source; STUN teaches, too, but yields to media.
    pub fn on_packet(&mut self, from: SocketAddrV4, by: By, now: Duration) -> Verdict {
        match self.learned {
            Some((known, old)) if known == from => {
                if old == by || old == By::Media {
                    return Verdict::Known;
                }
            }
            Some((_, By::Media)) => return Verdict::WrongSource,
            Some((_, By::Stun)) | None => {}
        }
        if self
            .refused
            .is_some_and(|(old, until)| old == from && now < until)
        {
            return Verdict::Straggler;
        }
        self.learned = Some((from, by));
        if by == By::Media {
            // From now on it is one wrong source among others.
            self.refused = None;
        }
        Verdict::Learned
    }

    /// Where the party is, as far as it has shown.
    pub fn address(&self) -> Option<SocketAddrV4> {
        self.learned.map(|(address, _)| address)
    }

    /// The address from which media came; none while only STUN did.
    pub fn media_address(&self) -> Option<SocketAddrV4> {
        match self.learned {
            Some((address, By::Media)) => Some(address),
            _ => None,
        }
    }

    /// The party has moved: forget it, and do not take its stragglers for it.
    pub fn reset(&mut self, now: Duration) {
        if let Some((old, _)) = self.learned.take() {
            self.refused = Some((old, now + STRAGGLERS));
        }
    }

    /// The party fell silent: whoever sends next is learned.
    pub fn forget(&mut self) {
        *self = Latch::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new([192, 0, 2, 1].into(), port)
    }

    const T: Duration = Duration::from_secs(100);

    #[test]
    fn m2_the_first_source_of_media_stays() {
        let mut latch = Latch::default();
        assert_eq!(latch.on_packet(at(1), By::Media, T), Verdict::Learned);
        assert_eq!(latch.on_packet(at(1), By::Media, T), Verdict::Known);
        assert_eq!(latch.on_packet(at(2), By::Media, T), Verdict::WrongSource);
        assert_eq!(latch.on_packet(at(2), By::Stun, T), Verdict::WrongSource);
        assert_eq!(latch.on_packet(at(1), By::Stun, T), Verdict::Known);
        assert_eq!(latch.media_address(), Some(at(1)));
    }

    #[test]
    fn m3_stun_teaches_until_media_comes() {
        let mut latch = Latch::default();
        assert_eq!(latch.on_packet(at(1), By::Stun, T), Verdict::Learned);
        assert_eq!(latch.address(), Some(at(1)));
        assert_eq!(latch.media_address(), None);
        assert_eq!(latch.on_packet(at(2), By::Stun, T), Verdict::Learned);
        assert_eq!(latch.on_packet(at(3), By::Media, T), Verdict::Learned);
        assert_eq!(latch.on_packet(at(2), By::Stun, T), Verdict::WrongSource);
    }

    #[test]
    fn m5_stragglers_of_the_old_source_are_refused() {
        let mut latch = Latch::default();
        latch.on_packet(at(1), By::Media, T);
        latch.reset(T);
        assert_eq!(latch.on_packet(at(1), By::Media, T), Verdict::Straggler);
        assert_eq!(latch.on_packet(at(2), By::Media, T), Verdict::Learned);
        assert_eq!(latch.on_packet(at(1), By::Media, T), Verdict::WrongSource);
    }

    #[test]
    fn m5_a_party_that_did_not_move_is_found_again() {
        let mut latch = Latch::default();
        latch.on_packet(at(1), By::Media, T);
        latch.reset(T);
        let before = T + STRAGGLERS - Duration::from_millis(1);
        assert_eq!(
            latch.on_packet(at(1), By::Media, before),
            Verdict::Straggler
        );
        assert_eq!(
            latch.on_packet(at(1), By::Media, T + STRAGGLERS),
            Verdict::Learned
        );
    }

    #[test]
    fn m5_stragglers_are_refused_after_a_check_from_the_new_source() {
        let mut latch = Latch::default();
        latch.on_packet(at(1), By::Media, T);
        latch.reset(T);
        assert_eq!(latch.on_packet(at(2), By::Stun, T), Verdict::Learned);
        assert_eq!(latch.on_packet(at(1), By::Media, T), Verdict::Straggler);
        assert_eq!(latch.on_packet(at(2), By::Media, T), Verdict::Learned);
        assert_eq!(latch.on_packet(at(1), By::Media, T), Verdict::WrongSource);
    }

    #[test]
    fn a_reset_before_anything_was_learned_keeps_what_is_refused() {
        let mut latch = Latch::default();
        latch.on_packet(at(1), By::Media, T);
        latch.reset(T);
        latch.reset(T);
        assert_eq!(latch.on_packet(at(1), By::Media, T), Verdict::Straggler);
        latch.forget();
        assert_eq!(latch.on_packet(at(1), By::Media, T), Verdict::Learned);
    }
}
