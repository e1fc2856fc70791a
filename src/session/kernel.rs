//! What the kernel has told: of itself, and of flows for their sessions.

use std::time::Duration;

use log::info;

use super::forwarding::{FlowId, FlowNews, Loss};
use super::keys::SessionKey;
use super::settings::LearningRules;
use super::stream::{Stream, StreamLine};
use super::table::SessionTable;
use crate::counters::Counters;
use crate::moment::Moment;
use crate::proto::{Party, PerParty};

/// Within this time all calls are back in a kernel that forwards again.
const RETURN_WITHIN: Duration = Duration::from_secs(4);

/// What is known of it as a whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Kernel {
    /// When it was last found to forward again.
    mended: Moment,
    /// When its counters were last read: what it relayed until then is known.
    heard: Moment,
}

impl Kernel {
    pub(super) fn heard(&self) -> Moment {
        self.heard
    }

    /// When a call may go back to a kernel that forwards again: not all in one moment, so that trouble that
    /// returns at once meets few of them.
    pub(super) fn welcomes(&self, session: SessionKey) -> Moment {
        // Neighbours are far apart (Knuth's multiplicative hash).
        let spread = session.slot.wrapping_mul(2_654_435_769) >> 20;
        self.mended + RETURN_WITHIN / 4096 * (spread + 1)
    }

    /// Takes news in. Returns what the kernel has relayed by them.
    pub(super) fn take_news(
        &mut self,
        news: FlowNews,
        sessions: &mut SessionTable,
        rules: &LearningRules,
        now: Moment,
    ) -> Counters {
        match news {
            FlowNews::Installed(flow, answer) => {
                if let Some(stream) = handed_over(sessions, flow) {
                    stream.handovers[flow.component].on_answer(answer, now);
                    sessions.touch(flow.session);
                }
            }
            FlowNews::Traffic(flow, more) => return note_traffic(sessions, flow, more, now),
            FlowNews::Lost(flow, loss, last) => {
                let relayed = note_traffic(sessions, flow, last, now);
                sessions.touch(flow.session);
                if let Some(stream) = handed_over(sessions, flow) {
                    let handover = &mut stream.handovers[flow.component];
                    if handover.is_in_kernel() {
                        handover.lose(loss, now);
                        if loss == Loss::Bypassed {
                            log_bypassed(sessions, flow);
                        }
                    }
                }
                return relayed;
            }
            FlowNews::Withdrawn(flow, last) => {
                let relayed = note_traffic(sessions, flow, last, now);
                sessions.touch(flow.session);
                if let Some(stream) = sessions.stream_mut(flow.session, flow.stream) {
                    stream.handovers[flow.component].on_withdrawn(flow.turn);
                    for leg in stream.legs.iter_mut() {
                        leg.beliefs[flow.component].on_withdrawn(rules, now);
                    }
                }
                return relayed;
            }
            FlowNews::Heard(until) => self.heard = self.heard.max(until),
            FlowNews::Mended => self.mended = now,
            FlowNews::CountedAnew => sessions.restart_counting(),
        }
        Counters::default()
    }
}

fn log_bypassed(sessions: &mut SessionTable, flow: FlowId) {
    let Some(call_id) = sessions.call_id(flow.session).cloned() else {
        return;
    };
    if let Some(stream) = sessions.stream_mut(flow.session, flow.stream) {
        let line = StreamLine(stream, usize::from(flow.stream));
        let component = flow.component;
        info!("[session {call_id}] {line}: {component} does not reach the kernel's entry");
    }
}

/// The kernel has relayed this much more of a flow. Returns the sum, as far as there is such a stream.
fn note_traffic(
    sessions: &mut SessionTable,
    flow: FlowId,
    more: PerParty<Counters>,
    now: Moment,
) -> Counters {
    let Some(stream) = sessions.stream_mut(flow.session, flow.stream) else {
        return Counters::default();
    };
    stream.handovers[flow.component].count(flow.turn, more);
    for party in Party::BOTH {
        stream.on_kernel_traffic(party, flow.component, more[party], now);
    }
    more.caller + more.callee
}

/// The stream of a flow, unless this is late news of an earlier hand-over.
fn handed_over(sessions: &mut SessionTable, flow: FlowId) -> Option<&mut Stream> {
    let stream = sessions.stream_mut(flow.session, flow.stream)?;
    (stream.handovers[flow.component].turn == flow.turn).then_some(stream)
}
