//! What the kernel forwards in a session's stead: asked for here, and what it tells of it comes in here.

use std::collections::VecDeque;
use std::time::Duration;

use super::engine::Engine;
use super::report::Counters;
use super::stream::Stream;
use super::{Action, FlowId, Installed, Loss, Place, SessionKey, Withdrawal};
use crate::moment::Now;
use crate::proto::Party;

/// Within this time all calls are back in a kernel that forwards again.
const GRADUALLY: Duration = Duration::from_secs(4);

impl Engine {
    /// The kernel has taken a flow over, or cannot.
    pub fn flow_installed(&mut self, flow: FlowId, answer: Installed, now: Duration) {
        if let Some(stream) = self.handed_over(flow) {
            stream.handovers[flow.component as usize].on_answer(answer, now);
        }
    }

    /// The kernel has relayed this much more of a flow, by party.
    pub fn flow_traffic(&mut self, flow: FlowId, more: [Counters; 2], now: Duration) {
        let Some(stream) = self.stream_mut(flow.session, flow.stream) else {
            return;
        };
        for party in [Party::Caller, Party::Callee] {
            stream.on_kernel_traffic(party, flow.component, more[party as usize], now);
        }
        self.relayed += more[0] + more[1];
        self.relayed_by_kernel += more[0] + more[1];
    }

    /// All that was ever relayed.
    pub fn relayed(&self) -> Counters {
        self.relayed
    }

    /// The part of it that the kernel forwarded, as far as it has told.
    pub fn relayed_by_kernel(&self) -> Counters {
        self.relayed_by_kernel
    }

    /// All that the kernel relayed until this time has been told.
    pub fn flows_heard(&mut self, now: Duration) {
        self.heard = self.heard.max(now);
    }

    /// The kernel forwards again after some trouble: what waits because of that goes to it, a few calls at a time.
    pub fn forwarding_mended(&mut self, now: Duration) {
        self.mended = now;
    }

    /// A flow is not in the kernel any more, through no doing of the engine; `last` is what it relayed since it was
    /// last asked. A deleted one comes back with the next packets.
    pub fn flow_lost(&mut self, flow: FlowId, loss: Loss, last: [Counters; 2], now: Duration) {
        self.flow_traffic(flow, last, now);
        if let Some(stream) = self.handed_over(flow) {
            let handover = &mut stream.handovers[flow.component as usize];
            if handover.is_in_kernel() {
                handover.lose(loss, now);
            }
        }
    }

    /// A flow that was to be withdrawn is gone; `last` is what it relayed since it was last asked.
    pub fn flow_withdrawn(&mut self, flow: FlowId, last: [Counters; 2], now: Now) {
        self.flow_traffic(flow, last, now.mono.since_start());
        let rules = self.settings().learning;
        if let Some(stream) = self.stream_mut(flow.session, flow.stream) {
            stream.withdrawing = stream.withdrawing.saturating_sub(1);
            for leg in &mut stream.legs {
                leg.beliefs[flow.component as usize].on_withdrawn(&rules, now.mono.since_start());
            }
            self.let_go(flow.session, now);
        }
    }

    /// The stream of a flow, unless this is late news of an earlier hand-over.
    fn handed_over(&mut self, flow: FlowId) -> Option<&mut Stream> {
        let stream = self.stream_mut(flow.session, flow.stream)?;
        (stream.handovers[flow.component as usize].turn == flow.turn).then_some(stream)
    }
}

/// When a call may go back to a kernel that forwards again since `mended`: not all in one moment, so that trouble that
/// returns at once meets few of them.
pub fn when_welcome(mended: Duration, session: SessionKey) -> Duration {
    // Neighbours are far apart (Knuth's multiplicative hash).
    let spread = session.slot.wrapping_mul(2_654_435_769) >> 20;
    mended + GRADUALLY / 4096 * (spread + 1)
}

/// M4: once both parties have shown where they are, the kernel can forward.
pub fn offer_to_kernel(
    stream: &mut Stream,
    place: Place,
    (now, welcome): (Duration, Duration),
    actions: &mut VecDeque<Action>,
) {
    if let Some(ends) = stream.ready_for_kernel(place.component, (now, welcome)) {
        stream.handovers[place.component as usize].offer();
        let flow = flow_id(stream, place);
        actions.push_back(Action::Install { flow, ends });
    }
}

/// A flow whose packets never reach the kernel's entry is taken back.
pub fn withdraw_bypassed(
    stream: &mut Stream,
    place: Place,
    now: Duration,
    actions: &mut VecDeque<Action>,
) {
    stream.handovers[place.component as usize].give_up(now);
    stream.withdrawing += 1;
    let flow = flow_id(stream, place);
    actions.push_back(Action::Withdraw(flow, Withdrawal::Bypassed));
}

fn flow_id(stream: &Stream, place: Place) -> FlowId {
    FlowId {
        session: place.session,
        stream: place.stream,
        component: place.component,
        turn: stream.handovers[place.component as usize].turn,
    }
}
