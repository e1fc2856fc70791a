//! Asks the kernel to forward a component in a session's stead, and to stop (M4).

use std::collections::VecDeque;

use super::actions::Action;
use super::forwarding::FlowId;
use super::keys::{PortKey, SessionKey};
use super::stream::Stream;
use crate::moment::Moment;
use crate::proto::Component;

/// Once both parties have shown where they are, the kernel can forward. From `welcome` on it forwards again what it could
/// not before. Returns true if it is asked to.
pub(super) fn offer_to_kernel(
    stream: &mut Stream,
    port: PortKey,
    (now, welcome): (Moment, Moment),
    actions: &mut VecDeque<Action>,
) -> bool {
    let ends = stream.ready_for_kernel(port.component, (now, welcome));
    if let Some(ends) = ends {
        stream.handovers[port.component].offer(ends);
        let flow = current(
            stream,
            (port.session, usize::from(port.stream)),
            port.component,
        );
        actions.push_back(Action::Install { flow, ends });
    }
    ends.is_some()
}

/// Has the kernel judge a flow that it has and whose packets come to user space.
pub(super) fn suspect_bypass(stream: &Stream, port: PortKey, actions: &mut VecDeque<Action>) {
    let flow = current(
        stream,
        (port.session, usize::from(port.stream)),
        port.component,
    );
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
        let flow = current(stream, (session, index), component);
        actions.push_back(Action::Withdraw(flow));
    }
}

/// The name of a component's latest hand-over.
fn current(stream: &Stream, place: (SessionKey, usize), component: Component) -> FlowId {
    flow_id(place, component, stream.handovers[component].turn)
}

/// The name of a hand-over of a session's stream.
pub(super) fn flow_id(
    (session, index): (SessionKey, usize),
    component: Component,
    turn: u32,
) -> FlowId {
    FlowId {
        session,
        stream: index as u16,
        component,
        turn,
    }
}
