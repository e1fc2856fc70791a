//! The core: all call semantics. No clock, no sockets, no threads: time is passed in, ports are bound
//! through [`Host`], what is to be done comes out as [`Action`]s. Same inputs and times, same actions.
//!
//! [`Engine`] holds the sessions of one worker and their timers. `answers` are those that wait for the kernel, `call` is a session, `offers` what an SDP means for it, `negotiation` what is done about it (`matching`: which streams an offer goes on with), `stream` one m=
//! line, `belief` what a port believes of its party (`evidence`: what speaks for a source, `candidate`: what it shows of itself, `checks`: ICE through the relay), `flows` what the kernel forwards (`handover`: each component's way there and back), `ports` the pairs, `report` the statistics, `drops` why
//! packets are not passed on, `explain` all that is known of a call, `address` what an SDP's address is worth.

pub mod address;
mod answers;
mod belief;
mod call;
mod candidate;
mod checks;
mod drops;
mod engine;
mod evidence;
mod explain;
mod flows;
mod handover;
mod matching;
mod negotiation;
mod offers;
pub mod ports;
mod report;
mod strangers;
mod stream;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use self::address::Range;
pub use self::belief::{Learning, Rules};
pub use self::drops::{Drop, Dropped};
pub use self::engine::{Engine, Room};
pub use self::report::Counters;
use crate::proto::link::{Sequence, UpdateReply};
use crate::proto::{CallId, Component, Party, SessionId};

/// What the administrator decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Quiet time before a stream ends; from `stream_timeout`.
    pub stream_timeout: Duration,
    /// The same on hold; from `on_hold_timeout`.
    pub on_hold_timeout: Duration,
    /// Time for a call to be answered; from `setup_timeout`.
    pub setup_timeout: Duration,
    /// Goes into SDP in place of the relay's own address; from `advertised_ip`.
    pub advertised_ip: Option<Ipv4Addr>,
    /// Private addresses that may be sent to before they are learned.
    pub routable_private_ranges: Vec<Range>,
    /// Who is believed to be a party; from `learning` and the keys beside it.
    pub learning: Rules,
    /// Whether components are offered to the kernel at all, or else why not, for people.
    pub kernel: Result<(), Arc<str>>,
}

/// Names a session in this engine; never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    slot: u32,
    generation: u32,
}

#[cfg(test)]
impl SessionKey {
    /// A key that no engine made.
    pub fn for_tests(slot: u32) -> SessionKey {
        SessionKey {
            slot,
            generation: 0,
        }
    }
}

/// What a bound port belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub session: SessionKey,
    /// Among the session's streams.
    pub stream: u16,
    pub party: Party,
    pub component: Component,
}

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEnd {
    pub remote: SocketAddrV4,
    pub local: SocketAddrV4,
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

/// Why a flow is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// The stream has ended, or a party has moved.
    Over,
    /// The kernel has it and its packets come to user space all the same.
    Bypassed,
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
}

/// The dispatcher that is told of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(pub u32);

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
    pub since: Duration,
}

/// What the engine asks of the machine while it handles a request.
pub trait Host {
    /// Binds a pair on an address and returns its RTP port; packets there belong to `place`, those one port
    /// above to its RTCP. None when no pair can be bound.
    fn bind(&mut self, address: Ipv4Addr, place: Place) -> Option<u16>;

    /// The relay's own address towards somebody, or the usual one.
    fn local_address(&mut self, towards: Option<Ipv4Addr>) -> Ipv4Addr;

    /// Bits that nobody can guess.
    fn random(&mut self) -> u128;
}

/// What is to be done; in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Close both sockets of this RTP port's pair; it rests.
    Close { port: u16 },
    /// Send a packet that had to wait.
    Send {
        from_port: u16,
        to: SocketAddrV4,
        data: Vec<u8>,
    },
    /// Let the kernel forward between the caller's and the callee's end.
    Install { flow: FlowId, ends: [FlowEnd; 2] },
    /// Take it back, also where it was refused or lost meanwhile; its last counters come by
    /// [`Engine::flow_withdrawn`], once for each of these.
    Withdraw(FlowId, Withdrawal),
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

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Forward { from_port: u16, to: SocketAddrV4 },
    Queued,
    Drop(Drop),
}
