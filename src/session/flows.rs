//! What the kernel forwards in a session's stead: asked for here, and what it tells of it comes in here.

use std::collections::VecDeque;
use std::time::Duration;

use super::engine::Engine;
use super::report::Counters;
use super::stream::{Path, Stream};
use super::{Action, FlowId, Place};
use crate::moment::Now;
use crate::proto::Party;

impl Engine {
    /// The kernel has taken a flow over, or cannot.
    pub fn flow_installed(&mut self, flow: FlowId, taken: bool) {
        if let Some(stream) = self.handed_over(flow) {
            let path = &mut stream.paths[flow.component as usize];
            if *path == Path::Installing {
                *path = if taken { Path::Kernel } else { Path::Refused };
            }
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
    }

    /// Somebody deleted a flow's entry, or the kernel did: the next packets bring it back.
    pub fn flow_lost(&mut self, flow: FlowId) {
        if let Some(stream) = self.handed_over(flow) {
            stream.paths[flow.component as usize] = Path::UserSpace;
        }
    }

    /// A flow that was to be withdrawn is gone; `last` is what it relayed since it was last asked.
    pub fn flow_withdrawn(&mut self, flow: FlowId, last: [Counters; 2], now: Now) {
        self.flow_traffic(flow, last, now.mono);
        if let Some(stream) = self.stream_mut(flow.session, flow.stream) {
            stream.withdrawing = stream.withdrawing.saturating_sub(1);
            self.report_end(flow.session, now);
        }
    }

    /// The stream of a flow, unless this is late news of an earlier hand-over.
    fn handed_over(&mut self, flow: FlowId) -> Option<&mut Stream> {
        let stream = self.stream_mut(flow.session, flow.stream)?;
        (stream.turns[flow.component as usize] == flow.turn).then_some(stream)
    }
}

/// M4: once both parties have shown where they are, the kernel can forward.
pub fn offer_to_kernel(stream: &mut Stream, place: Place, actions: &mut VecDeque<Action>) {
    if let Some(ends) = stream.ready_for_kernel(place.component) {
        stream.paths[place.component as usize] = Path::Installing;
        stream.turns[place.component as usize] += 1;
        let flow = FlowId {
            session: place.session,
            stream: place.stream,
            component: place.component,
            turn: stream.turns[place.component as usize],
        };
        actions.push_back(Action::Install { flow, ends });
    }
}
