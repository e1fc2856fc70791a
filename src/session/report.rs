//! What a session tells about itself: the statistics object (docs/protocol.md section 5), and the list of those that go on.

use std::net::SocketAddr;
use std::time::Duration;

use super::actions::Owner;
use super::call::Session;
use super::leg::Leg;
use super::status::Status;
use super::stream::Stream;
use super::table::SessionTable;
use crate::moment::{Moment, Now};
use crate::proto::record::{CallRecord, ExactNames, OfferedStream, Scalar, StreamRecord};
use crate::proto::{PerParty, Text};

/// Where one of its names is not UTF-8: all of them as commands take them.
fn exact(session: &Session) -> Option<ExactNames<'_>> {
    let (call_id, from_tag) = (&session.call_id().0, &session.caller_tag.0);
    let to_tag = session.callee_tag().map(|tag| &tag.0);
    let is_plain = call_id.is_utf8() && from_tag.is_utf8() && to_tag.is_none_or(Text::is_utf8);
    (!is_plain).then(|| ExactNames {
        call_id: call_id.escaped().into(),
        from_tag: from_tag.escaped().into(),
        to_tag: to_tag.map(Text::escaped).into(),
    })
}

/// Appends the statistics of the sessions of wanted owners, each followed by a comma, beginning at `cursor` (0 at first):
/// up to so many, and none once there are so many bytes. The cursor to go on from, or none at the end: a long list
/// can be written in pieces.
pub(super) fn write_list(
    out: &mut Vec<u8>,
    sessions: &SessionTable,
    is_wanted: impl Fn(Owner) -> bool,
    cursor: usize,
    (most, bytes): (usize, usize),
    now: Now,
) -> Option<usize> {
    let wanted = sessions
        .live_from(cursor)
        .filter(|(_, session)| is_wanted(session.owner));
    for (written, (place, session)) in wanted.enumerate() {
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
        OfferedStream {
            media_type: stream.media_type.as_str().into(),
            caller_sdp: Scalar::or_unknown(caller.sdp()),
            callee_sdp: Scalar::or_unknown(callee.sdp()),
            caller_local: local(caller).into(),
            callee_local: local(callee).into(),
            caller_remote: Scalar::or_unknown(remote(caller)),
            callee_remote: Scalar::or_unknown(remote(callee)),
        }
    });
    let listed = CallRecord {
        offered: offered.collect(),
        signaling_ip: session.signaling.map(|ip| ip.to_string()).into(),
        adopted: adopted(session),
        ..call_record(session, now)
    };
    // As below.
    let _ = serde_json::to_writer(out, &listed);
}

/// When this process took the session over from the one before: seconds since 1970-01-01 UTC.
pub(super) fn adopted(session: &Session) -> Scalar<'static> {
    session.adopted.map(|now| now.unix.as_secs()).into()
}

/// Appends the statistics object of a session, on one line.
pub(super) fn write_session(out: &mut Vec<u8>, session: &Session, now: Now) {
    // Writing to memory does not fail, and no map here has keys that JSON cannot hold.
    let _ = serde_json::to_writer(out, &call_record(session, now));
}

pub(super) fn call_record(session: &Session, now: Now) -> CallRecord<'_> {
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
        .map(|stream| stream_record(session, stream, duration));
    CallRecord {
        session_id: session.id.to_string().into(),
        call_id: session.call_id().0.lossy(),
        from_tag: (&session.caller_tag.0).into(),
        to_tag: session.callee_tag().map(|tag| &tag.0).into(),
        from_uri: (&session.from_uri).into(),
        to_uri: (&session.to_uri).into(),
        start_time: session
            .media
            .started
            .map(|start| seconds(start.unix.elapsed()))
            .into(),
        duration: duration.as_secs().into(),
        caller_ua: Scalar::text_or_unknown(session.user_agents.caller.as_ref()),
        callee_ua: Scalar::text_or_unknown(session.user_agents.callee.as_ref()),
        username: session.username.as_ref().into(),
        dialog_id: session.dialog_id.as_ref().map(|id| &id.0).into(),
        exact: exact(session),
        streams: Some(reports.collect()),
        ..CallRecord::default()
    }
}

/// For JSON, to the microsecond.
pub(super) fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}

pub(super) fn stream_record<'a>(
    session: &Session,
    stream: &'a Stream,
    duration: Duration,
) -> StreamRecord<'a> {
    let PerParty { caller, callee } = &stream.legs;
    let since_start = |time: Moment| session.media.started.map(|start| time.since(start.mono));
    let start_time = session.media.listed_since(stream).and_then(since_start);
    let end_time = match (stream.status, stream.ended) {
        (Status::Rejected, _) => start_time,
        // A line that was off in the offer has ended before its answer.
        (_, Some(end)) => since_start(end.at).max(start_time),
        (_, None) => session.media.started.map(|_| duration),
    };
    let post_dial_delay = stream.first_media.map(|first| first.since(stream.created));
    StreamRecord {
        media_type: stream.media_type.as_str().into(),
        status: status_text(stream).into(),
        timeout_wait: stream.ended.map_or(0, |end| end.waited.as_secs()).into(),
        caller_codec: Scalar::or_unknown(caller.codec),
        callee_codec: Scalar::or_unknown(callee.codec),
        start_time: start_time.map(|time| time.as_secs()).into(),
        end_time: end_time.map(|time| time.as_secs()).into(),
        post_dial_delay: post_dial_delay.map(seconds).into(),
        caller_bytes: caller.relayed().bytes.into(),
        callee_bytes: callee.relayed().bytes.into(),
        caller_packets: caller.relayed().packets.into(),
        callee_packets: callee.relayed().packets.into(),
        caller_sdp: Scalar::or_unknown(caller.sdp()),
        callee_sdp: Scalar::or_unknown(callee.sdp()),
        caller_local: local(caller).into(),
        callee_local: local(callee).into(),
        caller_remote: Scalar::or_unknown(remote(caller)),
        callee_remote: Scalar::or_unknown(remote(callee)),
        caller_packets_user_space: caller.user_space.packets.into(),
        callee_packets_user_space: callee.user_space.packets.into(),
        caller_bytes_user_space: caller.user_space.bytes.into(),
        callee_bytes_user_space: callee.user_space.bytes.into(),
        caller_packets_kernel: caller.kernel.packets.into(),
        callee_packets_kernel: callee.kernel.packets.into(),
        caller_bytes_kernel: caller.kernel.bytes.into(),
        callee_bytes_kernel: callee.kernel.bytes.into(),
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
