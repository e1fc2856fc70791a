//! What an engine wants done, and who is to hear of it.

use std::net::SocketAddr;

use super::forwarding::{FlowEnd, FlowId};
use crate::moment::Moment;
use crate::proto::link::{Sequence, UpdateReply};
use crate::proto::{CallId, PerParty, SessionId};

/// The dispatcher that is told of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(pub u32);

impl Owner {
    /// No dispatcher.
    pub(super) fn none() -> Owner {
        Owner(u32::MAX)
    }
}

/// Where the answer to a command goes: one connection, and its token there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    pub link: u64,
    pub sequence: Sequence,
}

/// Who waits for the answer to an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    pub reply_to: ReplyTo,
    /// Who is told of the session from now on.
    pub owner: Owner,
    /// Since when, for who measures how long the answer took.
    pub since: Moment,
}

/// What is to be done; in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Close both sockets of this RTP port's pair; it rests.
    Close { port: u16 },
    /// Send a packet that had to wait.
    Send {
        from_port: u16,
        to: SocketAddr,
        data: Vec<u8>,
    },
    /// Let the kernel forward between both ends.
    Install {
        flow: FlowId,
        ends: PerParty<FlowEnd>,
    },
    /// Take it back, also where it was refused or lost meanwhile; its last counters come by
    /// [`super::FlowNews::Withdrawn`], once for each of these.
    Withdraw(FlowId),
    /// Many packets of a flow that the kernel has come to user space: it is to judge whether that is as it should be. Where it is
    /// not, the flow comes back as lost.
    Suspect(FlowId),
    /// The answer to an update.
    Updated { asker: Asker, reply: UpdateReply },
    /// The answer to a remove.
    Removed { reply_to: ReplyTo, ended: Ended },
    /// A session ended by itself.
    Expired { owner: Owner, ended: Ended },
}

/// A session that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub session_id: SessionId,
    pub call_id: CallId,
    /// It was answered (C5), so that it is to be accounted.
    pub is_answered: bool,
    /// The statistics object, on one line.
    pub statistics: Vec<u8>,
}
