//! ICE connectivity checks on their way through a port: who asked, so that the answer goes back there and nowhere else
//! (E5). Does not know whom to believe.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::moment::Moment;
use crate::proto::saved::is_usual;

/// Checks that wait for their answers.
const OPEN_CHECKS: usize = 8;
/// One that was not answered for so long never is (RFC 8489 section 6.2.1: 39.5 s at most, phones give up sooner).
const CHECK_EXPIRY: Duration = Duration::from_secs(10);
/// From sources that nothing speaks for, so many checks are passed on at once, and then so many a second.
const STRANGE_BURST: u32 = 16;
const STRANGE_EVERY: Duration = Duration::from_millis(20);

/// A STUN message's 96 bits of transaction.
pub(super) type Transaction = [u8; 12];

/// What a STUN message is in ICE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StunMessage {
    Request(Transaction),
    /// True for success.
    Response(Transaction, bool),
    /// An indication, or another method than binding.
    Other,
}

/// Reads the head of what is STUN.
pub(super) fn message(data: &[u8]) -> StunMessage {
    let transaction = data.get(8..20).and_then(|id| id.try_into().ok());
    match (data.get(..2), transaction) {
        (Some([0, 1]), Some(id)) => StunMessage::Request(id),
        (Some([1, 1]), Some(id)) => StunMessage::Response(id, true),
        (Some([1, 0x11]), Some(id)) => StunMessage::Response(id, false),
        _ => StunMessage::Other,
    }
}

/// A check that may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct OpenCheck {
    id: Transaction,
    from: SocketAddr,
    at: Moment,
    /// Nothing speaks for who asked.
    #[serde(default, skip_serializing_if = "is_usual")]
    is_strange: bool,
}

/// The open checks of one port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Checks {
    open: Vec<OpenCheck>,
    /// Until when the checks of strangers that were passed on are paid for.
    paid: Moment,
}

impl Checks {
    /// A request goes on to the other party. A stranger's takes the place of no check that something speaks for.
    pub(super) fn note(
        &mut self,
        id: Transaction,
        from: SocketAddr,
        is_strange: bool,
        now: Moment,
    ) {
        let is_kept = |open: &OpenCheck| is_strange && !open.is_strange;
        self.open
            .retain(|open| now < open.at + CHECK_EXPIRY && (open.id != id || is_kept(open)));
        if self.open.iter().any(|open| open.id == id) {
            return;
        }
        if self.open.len() == OPEN_CHECKS {
            let strange = self.open.iter().position(|open| open.is_strange);
            match strange.or((!is_strange).then_some(0)) {
                Some(oldest) => drop(self.open.remove(oldest)),
                None => return,
            }
        }
        self.open.push(OpenCheck {
            id,
            from,
            at: now,
            is_strange,
        });
    }

    /// Who asked. An answer may come twice, as the request may.
    pub(super) fn asker(&self, transaction: Transaction, now: Moment) -> Option<SocketAddr> {
        let open = self.open.iter().filter(|open| now < open.at + CHECK_EXPIRY);
        let mut found = open.filter(|open| open.id == transaction);
        found.next().map(|open| open.from)
    }

    /// Returns true if one more check of a stranger may be passed on: the other party must not be flooded.
    pub(super) fn may_pass(&mut self, now: Moment) -> bool {
        let paid = self.paid.max(now) + STRANGE_EVERY;
        let may = paid <= now + STRANGE_EVERY * STRANGE_BURST;
        if may {
            self.paid = paid;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Moment = Moment::after_start(Duration::from_secs(100));

    fn at(port: u16) -> SocketAddr {
        SocketAddr::new([192, 0, 2, 1].into(), port)
    }

    #[test]
    fn e5_an_answer_finds_who_asked() {
        let mut checks = Checks::default();
        for n in 0..9 {
            checks.note([n; 12], at(u16::from(n)), false, T);
        }
        assert_eq!(checks.asker([0; 12], T), None, "the oldest went");
        assert_eq!(checks.asker([1; 12], T), Some(at(1)));
        assert_eq!(checks.asker([1; 12], T + CHECK_EXPIRY), None);
        checks.note([1; 12], at(99), false, T);
        assert_eq!(checks.asker([1; 12], T), Some(at(99)), "asked again");
        assert_eq!(checks.asker([2; 12], T), Some(at(2)));
    }

    #[test]
    fn e5_a_strangers_checks_push_out_no_others() {
        let mut checks = Checks::default();
        for n in 0..6 {
            checks.note([n; 12], at(u16::from(n)), false, T);
        }
        for n in 10..100 {
            checks.note([n; 12], at(9), true, T);
        }
        assert_eq!(checks.asker([99; 12], T), Some(at(9)));
        checks.note([0; 12], at(9), true, T);
        for n in [6, 7] {
            checks.note([n; 12], at(u16::from(n)), false, T);
        }
        checks.note([100; 12], at(9), true, T);
        for n in 0..8 {
            assert_eq!(checks.asker([n; 12], T), Some(at(u16::from(n))), "{n}");
        }
        assert_eq!(checks.asker([100; 12], T), None);
    }

    #[test]
    fn e5_checks_of_strangers_are_passed_on_slowly() {
        let mut checks = Checks::default();
        let passed = (0..1000).filter(|_| checks.may_pass(T)).count();
        assert_eq!(passed, 16);
        let passed = (0..1000).filter(|n| checks.may_pass(T + Duration::from_millis(*n)));
        assert_eq!(passed.count(), 49);
    }

    #[test]
    fn messages_by_their_heads() {
        let stun = |kind: [u8; 2]| {
            let mut data = vec![7; 28];
            data[..2].copy_from_slice(&kind);
            message(&data)
        };
        assert_eq!(stun([0, 1]), StunMessage::Request([7; 12]));
        assert_eq!(stun([1, 1]), StunMessage::Response([7; 12], true));
        assert_eq!(stun([1, 0x11]), StunMessage::Response([7; 12], false));
        assert_eq!(stun([0, 0x11]), StunMessage::Other);
        assert_eq!(message(&[0, 1, 0]), StunMessage::Other);
    }
}
