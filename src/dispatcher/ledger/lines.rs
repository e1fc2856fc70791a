//! A live call, or a dialog to be ended, as a line of the ledger: JSON, which an administrator can read, with every byte of
//! what the proxy sent.

use std::net::IpAddr;
use std::time::Duration;

use log::warn;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Due;
use crate::dispatcher::call::{CallNote, Known, LiveCall};
use crate::dispatcher::relay_id::RelayKey;
use crate::moment::UnixTime;
use crate::objects::objects_only;
use crate::proto::control::Remove;
use crate::proto::name::Name;
use crate::proto::{CSeq, CallId, DialogId, SessionId, Tag, Text};

/// What the proxy sent: a string, or a list of numbers where it is not UTF-8.
struct Bytes(Text);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.0.as_bytes();
        match std::str::from_utf8(bytes) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_seq(bytes),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Numbers(Vec<u8>),
        }
        Ok(Bytes(match Either::deserialize(deserializer)? {
            Either::Text(text) => text.as_str().into(),
            Either::Numbers(bytes) => bytes.as_slice().into(),
        }))
    }
}

/// Times are microseconds since 1970-01-01 UTC.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(super) struct CallLine {
    pub session_id: String,
    call_id: Bytes,
    from_tag: Bytes,
    to_tag: Option<Bytes>,
    from_uri: Bytes,
    to_uri: Bytes,
    caller_ua: Option<Bytes>,
    callee_ua: Option<Bytes>,
    username: Option<Bytes>,
    started: u64,
    ended: Option<u64>,
    dialog_id: Option<Bytes>,
    /// The to_tag is that of the one who has finally answered.
    answered: bool,
    /// The number of the request that opened it.
    #[serde(default)]
    opening: Option<u32>,
    begun_by_reply: bool,
    relay: IpAddr,
    relay_name: Option<String>,
    owed: Option<Owed>,
    /// How long its relay had been away then.
    #[serde(default)]
    away: u64,
    /// When this was written.
    pub at: u64,
}
objects_only!(CallLine, both ways);

/// The rest of it is the call's.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Self")]
struct Owed {
    from_tag: Bytes,
    to_tag: Option<Bytes>,
}
objects_only!(Owed, both ways);

impl CallLine {
    /// None for a call that was not answered.
    pub(super) fn new(note: &CallNote, at: UnixTime) -> Option<CallLine> {
        let call = &note.call;
        let known = &call.known;
        let text = |text: &Text| Bytes(text.clone());
        let tag = |tag: &Tag| Bytes(tag.0.clone());
        Some(CallLine {
            session_id: known.session_id.to_string(),
            call_id: text(&call.name.call_id.0),
            from_tag: tag(call.name.caller.as_ref()?),
            to_tag: call.name.callee.as_ref().map(tag),
            from_uri: text(&known.from_uri),
            to_uri: text(&known.to_uri),
            caller_ua: known.caller_ua.as_ref().map(text),
            callee_ua: known.callee_ua.as_ref().map(text),
            username: known.username.as_ref().map(text),
            started: time_micros(known.started?),
            ended: known.ended.map(time_micros),
            dialog_id: call.dialog_id.as_ref().map(|id| text(&id.0)),
            answered: call.name.callee.is_some(),
            opening: call.opening.map(|cseq| cseq.0),
            begun_by_reply: call.begun_by_reply,
            relay: note.relay.address,
            relay_name: note.relay.name.as_deref().map(str::to_owned),
            owed: call.owed.as_ref().map(|remove| Owed {
                from_tag: tag(&remove.from_tag),
                to_tag: remove.to_tag.as_ref().map(tag),
            }),
            away: micros(note.away),
            at: time_micros(at),
        })
    }

    /// The call, as one that was last seen at this time. None where the session's id is none.
    pub(super) fn note(self, seen: UnixTime) -> Option<CallNote> {
        let call_id = CallId(self.call_id.0);
        let started = time_of(self.started);
        let ended = self.ended.map(time_of);
        let since = seen.since(time_of(self.at));
        // Noted at its relay's loss, and not since.
        let away = ended.map_or(Duration::ZERO, |_| Duration::from_micros(self.away) + since);
        let text = |bytes: Bytes| bytes.0;
        let tag = |bytes: Bytes| Tag(bytes.0);
        let session_id: SessionId = self.session_id.parse().ok()?;
        let owed = self.owed.map(|owed| Remove {
            call_id: call_id.clone(),
            from_tag: tag(owed.from_tag),
            to_tag: owed.to_tag.map(tag),
        });
        let callee = self.to_tag.filter(|_| self.answered);
        let call = LiveCall {
            name: Name {
                call_id,
                caller: Some(tag(self.from_tag)),
                callee: callee.map(tag),
            },
            dialog_id: self.dialog_id.map(|id| DialogId(id.0)),
            opening: self.opening.map(CSeq),
            begun_by_reply: self.begun_by_reply,
            known: Known {
                session_id,
                from_uri: text(self.from_uri),
                to_uri: text(self.to_uri),
                caller_ua: self.caller_ua.map(text),
                callee_ua: self.callee_ua.map(text),
                username: self.username.map(text),
                started: Some(started),
                ended: Some(ended.unwrap_or_else(|| seen.max(started))),
            },
            owed,
        };
        Some(CallNote {
            call,
            relay: RelayKey {
                address: self.relay,
                name: self.relay_name.map(|name| name.as_str().into()),
            },
            away,
            order: 0,
        })
    }
}

/// When it was to be ended: microseconds since 1970-01-01 UTC.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(super) struct DialogLine {
    call_id: Bytes,
    /// Earlier versions wrote no tags.
    #[serde(default)]
    from_tag: Option<Bytes>,
    #[serde(default)]
    to_tag: Option<Bytes>,
    dialog_id: Bytes,
    at: u64,
}
objects_only!(DialogLine, both ways);

impl DialogLine {
    pub(super) fn new(due: &Due, at: UnixTime) -> DialogLine {
        let tag = |tag: &Tag| Bytes(tag.0.clone());
        DialogLine {
            call_id: Bytes(due.name.call_id.0.clone()),
            from_tag: due.name.caller.as_ref().map(tag),
            to_tag: due.name.callee.as_ref().map(tag),
            dialog_id: Bytes(due.dialog_id.0.clone()),
            at: time_micros(at),
        }
    }

    /// The dialog, and since when it was to be ended; none where that is before the oldest time, which the log says.
    pub(super) fn due(self, id: SessionId, oldest: UnixTime) -> Option<(Due, UnixTime)> {
        let due = Due {
            id,
            name: Name {
                call_id: CallId(self.call_id.0),
                caller: self.from_tag.map(|tag| Tag(tag.0)),
                callee: self.to_tag.map(|tag| Tag(tag.0)),
            },
            dialog_id: DialogId(self.dialog_id.0),
        };
        if time_of(self.at) < oldest {
            let (call_id, dialog_id) = (&due.name.call_id, &due.dialog_id);
            warn!("[session {call_id}] dialog {dialog_id} is not ended: it was to be too long ago");
            return None;
        }
        Some((due, time_of(self.at)))
    }
}

fn micros(length: Duration) -> u64 {
    u64::try_from(length.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds since 1970-01-01 UTC.
pub(super) fn time_micros(time: UnixTime) -> u64 {
    micros(time.elapsed())
}

/// See [`time_micros`].
pub(super) fn time_of(micros: u64) -> UnixTime {
    UnixTime::since_epoch(Duration::from_micros(micros))
}
