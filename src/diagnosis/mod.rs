//! Whether a host is fit for the daemons, and why it drops media: for the relay's start, `media-relay --check`,
//! `media-admin doctor` and the command `explain`. Each finding that is not fine says what mends it.
//!
//! ```text
//!  check          all of `media-relay --check`                       table: of findings; remedies: commands that mend
//!  relay_host     what a relay's host must have, and what the relay changes there when it starts
//!    kernel         judges the host for the kernel path              host_facts, probe, sysctl look
//!    ports          ports and files, what is left of them            requirements: how many it needs
//!    dispatchers    who can be reached                               advertised: and who reaches us
//!    certificates   dates of certificates and lists
//!  daemon         what a daemon of either kind needs                 file_user: with whose rights
//!  stuck_flow     why packets of a flow in the kernel do not leave
//!  obstacles      what else stands in the way of a call's media      input_chains: of the firewall
//!  processes, sockets   what the kernel tells of those of this host
//! ```

pub mod advertised;
mod certificates;
pub mod check;
pub mod daemon;
mod dispatchers;
pub mod file_user;
pub mod finding;
pub mod host_facts;
pub mod input_chains;
mod kernel;
pub mod obstacles;
pub mod ports;
mod probe;
pub mod processes;
pub mod relay_host;
mod remedies;
pub mod requirements;
pub mod sockets;
pub mod stuck_flow;
pub mod sysctl;
pub mod table;
#[cfg(test)]
mod tests;

pub use self::certificates::certificates;
