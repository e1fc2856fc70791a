//! Whether one component is forwarded by the kernel, and when it is offered to it again (M4). Does not know what it
//! carries.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::forwarding::{FlowEnd, Installed, Loss};
use crate::counters::Counters;
use crate::moment::Moment;
use crate::proto::saved::is_usual;
use crate::proto::{Party, PerParty};

/// A flow that the kernel could not take is offered again after this time, then after twice as long, and so on.
const FIRST_REFUSAL_WAIT: Duration = Duration::from_secs(1);
/// The longest of these times.
const LONGEST_REFUSAL_WAIT: Duration = Duration::from_secs(64);
/// The longest where one flow tries for all: an offer costs next to nothing then.
const LONGEST_SUSPENDED_WAIT: Duration = Duration::from_secs(8);

/// The same for a flow whose own packets did not leave: each new try may lose some.
const FIRST_TROUBLE_WAIT: Duration = Duration::from_secs(15);
const LONGEST_TROUBLE_WAIT: Duration = Duration::from_secs(600);
/// A flow that was well for so long begins with the first of these times again.
const STEADY_AFTER: Duration = Duration::from_secs(300);

/// Datagrams that were queued when the kernel took over are read within this time.
const QUEUED_FOR: Duration = Duration::from_secs(1);
/// Packets that come for so long and so many although the kernel has the flow: it never sees them.
const BYPASSED_FOR: Duration = Duration::from_secs(2);
const BYPASSED_PACKETS: u32 = 10;
/// After a gap of this length they are counted anew.
const BYPASS_GAP: Duration = Duration::from_secs(1);

/// Why the kernel does not forward a component that both parties use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Obstacle {
    /// A party is on the relay's own host: such packets take another way through the kernel.
    OwnHost,
    /// A request to it failed.
    Refused,
    /// Media of others enters it at the moment and does not leave.
    Suspended,
    /// This flow's packets entered it and did not leave, while others' did.
    Stuck,
    /// It has had the flow, and packets never reached its entry.
    Bypassed,
}

impl Obstacle {
    /// In words for people.
    pub(super) fn as_str(self) -> &'static str {
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MediaPath {
    #[default]
    UserSpace,
    /// The kernel was asked to; packets may come here still.
    Installing,
    /// The kernel does, from this time on.
    Kernel(Moment),
    /// The kernel could not; it is asked again at this time, or where that is none, when a party has moved.
    Refused(Obstacle, Option<Moment>),
}

impl MediaPath {
    /// What a kernel that forwards again may have mended, other than for a flow of its own trouble.
    fn is_waiting(self) -> bool {
        use Obstacle::{Bypassed, Refused, Suspended};
        matches!(self, MediaPath::Refused(Refused | Suspended | Bypassed, _))
    }
}

/// What the kernel has, or was asked to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HandedFlow {
    /// The hand-over's number, by which its news are known.
    pub turn: u32,
    pub ends: PerParty<FlowEnd>,
    /// What was told of it: a process that adopts it learns the rest.
    pub counted: PerParty<Counters>,
}

/// One component's way to the kernel and back.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Handover {
    #[serde(skip_serializing_if = "is_usual")]
    pub path: MediaPath,
    /// How often it was offered.
    #[serde(skip_serializing_if = "is_usual")]
    pub turn: u32,
    /// How often it was refused in a row, and since when it is.
    #[serde(skip_serializing_if = "is_usual")]
    refusals: u32,
    #[serde(skip_serializing_if = "is_usual")]
    refused: Moment,
    /// How often it was lost by trouble of its own, with no long good time in between.
    #[serde(skip_serializing_if = "is_usual")]
    troubles: u32,
    /// Packets that came here although the kernel has the flow: first, last, how many.
    #[serde(skip_serializing_if = "is_usual")]
    bypassing: Option<(Moment, Moment, u32)>,
    /// What the kernel has, and was asked to take as long as it has not answered.
    #[serde(skip_serializing_if = "is_usual")]
    flow: Option<Box<HandedFlow>>,
    /// What it is to give up, and has not yet.
    #[serde(skip_serializing_if = "is_usual")]
    leaving: Vec<HandedFlow>,
}

