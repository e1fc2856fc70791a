//! What is asked of netfilter. `netfilter` asks this host's, tests one in memory.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::events::Sign;
use crate::counters::Counters;
use crate::netlink::conntrack::{Entry, NatEntry, Tuple};
use crate::proto::Party;
use crate::relay::kernel::health::Outlook;

/// The sets of the relay's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Set {
    /// Four-tuples, as they enter, of packets that are to find an entry.
    Forwarded,
    /// Four-tuples as they leave, each with its counter.
    Leaving,
}

/// A change of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Add(Set, Tuple),
    /// What it has counted comes back.
    Remove(Set, Tuple),
}

/// An element of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub tuple: Tuple,
    /// Nothing in a set that does not count.
    pub counters: Counters,
}

/// What forwarding needs of netfilter. Every method is one request, or as few as there can be.
pub(crate) trait Requests: Send {
    /// Makes the table, in place of one that an earlier relay left, and removes that one's entries: how many there were.
    ///
    /// # Errors
    /// What cannot be done, and why.
    fn start(&mut self) -> Result<usize, String>;

    /// Takes the table over that an earlier relay left, as it is; its entries stay. False where it is none of ours, was
    /// left for too long or cannot be had, which is said in the log.
    fn take_over(&mut self) -> bool;

    /// Ends what an earlier relay left to be forwarded, if there is any, and leaves what it has counted.
    fn stop(&mut self);

    /// Has the kernel forward for so long without a relay, and no longer.
    fn leave(&mut self, time: Duration) -> io::Result<()>;

    /// Asks for entries that live so many seconds; one result each, EEXIST where one of its ways is in use.
    ///
    /// # Errors
    /// Where it is not known what became of them.
    fn create(&mut self, entries: &[NatEntry], lifetime: u32) -> io::Result<Vec<io::Result<()>>>;

    /// Looks entries up by either of their ways.
    fn get(&mut self, tuples: &[Tuple]) -> io::Result<Vec<io::Result<Entry>>>;

    /// Deletes entries by their original way, and by their number where it is given.
    fn delete(&mut self, entries: &[(Tuple, Option<u32>)]) -> io::Result<Vec<io::Result<()>>>;

    /// Whether an entry is this relay's: by mark, address and port.
    fn is_ours(&self, entry: &Entry) -> bool;

    /// Every entry that is this relay's.
    fn entries(&mut self, each: &mut dyn FnMut(Entry)) -> io::Result<()>;

    /// Makes all these changes or none; the removed elements that count.
    fn alter(&mut self, changes: &[Change]) -> io::Result<Vec<Element>>;

    /// All elements of a set. ENOENT where there is no table.
    fn elements(&mut self, set: Set, each: &mut dyn FnMut(Element)) -> io::Result<()>;

    /// What these elements of [`Set::Leaving`] have counted. ENOENT where one is not there.
    fn left(&mut self, tuples: &[Tuple]) -> io::Result<Vec<Element>>;

    /// Makes the table anew with these elements: at first one that keeps everything from conntrack, then the rest, so
    /// that conntrack never meets what user space sends meanwhile.
    fn rebuild(&mut self, elements: &[Change]) -> io::Result<()>;

    /// The addresses of this host are these now.
    fn set_addresses(&mut self, addresses: &[IpAddr]) -> io::Result<()>;

    /// Removes the table, and what entries of the relay's there are.
    fn remove_all(&mut self) -> io::Result<()>;

    /// What this host's settings let expect of forwarding.
    fn outlook(&self) -> Outlook;

    /// Begins to count how many of this party's packets come to hook forward: one flow at a time, since the others'
    /// packets pay for it, too.
    fn watch(&mut self, entry: &NatEntry, party: Party) -> io::Result<()>;

    /// Ends that. Whether packets came as far, where that is known.
    fn end_watch(&mut self) -> Option<bool>;

    /// Why this party's packets enter and do not leave, and what to do. `reached_forward` is what a watch has told.
    fn explain(&mut self, entry: &NatEntry, party: Party, reached_forward: Option<bool>) -> String;

    /// The same for a flow that was refused.
    fn explain_refusal(&self, error: &io::Error) -> String;

    /// What tells of the doings of others, to wait on level-triggered.
    fn sources(&self) -> Vec<BorrowedFd<'_>>;

    /// Tells what has happened since this was asked last; does not wait.
    ///
    /// # Errors
    /// Where nothing more can be heard.
    fn hear(&mut self, each: &mut dyn FnMut(Sign)) -> io::Result<()>;
}
