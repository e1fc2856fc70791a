//! What a session tells about itself: the statistics object (docs/protocol.md section 5), and the list of those that go on.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::call::Session;
use super::codec::Codec;
use super::leg::Leg;
use super::status::Status;
use super::stream::Stream;
use super::table::SessionTable;
use crate::moment::{Moment, Now};
use crate::proto::media::MediaType;
use crate::proto::{CallId, DialogId, PerParty, SessionId, Tag, Text};

/// A codec or an address, `Unknown` where there is none.
struct OrUnknown<T>(Option<T>);

impl<T: fmt::Display> Serialize for OrUnknown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_str("Unknown"),
        }
    }
}

/// The statistics of a session as stored by accounting and shown by `sessions`.
#[derive(Serialize)]
pub struct SessionReport<'a> {
    session_id: SessionId,
    call_id: &'a CallId,
    from_tag: &'a Tag,
    to_tag: Option<&'a Tag>,
    from_uri: &'a Text,
    to_uri: &'a Text,
    start_time: Option<f64>,
    duration: u64,
    caller_ua: OrUnknown<&'a Text>,
    callee_ua: OrUnknown<&'a Text>,
    username: Option<&'a Text>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dialog_id: Option<&'a DialogId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exact: Option<Exact<'a>>,
    /// See [`Session::listed_since`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) streams: Option<Vec<StreamReport<'a>>>,
}

/// What JSON strings cannot tell, as commands take it: identifiers of which one at least is not UTF-8.
#[derive(Serialize)]
struct Exact<'a> {
    call_id: Shown<'a>,
    from_tag: Shown<'a>,
    to_tag: Option<Shown<'a>>,
}

/// With `\xe9` for bytes that are not UTF-8.
struct Shown<'a>(&'a Text);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.escaped())
    }
}

impl<'a> Exact<'a> {
    /// None where there is nothing to tell.
    fn of(session: &'a Session) -> Option<Exact<'a>> {
        let (call_id, from_tag) = (&session.call_id().0, &session.caller_tag.0);
        let to_tag = session.callee_tag().map(|tag| &tag.0);
        let is_plain = call_id.is_utf8() && from_tag.is_utf8() && to_tag.is_none_or(Text::is_utf8);
        (!is_plain).then(|| Exact {
            call_id: Shown(call_id),
            from_tag: Shown(from_tag),
            to_tag: to_tag.map(Shown),
        })
    }
}

#[derive(Serialize)]
pub struct StreamReport<'a> {
    media_type: &'a MediaType,
    status: &'static str,
    timeout_wait: u64,
    caller_codec: OrUnknown<Codec>,
    callee_codec: OrUnknown<Codec>,
    start_time: Option<u64>,
    end_time: Option<u64>,
    post_dial_delay: Option<f64>,
    caller_bytes: u64,
    callee_bytes: u64,
    caller_packets: u64,
    callee_packets: u64,
    caller_sdp: OrUnknown<String>,
    callee_sdp: OrUnknown<String>,
    caller_local: String,
    callee_local: String,
    caller_remote: OrUnknown<SocketAddr>,
    callee_remote: OrUnknown<SocketAddr>,
    // By path. Flat, as all of a stream is: CDRTool prints each of its keys as a string.
    caller_packets_user_space: u64,
    callee_packets_user_space: u64,
    caller_bytes_user_space: u64,
    callee_bytes_user_space: u64,
    caller_packets_kernel: u64,
    callee_packets_kernel: u64,
    caller_bytes_kernel: u64,
    callee_bytes_kernel: u64,
}

/// A session that goes on: the statistics, and the addresses of what is not answered yet.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    report: SessionReport<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signaling_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    offered: Vec<Offered<'a>>,
}

/// A stream that waits for its answer.
#[derive(Serialize)]
struct Offered<'a> {
    media_type: &'a MediaType,
    caller_sdp: OrUnknown<String>,
    callee_sdp: OrUnknown<String>,
    caller_local: String,
    callee_local: String,
    caller_remote: OrUnknown<SocketAddr>,
    callee_remote: OrUnknown<SocketAddr>,
}

/// Appends the statistics of sessions, each followed by a comma, beginning at `cursor` (0 at first): up to
/// so many, and none once there are so many bytes. The cursor to go on from, or none at the end: a long list
/// can be written in pieces.
pub fn write_list(
    out: &mut Vec<u8>,
    sessions: &SessionTable,
    cursor: usize,
    (most, bytes): (usize, usize),
    now: Now,
) -> Option<usize> {
    for (written, (place, session)) in sessions.live_from(cursor).enumerate() {
        if written == most || out.len() >= bytes {
            return Some(place);
        }
        write_listed(out, session, now);
        out.push(b',');
    }
    None
}