impl Handover {
    /// Returns true if the kernel may be asked now. From `welcome` on it forwards again what it could not before.
    pub(super) fn may_offer(&self, now: Moment, welcome: Moment) -> bool {
        let is_welcome = self.path.is_waiting() && self.refused < welcome && welcome <= now;
        match self.path {
            MediaPath::UserSpace => true,
            MediaPath::Refused(_, again) => is_welcome || again.is_some_and(|again| again <= now),
            MediaPath::Installing | MediaPath::Kernel(_) => false,
        }
    }

    /// It is offered to the kernel.
    pub(super) fn offer(&mut self, ends: PerParty<FlowEnd>) {
        self.path = MediaPath::Installing;
        self.turn = self.turn.wrapping_add(1);
        self.flow = Some(Box::new(HandedFlow {
            turn: self.turn,
            ends,
            counted: PerParty::default(),
        }));
    }

    /// The kernel's answer to the offer.
    pub(super) fn on_answer(&mut self, answer: Installed, now: Moment) {
        if self.path != MediaPath::Installing {
            return;
        }
        self.bypassing = None;
        self.path = match answer {
            Installed::Taken => {
                self.refusals = 0;
                MediaPath::Kernel(now)
            }
            Installed::NotNow => self.refused(Obstacle::Refused, now),
            Installed::Suspended => self.refused(Obstacle::Suspended, now),
            Installed::Never => MediaPath::Refused(Obstacle::OwnHost, None),
        };
        if answer != Installed::Taken {
            self.flow = None;
        }
    }

    fn refused(&mut self, why: Obstacle, now: Moment) -> MediaPath {
        let longest = match why {
            Obstacle::Suspended => LONGEST_SUSPENDED_WAIT,
            _ => LONGEST_REFUSAL_WAIT,
        };
        let wait = doubled(FIRST_REFUSAL_WAIT, self.refusals).min(longest);
        self.refusals += 1;
        self.refused = now;
        MediaPath::Refused(why, Some(now + wait))
    }

    /// Trouble of its own.
    fn troubled(&mut self, why: Obstacle, now: Moment) -> MediaPath {
        if matches!(self.path, MediaPath::Kernel(since) if now >= since + STEADY_AFTER) {
            self.troubles = 0;
        }
        let wait = doubled(FIRST_TROUBLE_WAIT, self.troubles).min(LONGEST_TROUBLE_WAIT);
        self.troubles += 1;
        self.refused = now;
        MediaPath::Refused(why, Some(now + wait))
    }

    /// A party's packet came to user space. True when so many came of a flow that the kernel has that it is to judge that.
    pub(super) fn is_bypassed(&mut self, now: Moment) -> bool {
        let MediaPath::Kernel(since) = self.path else {
            return false;
        };
        if now < since + QUEUED_FOR {
            return false;
        }
        let (first, count) = match self.bypassing {
            Some((first, last, count)) if now < last + BYPASS_GAP => (first, count + 1),
            _ => (now, 1),
        };
        let is_suspect = count >= BYPASSED_PACKETS && now >= first + BYPASSED_FOR;
        // Where it is as it should be, it is asked again only after as many more.
        self.bypassing = (!is_suspect).then_some((first, now, count));
        is_suspect
    }

    /// The kernel has lost it: it is offered again at once, or where something is in the way, later.
    pub(super) fn lose(&mut self, loss: Loss, now: Moment) {
        self.flow = None;
        self.path = match loss {
            Loss::Deleted => MediaPath::UserSpace,
            Loss::Suspended => self.refused(Obstacle::Suspended, now),
            Loss::Stuck => self.troubled(Obstacle::Stuck, now),
            Loss::Bypassed => self.troubled(Obstacle::Bypassed, now),
        };
    }

    /// User space has it again, whoever had it; true when it has to be withdrawn from the kernel. What hindered
    /// the kernel is forgotten.
    pub(super) fn take_back(&mut self) -> bool {
        self.path = MediaPath::UserSpace;
        self.refusals = 0;
        self.troubles = 0;
        let flow = self.flow.take();
        self.leaving.extend(flow.as_deref());
        flow.is_some()
    }

