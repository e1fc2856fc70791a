//! The core: all call semantics. No clock, no sockets, no threads: time is passed in, ports are bound
//! through [`Environment`], what is to be done comes out as [`Action`]s. Same inputs and times, same actions.
//!
//! From the top: [`Engine`] takes what comes for one worker's sessions; `table` holds these, `timers` their deadlines, `answers`
//! the replies that wait for the kernel, `kernel` what the kernel told. `call` is one session, `packets` what a datagram does to it,
//! `media` its streams, `silence` when they have been silent too long. `offers` says what an SDP means, `negotiation` does it
//! (`matching`: which streams an offer goes on with).
//! `stream` is one media line, `leg` one party's side of it; `belief` is what a port believes of its party (`evidence`: what speaks
//! for a source, `candidate`: what it shows of itself, `checks`: ICE through the relay, `strangers`: the log of the others).
//! `flows` asks the kernel to forward and to stop (`handover`: each component's way there and back), `ports` is the pool of
//! pairs, `address` what an SDP's address is worth. `report` writes the statistics, `explain` all that is known of a call.
//! `saved` is a session's state for another process, `adoption` what it takes to go on with one.
//! What several of them speak with: `settings`, `keys`, `actions`, `forwarding`, `totals`, `codec`, `description`, `drops`,
//! `verdict`, `status`, `refusal`.

mod actions;
pub mod address;
mod adoption;
mod answers;
mod belief;
mod call;
mod candidate;
mod checks;
mod codec;
mod description;
mod drops;
mod engine;
mod environment;
mod evidence;
mod explain;
mod flows;
mod forwarding;
mod handover;
mod kept;
mod kernel;
mod keys;
mod leg;
mod matching;
mod media;
mod negotiation;
mod offers;
mod packets;
pub mod ports;
mod refusal;
mod report;
mod saved;
mod settings;
mod silence;
mod status;
mod strangers;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod timers;
mod totals;
mod verdict;

pub use self::actions::{Action, Asker, Ended, Owner, ReplyTo};
pub use self::drops::{DropReason, Dropped};
pub use self::engine::Engine;
pub use self::environment::{Environment, Tally};
pub use self::forwarding::{AdoptedFlow, FlowEnd, FlowId, FlowNews, Installed, Loss};
pub use self::keys::{PortKey, SessionKey};
pub use self::saved::saved_call_id;
pub use self::settings::{Learning, LearningRules, Settings};
pub use self::table::{Capacity, SessionTable};
pub use self::totals::Totals;
pub use self::verdict::PacketVerdict;
