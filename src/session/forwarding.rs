//! What an engine and who forwards in its stead, the kernel, say to each other of flows.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::keys::SessionKey;
use crate::counters::Counters;
use crate::moment::Moment;
use crate::proto::{Component, PerParty};

/// Names one component's forwarding in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId {
    pub session: SessionKey,
    pub stream: u16,
    pub component: Component,
    /// How often the component was handed over before: late news of one hand-over are not taken for news of
    /// the next.
    pub turn: u32,
}

/// One end of a component: where the party is, and the relay's address that it sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEnd {
    pub remote: SocketAddr,
    pub local: SocketAddr,
}

/// A flow that the kernel had when the session's state was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdoptedFlow {
    pub flow: FlowId,
    pub ends: PerParty<FlowEnd>,
    /// What the state knows to have been counted of it since it was installed.
    pub counted: PerParty<Counters>,
}

/// What the kernel says to a flow that it was to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    Taken,
    /// It may be asked again after a while.
    NotNow,
    /// The same: media of others on its way enters it at the moment and does not leave.
    Suspended,
    /// A party is on this host: it cannot, as long as the parties are where they are.
    Never,
}

/// How the kernel lost a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Somebody deleted it, or its time was up.
    Deleted,
    /// Packets entered and did not leave, while others' did.
    Stuck,
    /// The same, and nothing of the others on its way left either: that is found out for all of them.
    Suspended,
    /// Packets came to user space although it had the flow, and should not have ([`super::Action::Suspect`]).
    Bypassed,
}

/// What the kernel tells of an engine's flows. Counters are what was relayed since the last news of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowNews {
    /// It has taken a flow over, or cannot.
    Installed(FlowId, Installed),
    Traffic(FlowId, PerParty<Counters>),
    /// A flow is not there any more, through no doing of the engine. A deleted one comes back with the next packets.
    Lost(FlowId, Loss, PerParty<Counters>),
    /// A flow that was to be withdrawn is gone.
    Withdrawn(FlowId, PerParty<Counters>),
    /// All that was relayed until this time has been told.
    Heard(Moment),
    /// The kernel has begun to count all flows anew.
    CountedAnew,
    /// The kernel forwards again after some trouble: what waits because of that goes to it, a few calls at a time.
    Mended,
}
