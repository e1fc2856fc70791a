//! The media of one session: its streams, what was offered and answered of them, since when it is answered.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use log::debug;
use serde::{Deserialize, Serialize};

use super::actions::Action;
use super::flows::withdraw;
use super::keys::SessionKey;
use super::offers::Offers;
use super::status::Status;
use super::stream::{Stream, StreamLine};
use crate::moment::{Moment, Now};
use crate::proto::saved::{exact, is_usual};
use crate::proto::{CallId, PerParty};

/// Streams that one session may have had; each costs about half a kilobyte until the session ends.
pub(super) const STREAMS_KEPT: usize = 1024;

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Media {
    /// The session, and how its log lines name it.
    #[serde(skip, default = "SessionKey::none")]
    pub key: SessionKey,
    #[serde(with = "exact")]
    pub call_id: CallId,
    pub created: Moment,
    /// The first answer (C5).
    #[serde(default, skip_serializing_if = "is_usual")]
    pub started: Option<Now>,
    /// The relay's address on each party's side.
    pub locals: PerParty<IpAddr>,
    /// All there ever were, in the order in which they were proposed.
    #[serde(default)]
    pub streams: Vec<Stream>,
    #[serde(default)]
    pub offers: Offers,
    /// When the session was ended; its last report may have to wait for the kernel.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub over: Option<Moment>,
}

impl Media {
    /// None yet.
    pub(super) fn new(
        key: SessionKey,
        call_id: CallId,
        locals: PerParty<IpAddr>,
        now: Moment,
    ) -> Media {
        Media {
            key,
            call_id,
            created: now,
            started: None,
            locals,
            streams: Vec::new(),
            offers: Offers::default(),
            over: None,
        }
    }

    /// The callee has finally answered (C5).
    pub(super) fn is_finally_answered(&self) -> bool {
        self.offers.established().is_some()
    }

    /// Ends a live stream and gives up its ports and kernel entries.
    pub(super) fn end_stream(
        &mut self,
        index: usize,
        status: Status,
        waited: Duration,
        actions: &mut VecDeque<Action>,
        now: Moment,
    ) {
        let stream = &mut self.streams[index];
        if !stream.is_live() {
            return;
        }
        debug!(
            "[session {}] {} ends: {}",
            self.call_id,
            StreamLine(stream, index),
            status.as_str()
        );
        withdraw(stream, (self.key, index), actions);
        let legs = stream.legs.iter();
        actions.extend(legs.map(|leg| Action::Close { port: leg.port }));
        stream.end(status, waited, now);
    }

    pub(super) fn has_live_stream(&self) -> bool {
        self.streams.iter().any(Stream::is_live)
    }

    /// When a stream was answered, which is when the statistics begin to list it. An answer without any SDP, before
    /// which no other came, answers all: MediaProxy's dispatcher takes the relay's address from the first stream of each
    /// call that has started, and must find one.
    pub(super) fn listed_since(&self, stream: &Stream) -> Option<Moment> {
        let is_untold = || self.streams.iter().all(|stream| stream.answered.is_none());
        let of_session = || self.started.filter(|_| is_untold()).map(|start| start.mono);
        stream.answered.or_else(of_session)
    }

    /// Returns true if the kernel still has flows that are to be withdrawn.
    pub(super) fn is_withdrawing(&self) -> bool {
        self.streams.iter().any(Stream::is_withdrawing)
    }

    /// Since the first answer; zero before it.
    pub(super) fn duration(&self, now: Moment) -> Duration {
        let until = self.over.unwrap_or(now);
        let started = self.started.map_or(until, |start| start.mono);
        until.since(started)
    }

    /// What a state does not say, of media that were read from one.
    ///
    /// # Errors
    /// Where one part of the state contradicts another.
    pub(super) fn restore(&mut self) -> Result<(), String> {
        if self.streams.len() > STREAMS_KEPT {
            return Err("too many streams".into());
        }
        if self
            .offers
            .streams()
            .any(|index| index >= self.streams.len())
        {
            return Err("an offer names a stream that is not there".into());
        }
        for stream in &mut self.streams {
            stream.restore()?;
        }
        let live = self.streams.iter().filter(|stream| stream.is_live());
        let mut ports = live.flat_map(|stream| stream.legs.iter().map(|leg| leg.port));
        let mut seen = HashSet::new();
        if !ports.all(|port| seen.insert(port)) {
            return Err("one pair of ports is there twice".into());
        }
        Ok(())
    }
}
