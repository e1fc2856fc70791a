//! What the relay says to the kernel over netlink: conntrack entries and one nftables table of its own.
//!
//! Every message is a header, a netfilter header and attributes, each attribute a length, a type and its value,
//! padded to four bytes (linux/netlink.h):
//!
//! ```text
//!  nlmsghdr                      nfgenmsg              nlattr             nlattr
//!  +-----+------+-------+-----+-----+ +--------+---+------+ +-----+------+-------+ +---
//!  | len | type | flags | seq | pid | | family | 0 | res  | | len | type | value | | ..
//!  | u32 | u16  | u16   | u32 | u32 | | u8     | u8| be16 | | u16 | u16  |  pad  | |
//!  +-----+------+-------+-----+-----+ +--------+---+------+ +-----+------+-------+ +---
//! ```
//!
//! Headers are in the host's byte order, the values of netfilter attributes in the network's. `message` builds and
//! iterates; `conntrack`, `nftables` and `chains` (what others' tables hold) know the messages, `rule` what rules are
//! made of, `passage` what others' rules let in; all of them are pure. `socket` asks and waits, `events` hears. What the
//! relay says with it is `relay/kernel/conntrack`. Tested byte for byte against what `conntrack` and `nft` send; the command
//! stands beside each vector.

pub mod chains;
pub mod conntrack;
pub mod events;
pub mod message;
pub mod nftables;
pub mod passage;
pub mod rule;
pub mod socket;
#[cfg(test)]
pub(crate) mod tests;
