//! What makes a saved session one of this process: its pairs, what was counted and heard since it was saved, and the time
//! in which no process was there, which is nobody's silence.

use std::collections::VecDeque;

use super::actions::Action;
use super::call::Session;
use super::environment::Environment;
use super::flows::flow_id;
use super::forwarding::AdoptedFlow;
use super::keys::PortKey;
use super::leg::Leg;
use super::stream::Stream;
use crate::moment::Moment;
use crate::proto::{Component, Party};

/// Binds the pairs of the live streams. The RTP ports that could not be had.
pub(super) fn rebind(session: &Session, environment: &mut dyn Environment) -> Vec<u16> {
    let mut taken = Vec::new();
    for (port, leg) in live_legs(session) {
        if !environment.rebind(leg.local, leg.port, port) {
            taken.push(leg.port);
        }
    }
    taken
}

/// The legs of the live streams, each with its RTP port's name.
fn live_legs(session: &Session) -> impl Iterator<Item = (PortKey, &Leg)> {
    let streams = session.media.streams.iter().enumerate();
    let live = streams.filter(|(_, stream)| stream.is_live());
    live.flat_map(|(index, stream)| {
        Party::BOTH.map(|party| {
            let port = PortKey {
                session: session.key(),
                stream: index as u16,
                party,
                component: Component::Rtp,
            };
            (port, &stream.legs[party])
        })
    })
}

/// Takes in what was counted and heard since the state was saved, as far as that is known.
pub(super) fn catch_up(session: &mut Session, environment: &mut dyn Environment) {
    let id = session.id;
    for stream in session.media.streams.iter_mut().filter(|s| s.is_live()) {
        for party in Party::BOTH {
            let port = stream.legs[party].port;
            if let Some(tally) = environment.tally(port, id) {
                stream.catch_up(party, &tally);
            }
        }
    }
}

/// The time in which nobody listened is nobody's silence. What user space has heard is known until `alive`, everything else
/// as of when it was `saved`.
pub(super) fn skip_gap(
    session: &mut Session,
    (saved, alive): (Moment, Option<Moment>),
    now: Moment,
) {
    if saved >= now {
        return;
    }
    let unheard = now.since(alive.map_or(saved, |alive| alive.max(saved)));
    for stream in session.media.streams.iter_mut().filter(|s| s.is_live()) {
        stream.skip_gap(unheard, now);
    }
}

/// The flows that the kernel may have, and those of them that it is to give up.
pub(super) fn flows(session: &mut Session, now: Moment) -> Vec<AdoptedFlow> {
    let key = session.key();
    let mut flows = Vec::new();
    for (index, stream) in session.media.streams.iter_mut().enumerate() {
        for component in Component::BOTH {
            let known = stream.handovers[component].adopt(now);
            flows.extend(known.into_iter().map(|flow| AdoptedFlow {
                flow: flow_id((key, index), component, flow.turn),
                ends: flow.ends,
                counted: flow.counted,
            }));
        }
    }
    flows
}

/// What the kernel was to give up it is asked to give up once more: nobody knows whether it has.
pub(super) fn withdraw_leaving(session: &Session, actions: &mut VecDeque<Action>) {
    for (index, stream) in session.media.streams.iter().enumerate() {
        for component in Component::BOTH {
            let leaving = stream.handovers[component].leaving().iter();
            let place = (session.key(), index);
            actions
                .extend(leaving.map(|flow| Action::Withdraw(flow_id(place, component, flow.turn))));
        }
    }
}

/// Of a session that is ended because some of its pairs are `taken`, only the others are to be closed. Its actions are those
/// from `first` on.
pub(super) fn keep_closed(actions: &mut VecDeque<Action>, first: usize, taken: &[u16]) {
    let is_ours =
        |action: &Action| !matches!(action, Action::Close { port } if taken.contains(port));
    let own: Vec<Action> = actions.drain(first..).filter(is_ours).collect();
    actions.extend(own);
}

/// Without a kernel path nothing of it is left.
pub(super) fn forget_kernel(session: &mut Session) {
    let streams: &mut [Stream] = &mut session.media.streams;
    let handovers = streams.iter_mut().flat_map(|s| s.handovers.iter_mut());
    handovers.for_each(|handover| handover.forget_kernel());
}