/// Appends what `sessions` tells of a session, on one line.
fn write_listed(out: &mut Vec<u8>, session: &Session, now: Now) {
    let streams = session.media.streams.iter();
    let waiting =
        streams.filter(|stream| stream.is_live() && session.media.listed_since(stream).is_none());
    let offered = waiting.map(|stream| {
        let PerParty { caller, callee } = &stream.legs;
        Offered {
            media_type: &stream.media_type,
            caller_sdp: OrUnknown(caller.sdp()),
            callee_sdp: OrUnknown(callee.sdp()),
            caller_local: local(caller),
            callee_local: local(callee),
            caller_remote: OrUnknown(remote(caller)),
            callee_remote: OrUnknown(remote(callee)),
        }
    });
    let listed = Listed {
        offered: offered.collect(),
        report: session_report(session, now),
        signaling_ip: session.signaling,
    };
    // As below.
    let _ = serde_json::to_writer(out, &listed);
}

/// Appends the statistics object of a session, on one line.
pub fn write_session(out: &mut Vec<u8>, session: &Session, now: Now) {
    // Writing to memory does not fail, and no map here has keys that JSON cannot hold.
    let _ = serde_json::to_writer(out, &session_report(session, now));
}

pub fn session_report(session: &Session, now: Now) -> SessionReport<'_> {
    let duration = session.media.duration(now.mono);
    let mut listed: Vec<&Stream> = session
        .media
        .streams
        .iter()
        .filter(|stream| session.media.listed_since(stream).is_some())
        .collect();
    listed.sort_by_key(|stream| session.media.listed_since(stream));
    let reports = listed
        .into_iter()
        .map(|stream| stream_report(session, stream, duration));
    SessionReport {
        session_id: session.id,
        call_id: session.call_id(),
        from_tag: &session.caller_tag,
        to_tag: session.callee_tag(),
        from_uri: &session.from_uri,
        to_uri: &session.to_uri,
        start_time: session
            .media
            .started
            .map(|start| seconds(start.unix.elapsed())),
        duration: duration.as_secs(),
        caller_ua: OrUnknown(session.user_agents.caller.as_ref()),
        callee_ua: OrUnknown(session.user_agents.callee.as_ref()),
        username: session.username.as_ref(),
        dialog_id: session.dialog_id.as_ref(),
        exact: Exact::of(session),
        streams: Some(reports.collect()),
    }
}

/// For JSON, to the microsecond.
pub fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}

pub fn stream_report<'a>(
    session: &Session,
    stream: &'a Stream,
    duration: Duration,
) -> StreamReport<'a> {
    let PerParty { caller, callee } = &stream.legs;
    let since_start = |time: Moment| session.media.started.map(|start| time.since(start.mono));
    let start_time = session.media.listed_since(stream).and_then(since_start);
    let end_time = match (stream.status, stream.ended) {
        (Status::Rejected, _) => start_time,
        // A line that was off in the offer has ended before its answer.
        (_, Some((ended, _))) => since_start(ended).max(start_time),
        (_, None) => session.media.started.map(|_| duration),
    };
    let post_dial_delay = stream.first_media.map(|first| first.since(stream.created));
    StreamReport {
        media_type: &stream.media_type,
        status: status_text(stream),
        timeout_wait: stream.ended.map_or(0, |(_, waited)| waited.as_secs()),
        caller_codec: OrUnknown(caller.codec),
        callee_codec: OrUnknown(callee.codec),
        start_time: start_time.map(|time| time.as_secs()),
        end_time: end_time.map(|time| time.as_secs()),
        post_dial_delay: post_dial_delay.map(seconds),
        caller_bytes: caller.relayed().bytes,
        callee_bytes: callee.relayed().bytes,
        caller_packets: caller.relayed().packets,
        callee_packets: callee.relayed().packets,
        caller_sdp: OrUnknown(caller.sdp()),
        callee_sdp: OrUnknown(callee.sdp()),
        caller_local: local(caller),
        callee_local: local(callee),
        caller_remote: OrUnknown(remote(caller)),
        callee_remote: OrUnknown(remote(callee)),
        caller_packets_user_space: caller.user_space.packets,
        callee_packets_user_space: callee.user_space.packets,
        caller_bytes_user_space: caller.user_space.bytes,
        callee_bytes_user_space: callee.user_space.bytes,
        caller_packets_kernel: caller.kernel.packets,
        callee_packets_kernel: callee.kernel.packets,
        caller_bytes_kernel: caller.kernel.bytes,
        callee_bytes_kernel: callee.kernel.bytes,
    }
}

fn local(leg: &Leg) -> String {
    SocketAddr::new(leg.local, leg.port).to_string()
}

fn remote(leg: &Leg) -> Option<SocketAddr> {
    leg.beliefs.rtp.check_address()
}

/// The field's words for what became of a stream.
fn status_text(stream: &Stream) -> &'static str {
    match stream.status {
        Status::Live if stream.declined => "rejected",
        Status::Live if stream.on_hold() => "on hold",
        Status::Live => "active",
        ended => ended.as_str(),
    }
}
