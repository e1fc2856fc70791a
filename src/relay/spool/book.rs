//! Which records are open and where each stands: what the spool knows, without any file.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{AGAIN, How};
use crate::journal::Position;
use crate::objects::objects_only;
use crate::proto::SessionId;

/// Where the line of a record is.
#[derive(Clone, Debug)]
pub enum Place {
    Disk(Position),
    /// As it is to stand in the journal.
    Memory(Arc<[u8]>),
}

/// What is open, and where it stands.
#[derive(Debug, Default)]
pub struct Book {
    pub records: HashMap<SessionId, Kept>,
    /// Oldest first; those on disk in the order of their positions.
    pub by_order: BTreeMap<u64, SessionId>,
    next: u64,
    /// Bytes that are in memory.
    pub in_memory: usize,
}

#[derive(Clone, Debug)]
pub struct Kept {
    place: Place,
    order: u64,
    dispatcher: SocketAddr,
    /// When it was last sent.
    sent: Duration,
}

/// Returns true if a dispatcher is to be told: of its own records, and of those of one that there is no link to any more,
/// for which anyone that records calls will do. As long as not all are known, nobody is told of another one's.
pub fn is_for(of: SocketAddr, dispatcher: SocketAddr, known: Option<&[SocketAddr]>) -> bool {
    of == dispatcher || known.is_some_and(|known| !known.contains(&of))
}

impl Kept {
    fn is_for(&self, dispatcher: SocketAddr, known: Option<&[SocketAddr]>) -> bool {
        is_for(self.dispatcher, dispatcher, known)
    }
}

impl Book {
    /// What stands in the journal.
    pub fn note(&mut self, position: Position, text: &[u8]) {
        if let Some(id) = text.strip_prefix(b"stored ") {
            if let Some(id) = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()) {
                self.forget(id);
            }
            return;
        }
        if let Some((dispatcher, id)) = text.strip_prefix(b"keep ").and_then(kept) {
            self.add(id, Place::Disk(position), dispatcher, Duration::ZERO);
        }
    }

    pub fn add(&mut self, id: SessionId, place: Place, dispatcher: SocketAddr, sent: Duration) {
        self.forget(id);
        if let Place::Memory(text) = &place {
            self.in_memory += text.len();
        }
        let order = self.next;
        self.next += 1;
        self.by_order.insert(order, id);
        let kept = Kept {
            place,
            order,
            dispatcher,
            sent,
        };
        self.records.insert(id, kept);
    }

    pub fn forget(&mut self, id: SessionId) -> bool {
        let Some(kept) = self.records.remove(&id) else {
            return false;
        };
        if let Place::Memory(text) = &kept.place {
            self.in_memory = self.in_memory.saturating_sub(text.len());
        }
        self.by_order.remove(&kept.order);
        true
    }

    /// Returns true if it is open and a dispatcher is told of it.
    pub fn is_for(
        &self,
        id: SessionId,
        dispatcher: SocketAddr,
        known: Option<&[SocketAddr]>,
    ) -> bool {
        let kept = self.records.get(&id);
        kept.is_some_and(|kept| kept.is_for(dispatcher, known))
    }

    /// It has been written at the journal's end.
    pub fn move_to(&mut self, id: SessionId, position: Position) {
        if let Some(kept) = self.records.get(&id) {
            let (dispatcher, sent) = (kept.dispatcher, kept.sent);
            self.add(id, Place::Disk(position), dispatcher, sent);
        }
    }

    /// Those on disk, in the order of their positions.
    pub fn on_disk(&self) -> impl Iterator<Item = (Position, SessionId)> {
        self.by_order.values().filter_map(|id| {
            let kept = self.records.get(id)?;
            match kept.place {
                Place::Disk(position) => Some((position, *id)),
                Place::Memory(_) => None,
            }
        })
    }

    /// Those that no disk has.
    pub fn in_memory(&self) -> Vec<(SessionId, Arc<[u8]>)> {
        let text = |id: &SessionId| match &self.records.get(id)?.place {
            Place::Disk(_) => None,
            Place::Memory(text) => Some((*id, Arc::clone(text))),
        };
        self.by_order.values().filter_map(text).collect()
    }

    pub fn note_sent(&mut self, id: SessionId, now: Duration) {
        if let Some(kept) = self.records.get_mut(&id) {
            kept.sent = now;
        }
    }

    /// What is open for a dispatcher, of whatever age.
    pub fn open_for(
        &mut self,
        dispatcher: SocketAddr,
        known: Option<&[SocketAddr]>,
        now: Duration,
    ) -> Vec<(SessionId, Place)> {
        let mut found = Vec::new();
        for id in self.by_order.values() {
            let Some(kept) = self.records.get_mut(id) else {
                continue;
            };
            if kept.is_for(dispatcher, known) {
                kept.sent = now;
                found.push((*id, kept.place.clone()));
            }
        }
        found
    }

    /// Of that, what was not sent for a while, to whomever.
    pub fn overdue(
        &self,
        dispatcher: SocketAddr,
        known: Option<&[SocketAddr]>,
        now: Duration,
    ) -> Vec<(SessionId, Place)> {
        let is_overdue = |kept: &&Kept| now >= kept.sent + AGAIN && kept.is_for(dispatcher, known);
        let overdue = |id: &SessionId| {
            let kept = self.records.get(id).filter(is_overdue)?;
            Some((*id, kept.place.clone()))
        };
        self.by_order.values().filter_map(overdue).collect()
    }
}

/// Whose record this is, and which session's.
fn kept(text: &[u8]) -> Option<(SocketAddr, SessionId)> {
    #[derive(serde::Deserialize)]
    #[serde(remote = "Self")]
    struct Seen {
        session_id: String,
    }
    objects_only!(Seen);
    let (dispatcher, rest) = split(text)?;
    let (word, statistics) = split(rest)?;
    if ![How::Expired, How::Removed]
        .iter()
        .any(|how| how.word().as_bytes() == word)
    {
        return None;
    }
    let dispatcher = std::str::from_utf8(dispatcher).ok()?.parse().ok()?;
    let seen: Seen = serde_json::from_slice(statistics).ok()?;
    Some((dispatcher, seen.session_id.parse().ok()?))
}

/// At the first blank.
pub fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = text.iter().position(|b| *b == b' ')?;
    Some((text.get(..blank)?, text.get(blank + 1..)?))
}
