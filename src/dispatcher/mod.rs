//! The dispatcher: takes the SIP proxy's requests, spreads calls over relays, keeps track of both.
//!
//! ```text
//!  SIP proxy --UNIX--> control   one thread per connection: parse, wait for the turn, ask, wait, answer
//!                        |  service, call_queues, pending_update; relay_news: who waits for a relay that is away
//!                        v
//!                      Link      queue and open requests of one relay; bounded, never blocks
//!                      |    ^
//!                writer|    |reader: makes and ends sessions, wakes who waits      relays, conversation, link_end
//!                      v    |
//!                      relay (TLS)
//!
//!  Mutex<Registry>   calls, relays, placement; pure; never held across a socket call   registry
//!  management        one thread per client                                         management
//!  ports             who does not get in: doors, failed_connections
//!  dialog            one thread per kind of proxy: asks it to end dead calls
//!  upkeep            one thread: time-outs, clean-up, certificates                 upkeep, drained_upkeep
//!  drained           one thread: which relays are drained, on disk                 drained, drained_upkeep
//! ```
//!
//! `shared` is what all threads have in common, `running` starts and ends them. What several files speak of has a file of
//! its own: `call`, `ended_call`, `relay_id`.

mod banned_relays;
pub mod call;
mod call_queues;
mod concurrency_limit;
mod control;
mod conversation;
mod counts;
pub mod daemon;
mod dialog;
mod drained;
mod drained_upkeep;
pub mod ended_call;
mod failed_connections;
pub mod finisher;
mod ledger;
mod limits;
mod link;
mod link_end;
mod listing;
mod management;
mod metrics;
mod pending_update;
mod port_shortage;
mod ports;
pub mod recent_calls;
mod recorder;
pub mod registry;
#[doc(hidden)]
pub mod rehearsal;
mod relay_commands;
pub mod relay_id;
mod relay_news;
mod relays;
mod running;
mod service;
mod settings;
mod shared;
mod socket_file;
pub mod statistics;
mod threads;
mod upkeep;
mod wait;

pub use dialog::Enders;
pub use recorder::Recorder;
pub use registry::Limits;
pub use running::Running;
pub use settings::{Group, Settings};
pub use shared::Dispatcher;
