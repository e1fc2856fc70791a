//! Asks the kernel to forward a component in a session's stead, and to stop (M4).

use std::collections::VecDeque;

use super::actions::Action;
use super::forwarding::FlowId;
use super::keys::{PortKey, SessionKey};
use super::stream::Stream;
use crate::moment::Moment;
use crate::proto::Component;

/// Once both parties have shown where they are, the kernel can forward. From `welcome` on it forwards again what it could
/// not before.
pub(super) fn offer_to_kernel(
    stream: &mut Stream,
    port: PortKey,
    (now, welcome): (Moment, Moment),
    actions: &mut VecDeque<Action>,
) {
    if let Some(ends) = stream.ready_for_kernel(port.component, (now, welcome)) {
        stream.handovers[port.component].offer();
        let flow = flow_id(stream, port.session, port.stream, port.component);
        actions.push_back(Action::Install { flow, ends });
    }
}

/// Has the kernel judge a flow that it has and whose packets come to user space.
pub(super) fn suspect_bypass(stream: &Stream, port: PortKey, actions: &mut VecDeque<Action>) {
    let flow = flow_id(stream, port.session, port.stream, port.component);
    actions.push_back(Action::Suspect(flow));
}

/// Takes back what the kernel has of a stream, which is one of its session's.
pub(super) fn withdraw(
    stream: &mut Stream,
    (session, index): (SessionKey, usize),
    actions: &mut VecDeque<Action>,
) {
    for component in Component::BOTH {
        withdraw_component(stream, (session, index), component, actions);
    }
}

pub(super) fn withdraw_component(
    stream: &mut Stream,
    (session, index): (SessionKey, usize),
    component: Component,
    actions: &mut VecDeque<Action>,
) {
    if stream.handovers[component].take_back() {
        stream.withdrawing += 1;
        let flow = flow_id(stream, session, index as u16, component);
        actions.push_back(Action::Withdraw(flow));
    }
}

fn flow_id(stream: &Stream, session: SessionKey, index: u16, component: Component) -> FlowId {
    FlowId {
        session,
        stream: index,
        component,
        turn: stream.handovers[component].turn,
    }
}
