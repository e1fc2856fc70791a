//! A list of sessions that a relay is telling, acted on while it comes: it is never in memory whole, and the registry is
//! asked for a few sessions at a time.

use super::limits::{self, Excess, Limit};
use super::link::{Ask, Link};
use super::registry::{Doubts, Listed};
use super::shared::Dispatcher;
use super::statistics::{ListedCall, Unfit};
use crate::proto::elements::{Bad, Elements};
use crate::proto::link::longest_list;
use crate::sys::sync::lock;

/// Sessions that the registry is told of at once.
const BATCH: usize = 256;

/// Sessions of doubted calls that are kept of a list.
const CHECKED: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Listing {
    elements: Elements,
    purpose: Purpose,
    /// Bytes and sessions so far, and how many of these the relay can have.
    read: usize,
    pub calls: usize,
    most: usize,
    /// Why the rest is not looked at.
    broken: Option<String>,
}

/// What it was asked for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// All sessions of a relay that has just connected.
    Purge(Listed),
    /// Whether it has these calls, and what it has of them.
    Check(Doubts, Vec<ListedCall>),
}

impl Purpose {
    /// None where it was asked for something else.
    pub(super) fn of(ask: Ask) -> Option<Purpose> {
        match ask {
            Ask::Purge => Some(Purpose::Purge(Listed::default())),
            Ask::Check(doubts) => Some(Purpose::Check(doubts, Vec::new())),
            _ => None,
        }
    }
}

impl Listing {
    /// Of a relay that can have so many sessions.
    pub(super) fn new(purpose: Purpose, most: usize) -> Listing {
        Listing {
            elements: Elements::new(limits::STATISTICS),
            purpose,
            read: 0,
            calls: 0,
            most,
            broken: None,
        }
    }

    /// Some more of it, without the line's end.
    ///
    /// # Errors
    /// It is longer than any that this relay can have to tell.
    pub(super) fn take(
        &mut self,
        dispatcher: &Dispatcher,
        link: &Link,
        bytes: &[u8],
    ) -> Result<(), Excess> {
        self.read += bytes.len();
        let allowed = longest_list(self.most);
        if self.read > allowed {
            return Err(Excess::line("a list of sessions", self.read, allowed));
        }
        if self.broken.is_some() {
            return Ok(());
        }
        let Listing {
            elements,
            purpose,
            calls,
            most,
            ..
        } = self;
        let mut together = Vec::new();
        let fed = elements.feed(bytes, |element| {
            *calls += 1;
            if *calls > *most {
                let what = "a list of sessions";
                return Err(Excess::new(Limit::Sessions, what, *calls, *most).into());
            }
            let call = ListedCall::parse(element)?;
            match purpose {
                Purpose::Check(doubts, told) => {
                    if doubts.has(&call.call_id) && told.len() < CHECKED {
                        told.push(call);
                    }
                }
                Purpose::Purge(listed) => {
                    together.push(call);
                    if together.len() == BATCH {
                        let calls = std::mem::take(&mut together);
                        lock(&dispatcher.registry).listed(link.id, calls, listed);
                    }
                }
            }
            Ok::<(), Unfit>(())
        });
        if let Purpose::Purge(listed) = purpose {
            lock(&dispatcher.registry).listed(link.id, together, listed);
        }
        match fed {
            Ok(()) => Ok(()),
            Err(Unfit::Excess(excess)) => Err(excess),
            Err(Unfit::Json(error)) => {
                self.broken = Some(error.to_string());
                Ok(())
            }
            Err(Unfit::NoList) => {
                self.broken = Some("no array of objects".to_owned());
                Ok(())
            }
        }
    }

    /// The line is over. What it was asked for, and whether all of it could be read.
    pub(super) fn finish(self) -> (Purpose, Result<(), String>) {
        let read = match self.broken {
            Some(why) => Err(why),
            None if self.elements.is_whole() => Ok(()),
            None => Err("it has no end".to_owned()),
        };
        (self.purpose, read)
    }
}

impl From<Bad> for Unfit {
    fn from(bad: Bad) -> Unfit {
        match bad {
            Bad::NoList => Unfit::NoList,
            Bad::TooLong(read) => {
                Excess::line("a session in a list", read, limits::STATISTICS).into()
            }
        }
    }
}