    /// The kernel has given up what it was to.
    pub(super) fn on_withdrawn(&mut self, turn: u32) {
        self.leaving.retain(|flow| flow.turn != turn);
    }

    /// Returns true if it has not yet.
    pub(super) fn is_withdrawing(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// The kernel has told that it relayed so much more.
    pub(super) fn count(&mut self, turn: u32, more: PerParty<Counters>) {
        let flows = self.flow.as_deref_mut().into_iter();
        for flow in flows.chain(&mut self.leaving) {
            if flow.turn == turn {
                for party in Party::BOTH {
                    flow.counted[party] += more[party];
                }
            }
        }
    }

    /// The kernel counts from zero again. Returns true if it has or had anything of this.
    pub(super) fn restart_counting(&mut self) -> bool {
        let flows = self.flow.as_deref_mut().into_iter();
        let all = flows.chain(&mut self.leaving);
        all.map(|flow| flow.counted = PerParty::default()).count() > 0
    }

    /// Returns true if the parts of what was read from a state fit each other.
    pub(super) fn is_sound(&self, is_live: bool) -> bool {
        let is_named = |flow: &HandedFlow| flow.turn == self.turn && is_live;
        let mut turns = self.leaving.iter().map(|flow| flow.turn);
        let mut seen: HashSet<u32> = self.flow.iter().map(|flow| flow.turn).collect();
        self.flow.is_some() == self.may_bypass()
            && self.flow.as_deref().is_none_or(is_named)
            && turns.all(|turn| seen.insert(turn))
    }

    /// Another process goes on with this. What the kernel was asked to take it may have: that is found out. The flows that
    /// it may have, those to be given up first, which are to be asked for once more.
    pub(super) fn adopt(&mut self, now: Moment) -> Vec<HandedFlow> {
        if self.path == MediaPath::Installing {
            self.path = MediaPath::Kernel(now);
        }
        // Of two between the same ends the kernel has one, and nobody knows which: it is told to give that one up, and the
        // count that is higher is of that one, so that nothing is counted twice.
        self.leaving
            .sort_by_key(|flow| std::cmp::Reverse(flow.counted.caller.packets));
        let mut known: Vec<HandedFlow> = Vec::new();
        self.leaving.retain(|flow| {
            let is_new = known.iter().all(|other| other.ends != flow.ends);
            known.extend(is_new.then_some(*flow));
            is_new
        });
        match self.flow.as_deref() {
            Some(flow) if known.iter().all(|other| other.ends != flow.ends) => known.push(*flow),
            _ => {
                self.flow = None;
                if self.may_bypass() {
                    self.path = MediaPath::UserSpace;
                }
            }
        }
        known
    }

    /// The process that goes on with this has no kernel to forward for it.
    pub(super) fn forget_kernel(&mut self) {
        self.path = MediaPath::UserSpace;
        self.flow = None;
        self.leaving.clear();
    }

    /// What the kernel is to give up.
    pub(super) fn leaving(&self) -> &[HandedFlow] {
        &self.leaving
    }

    /// Returns true if packets may go by the kernel, unseen here.
    pub(super) fn may_bypass(&self) -> bool {
        matches!(self.path, MediaPath::Installing | MediaPath::Kernel(_))
    }

    /// What it relays is known from the kernel's counters only.
    pub(super) fn is_in_kernel(&self) -> bool {
        matches!(self.path, MediaPath::Kernel(_))
    }
}

#[cfg(test)]
impl Handover {
    /// Returns true if a process that adopts this knows as much as the one before: the kernel has answered, and has one flow
    /// at most between the same ends.
    pub(super) fn is_plain(&self) -> bool {
        let flows = self.flow.as_deref().into_iter().chain(&self.leaving);
        let ends: Vec<PerParty<FlowEnd>> = flows.map(|flow| flow.ends).collect();
        let is_twice = |at: usize| ends[..at].contains(&ends[at]);
        self.path != MediaPath::Installing && !(0..ends.len()).any(is_twice)
    }
}

/// Twice as long after each time.
fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1 << times.min(16))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const T: Moment = Moment::after_start(Duration::from_secs(100));
    const LONG_AGO: Moment = Moment::START;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn ends() -> PerParty<FlowEnd> {
        let at = |port| SocketAddr::new([192, 0, 2, 1].into(), port);
        PerParty::of(|party| FlowEnd {
            remote: at(4000 + party as u16),
            local: at(5000 + party as u16),
        })
    }

    fn taken() -> Handover {
        let mut handover = Handover::default();
        handover.offer(ends());
        handover.on_answer(Installed::Taken, T);
        handover
    }

    #[test]
    fn a_refused_flow_is_offered_again_after_longer_and_longer_times() {
        let mut handover = Handover::default();
        let mut now = T;
        for wait in [1, 2, 4, 8, 16, 32, 64, 64] {
            assert!(handover.may_offer(now, LONG_AGO));
            handover.offer(ends());
            handover.on_answer(Installed::NotNow, now);
            now += Duration::from_secs(wait);
            assert!(
                !handover.may_offer(now.saturating_sub(millis(1)), LONG_AGO),
                "{wait}"
            );
        }
        handover.offer(ends());
        handover.on_answer(Installed::Never, now);
        assert!(!handover.may_offer(Moment::NEVER, now), "it is no trouble");
        assert!(!handover.take_back(), "nothing to withdraw");
        assert!(handover.may_offer(now, LONG_AGO));
    }

    #[test]
    fn m4_a_flow_that_waits_for_the_trial_of_another_asks_often() {
        let mut handover = taken();
        let mut now = T;
        handover.lose(Loss::Suspended, now);
        for wait in [1, 2, 4, 8, 8, 8] {
            now += Duration::from_secs(wait);
            assert!(
                !handover.may_offer(now.saturating_sub(millis(1)), LONG_AGO),
                "{wait}"
            );
            assert!(handover.may_offer(now, LONG_AGO), "{wait}");
            handover.offer(ends());
            handover.on_answer(Installed::Suspended, now);
        }
    }

    #[test]
    fn m4_a_flow_whose_own_packets_do_not_leave_is_tried_seldom() {
        let mut handover = taken();
        let mut now = T;
        for wait in [15, 30, 60, 120, 240, 480, 600, 600] {
            handover.lose(Loss::Stuck, now);
            assert!(!handover.may_offer(now + millis(5000), now + millis(1)));
            now += Duration::from_secs(wait);
            assert!(
                !handover.may_offer(now.saturating_sub(millis(1)), LONG_AGO),
                "{wait}"
            );
            assert!(handover.may_offer(now, LONG_AGO), "{wait}");
            handover.offer(ends());
            handover.on_answer(Installed::Taken, now);
            now += STEADY_AFTER - millis(1);
        }
        now += millis(1);
        handover.lose(Loss::Stuck, now);
        assert!(
            handover.may_offer(now + FIRST_TROUBLE_WAIT, LONG_AGO),
            "long well"
        );
    }

    #[test]
    fn m4_what_waits_is_offered_when_the_kernel_forwards_again() {
        let waiting: [fn(&mut Handover); 3] = [
            |handover| handover.lose(Loss::Suspended, T),
            |handover| handover.lose(Loss::Bypassed, T),
            |handover| {
                handover.lose(Loss::Deleted, T);
                handover.offer(ends());
                handover.on_answer(Installed::NotNow, T);
            },
        ];
        for wait in waiting {
            let mut handover = taken();
            wait(&mut handover);
            let welcome = T + millis(300);
            assert!(!handover.may_offer(welcome.saturating_sub(millis(1)), welcome));
            assert!(handover.may_offer(welcome, welcome));
            handover.offer(ends());
            handover.on_answer(Installed::Suspended, welcome);
            assert!(!handover.may_offer(welcome + millis(1), welcome), "once");
        }
    }

    #[test]
    fn an_answer_to_an_offer_that_was_taken_back_changes_nothing() {
        let mut handover = Handover::default();
        handover.offer(ends());
        assert!(handover.take_back());
        handover.on_answer(Installed::Taken, T);
        assert_eq!(handover.path, MediaPath::UserSpace);
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
        assert!(!Handover::default().is_bypassed(T));
    }
}
