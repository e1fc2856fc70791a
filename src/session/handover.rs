//! Whether one component is forwarded by the kernel, and when it is offered to it again (M4). Does not know what it
//! carries.

use std::time::Duration;

use super::Installed;

/// A flow that the kernel could not take is offered again after this time, then after twice as long, and so on.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest of these times.
const LONGEST_WAIT: Duration = Duration::from_secs(64);

/// Datagrams that were queued when the kernel took over are read within this time.
const QUEUED: Duration = Duration::from_secs(1);
/// Packets that come for so long and so many although the kernel has the flow: it never sees them.
const BYPASSED_FOR: Duration = Duration::from_secs(2);
const BYPASSED: u32 = 10;
/// After a gap of this length they are counted anew.
const GAP: Duration = Duration::from_secs(1);

/// Why the kernel does not forward a component that both parties use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A party is on the relay's own host: such packets take another way through the kernel.
    OwnHost,
    /// A request to it failed.
    Refused,
    /// Media of others enters it at the moment and does not leave.
    Suspended,
    /// This flow's packets entered it and did not leave.
    Stuck,
    /// It has had the flow, and packets never reached its entry.
    Bypassed,
}

impl Obstacle {
    /// In words for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Obstacle::OwnHost => "a party is on the relay's own host",
            Obstacle::Refused => {
                "the kernel refused it, and the relay's log has the reason (a flow stays in user space: ...)"
            }
            Obstacle::Suspended => "media enters the kernel at the moment and does not leave",
            Obstacle::Stuck => "its packets entered the kernel and did not leave",
            Obstacle::Bypassed => "its packets do not reach the kernel's entry",
        }
    }
}

/// Who forwards a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    UserSpace,
    /// The kernel was asked to; packets may come here still.
    Installing,
    /// The kernel does, from this time on.
    Kernel(Duration),
    /// The kernel could not; it is asked again at this time, or where that is none, when a party has moved.
    Refused(Obstacle, Option<Duration>),
}

/// One component's way to the kernel and back.
#[derive(Debug)]
pub struct Handover {
    pub path: Path,
    /// How often it was offered.
    pub turn: u32,
    /// How often it was refused in a row.
    refusals: u32,
    /// Packets that came here although the kernel has the flow: first, last, how many.
    bypassing: Option<(Duration, Duration, u32)>,
}

impl Handover {
    pub fn new() -> Handover {
        Handover {
            path: Path::UserSpace,
            turn: 0,
            refusals: 0,
            bypassing: None,
        }
    }

    /// Whether the kernel may be asked now.
    pub fn may_offer(&self, now: Duration) -> bool {
        match self.path {
            Path::UserSpace => true,
            Path::Refused(_, again) => again.is_some_and(|again| again <= now),
            Path::Installing | Path::Kernel(_) => false,
        }
    }

    /// It is offered to the kernel; the number of this turn.
    pub fn offer(&mut self) -> u32 {
        self.path = Path::Installing;
        self.turn = self.turn.wrapping_add(1);
        self.turn
    }

    /// The kernel's answer to the offer.
    pub fn on_answer(&mut self, answer: Installed, now: Duration) {
        if self.path != Path::Installing {
            return;
        }
        self.bypassing = None;
        self.path = match answer {
            Installed::Taken => {
                self.refusals = 0;
                Path::Kernel(now)
            }
            Installed::NotNow => self.refused(Obstacle::Refused, now),
            Installed::Suspended => self.refused(Obstacle::Suspended, now),
            Installed::Never => Path::Refused(Obstacle::OwnHost, None),
        };
    }

    fn refused(&mut self, why: Obstacle, now: Duration) -> Path {
        let wait = FIRST_WAIT.saturating_mul(1 << self.refusals.min(16));
        self.refusals += 1;
        Path::Refused(why, Some(now + wait.min(LONGEST_WAIT)))
    }

    /// A party's packet came to user space. True when the kernel has this flow and nevertheless does not see it.
    pub fn is_bypassed(&mut self, now: Duration) -> bool {
        let Path::Kernel(since) = self.path else {
            return false;
        };
        if now < since + QUEUED {
            return false;
        }
        let (first, count) = match self.bypassing {
            Some((first, last, count)) if now < last + GAP => (first, count + 1),
            _ => (now, 1),
        };
        self.bypassing = Some((first, now, count));
        count >= BYPASSED && now >= first + BYPASSED_FOR
    }

    /// The kernel has lost it: it is offered again at once, or where something is in the way, not in this call.
    pub fn lose(&mut self, obstacle: Option<Obstacle>) {
        self.path = match obstacle {
            None => Path::UserSpace,
            Some(why) => Path::Refused(why, None),
        };
    }

    /// User space has it again, whoever had it; true when it has to be withdrawn from the kernel. What hindered
    /// the kernel is forgotten.
    pub fn take_back(&mut self) -> bool {
        let path = std::mem::replace(&mut self.path, Path::UserSpace);
        self.refusals = 0;
        matches!(path, Path::Installing | Path::Kernel(_))
    }

    /// What it relays is known from the kernel's counters only.
    pub fn is_in_kernel(&self) -> bool {
        matches!(self.path, Path::Kernel(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_secs(100);

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn taken() -> Handover {
        let mut handover = Handover::new();
        handover.offer();
        handover.on_answer(Installed::Taken, T);
        handover
    }

    #[test]
    fn a_refused_flow_is_offered_again_after_longer_and_longer_times() {
        let mut handover = Handover::new();
        let mut now = T;
        for wait in [1, 2, 4, 8, 16, 32, 64, 64] {
            assert!(handover.may_offer(now));
            handover.offer();
            handover.on_answer(Installed::NotNow, now);
            now += Duration::from_secs(wait);
            assert!(!handover.may_offer(now - millis(1)), "{wait}");
        }
        handover.offer();
        handover.on_answer(Installed::Never, now);
        assert!(!handover.may_offer(now * 2));
        assert!(!handover.take_back(), "nothing to withdraw");
        assert!(handover.may_offer(now));
    }

    #[test]
    fn an_answer_to_an_offer_that_was_taken_back_changes_nothing() {
        let mut handover = Handover::new();
        handover.offer();
        assert!(handover.take_back());
        handover.on_answer(Installed::Taken, T);
        assert_eq!(handover.path, Path::UserSpace);
    }

    #[test]
    fn packets_that_keep_coming_here_show_that_the_kernel_does_not_see_them() {
        let mut handover = taken();
        for at in (0..1000).step_by(20) {
            assert!(!handover.is_bypassed(T + millis(at)), "they were queued");
        }
        for at in (1000..3000).step_by(20) {
            assert!(!handover.is_bypassed(T + millis(at)), "{at}");
        }
        assert!(handover.is_bypassed(T + millis(3000)));
    }

    #[test]
    fn now_and_then_a_packet_here_is_no_sign_of_anything() {
        let mut handover = taken();
        for second in 1..1000 {
            assert!(!handover.is_bypassed(T + Duration::from_secs(second)));
        }
        assert!(!Handover::new().is_bypassed(T));
    }
}
