//! What others do to netfilter's tables, and what it does by itself: entries that end, the relay's table removed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::table::table_name;
use crate::netlink::conntrack::Tuple;
use crate::netlink::events::{Event, Events as Netlink};
use crate::netlink::socket::Netfilter;
use crate::relay::kernel::settings::Settings;

/// Something that is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// An entry of this name has ended, and not by the relay's doing.
    Ended(Tuple),
    /// Somebody has changed the relay's table; it may be gone.
    Table,
    /// More happened than could be told.
    Overrun,
}

/// The sockets that tell of it. Open them before the first entry is made, or nothing is told of that.
#[derive(Debug)]
pub(crate) struct Events {
    entries: Netlink,
    table: Netlink,
}

impl Events {
    /// `netfilter` is the socket whose own doing is not told.
    pub(crate) fn open(netfilter: &Netfilter, settings: &Settings) -> io::Result<Events> {
        let own = netfilter.port()?;
        Ok(Events {
            entries: Netlink::of_entries(own, settings.wanted.mark, settings.wanted.mark_mask)?,
            table: Netlink::of_table(own, &table_name(settings.wanted.port_range.0))?,
        })
    }

    /// What to wait on, level-triggered.
    pub(crate) fn sources(&self) -> [BorrowedFd<'_>; 2] {
        [self.entries.as_fd(), self.table.as_fd()]
    }

    /// Tells what has happened since this was asked last; does not wait.
    pub(crate) fn take(&mut self, mut each: impl FnMut(Sign)) -> io::Result<()> {
        for events in [&mut self.entries, &mut self.table] {
            events.read(|event| match event {
                Event::Ended(entry) => each(Sign::Ended(entry.original)),
                Event::TableChanged => each(Sign::Table),
                Event::Overrun => each(Sign::Overrun),
            })?;
        }
        Ok(())
    }
}
