//! When a session has been silent too long, and what of it ends then (C6, C7, M7).

use std::collections::VecDeque;
use std::time::Duration;

use log::info;

use super::actions::Action;
use super::flows::withdraw_component;
use super::media::Media;
use super::settings::Settings;
use super::status::Status;
use super::stream::{Limit, Stream, StreamLine};
use crate::moment::Moment;
use crate::proto::Component;

/// A session's media with the limits that they are held to.
#[derive(Clone, Copy)]
pub(super) struct Silence<'a> {
    media: &'a Media,
    settings: &'a Settings,
}

impl<'a> Silence<'a> {
    pub(super) fn of(media: &'a Media, settings: &'a Settings) -> Silence<'a> {
        Silence { media, settings }
    }

    /// When something is to be looked at if nothing more happens.
    pub(super) fn deadline(self) -> Moment {
        let live = self.media.streams.iter().filter(|stream| stream.is_live());
        let deadlines = live.flat_map(|stream| {
            let proposal = self.is_proposal(stream);
            let setup = proposal.then(|| stream.setup_limit(self.settings).at);
            [setup, stream.rtcp_deadline(self.settings)]
        });
        let first = deadlines.chain([self.silent_at()]).flatten().min();
        first.unwrap_or_else(|| self.given_up_at())
    }

    /// What ends a live stream. A session is silent when all its streams are, each for its own limit (M7), so the last
    /// of these ends all; a proposal ends alone.
    pub(super) fn limit(self, stream: &Stream) -> Limit {
        if self.is_proposal(stream) {
            return stream.setup_limit(self.settings);
        }
        let own = self.own_limit(stream);
        Limit {
            at: self.silent_at().unwrap_or(own.at),
            ..own
        }
    }

    fn own_limit(self, stream: &Stream) -> Limit {
        stream.silence(self.settings, !self.media.is_finally_answered())
    }

    /// When the session has been silent for too long; none while nothing is agreed on that could be heard.
    fn silent_at(self) -> Option<Moment> {
        let streams = self.media.streams.iter();
        let counted = streams.filter(|stream| self.counts(stream));
        counted.map(|stream| self.own_limit(stream).at).max()
    }

    /// Returns true if a stream's silence is the session's.
    fn counts(self, stream: &Stream) -> bool {
        stream.is_live() && !self.is_proposal(stream)
    }

    /// Returns true if a stream waits for its answer in a call that has other streams.
    fn is_proposal(self, stream: &Stream) -> bool {
        stream.answered.is_none() && !self.media.offers.current().is_empty()
    }

    /// A session whose streams are all closed or rejected waits for the next offer or its end until this time.
    fn given_up_at(self) -> Moment {
        let streams = self.media.streams.iter();
        let last = streams.filter_map(|stream| Some(stream.ended?.at)).max();
        let limit = if self.media.is_finally_answered() {
            self.settings.on_hold_timeout
        } else {
            self.settings.setup_timeout
        };
        last.unwrap_or(self.media.created) + limit
    }
}

/// What has ended because nothing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    Nothing,
    /// A proposal, or what was learned of RTCP.
    Some,
    /// The session is over.
    All,
}

/// Gives up what nobody answered, and ends the streams when all of them have been silent too long: the session is over then, or
/// when it has waited too long for another stream (M7). What the kernel relayed is known as of `heard`:
/// what it has is not called silent before a later reading says so.
pub(super) fn expire(
    media: &mut Media,
    settings: &Settings,
    heard: Moment,
    actions: &mut VecDeque<Action>,
    now: Moment,
) -> Expiry {
    if !media.has_live_stream() {
        return if Silence::of(media, settings).given_up_at() <= now {
            Expiry::All
        } else {
            Expiry::Nothing
        };
    }
    let mut expiry = Expiry::Nothing;
    for index in 0..media.streams.len() {
        let stream = &media.streams[index];
        let is_due = stream.setup_limit(settings).at <= now;
        let is_proposal = Silence::of(media, settings).is_proposal(stream);
        if stream.is_live() && is_due && is_proposal {
            media.end_stream(index, Status::Closed, Duration::ZERO, actions, now);
            expiry = Expiry::Some;
        }
        let key = media.key;
        let stream = &mut media.streams[index];
        if stream.is_live() && stream.rtcp_deadline(settings).is_some_and(|due| due <= now) {
            stream.forget_rtcp();
            expiry = Expiry::Some;
            withdraw_component(stream, (key, index), Component::Rtcp, actions);
        }
    }
    let silent_at = Silence::of(media, settings).silent_at();
    let is_known = |at: &Moment| heard >= *at || !media.streams.iter().any(Stream::is_in_kernel);
    if silent_at.filter(|at| *at <= now).filter(is_known).is_none() {
        return expiry;
    }
    for index in 0..media.streams.len() {
        let stream = &media.streams[index];
        let silence = Silence::of(media, settings);
        if !silence.counts(stream) {
            continue;
        }
        let limit = silence.own_limit(stream).limit;
        let status = stream.silence_status();
        let line = StreamLine(stream, index);
        info!(
            "[session {}] {line}: {} after {} s",
            media.call_id,
            status.as_str(),
            limit.as_secs()
        );
        media.end_stream(index, status, limit, actions, now);
    }
    Expiry::All
}
