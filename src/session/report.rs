//! What a session tells about itself: counters, codecs, the statistics object (docs/protocol.md section 5), the lines
//! in the log.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddrV4;
use std::time::Duration;

use log::{debug, info, warn};

use super::Settings;
use super::call::{Refusal, Session};
use super::engine::Engine;
use super::stream::{Leg, Status, Stream};
use crate::moment::Now;
use crate::proto::control::{MessageKind, Update};
use crate::proto::link::UpdateReply;
use crate::proto::record::{CallRecord, ExactNames, OfferedStream, Scalar, StreamRecord};
use crate::proto::{Component, Party, Text, Visible};

/// Packets, and bytes with their IP and UDP headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub packets: u64,
    pub bytes: u64,
}

impl Counters {
    pub fn add(&mut self, packets: u64, bytes: u64) {
        self.packets += packets;
        self.bytes += bytes;
    }

    /// What was counted and did not happen.
    pub fn take_back(&mut self, packets: u64, bytes: u64) {
        self.packets = self.packets.saturating_sub(packets);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl std::ops::Add for Counters {
    type Output = Counters;
    fn add(self, more: Counters) -> Counters {
        Counters {
            packets: self.packets + more.packets,
            bytes: self.bytes + more.bytes,
        }
    }
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, more: Counters) {
        *self = *self + more;
    }
}

/// An RTP payload type, 0 to 127, shown by its name for people (RFC 3551 section 6, M6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codec(pub u8);

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "G711u",
            1 => "1016",
            2 => "G721",
            3 => "GSM",
            4 => "G723",
            5 | 6 => "DVI4",
            7 => "LPC",
            8 => "G711a",
            9 => "G722",
            10 | 11 => "L16",
            14 => "MPA",
            15 => "G728",
            18 => "G729",
            25 => "CelB",
            26 => "JPEG",
            28 => "nv",
            31 => "H261",
            32 => "MPV",
            33 => "MP2T",
            34 => "H263",
            dynamic @ 96.. => return write!(f, "Dynamic({dynamic})"),
            unknown => return write!(f, "Unknown({unknown})"),
        };
        f.write_str(name)
    }
}

/// Where one of its names is not UTF-8: all of them as commands take them.
fn exact(session: &Session) -> Option<ExactNames<'_>> {
    let (call_id, from_tag) = (&session.call_id.0, &session.caller_tag.0);
    let to_tag = session.callee_tag().map(|tag| &tag.0);
    let is_plain = call_id.is_utf8() && from_tag.is_utf8() && to_tag.is_none_or(Text::is_utf8);
    (!is_plain).then(|| ExactNames {
        call_id: call_id.escaped().into(),
        from_tag: from_tag.escaped().into(),
        to_tag: to_tag.map(Text::escaped).into(),
    })
}

impl Engine {
    /// Live streams by type.
    pub fn stream_counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for stream in self.live().flat_map(|s| &s.streams).filter(|s| s.is_live()) {
            *counts
                .entry(stream.media_type.as_str().to_owned())
                .or_insert(0) += 1;
        }
        counts
    }
}

/// Appends what `sessions` tells of a session, on one line.
pub fn write_listed(out: &mut Vec<u8>, session: &Session, now: Now) {
    let streams = session.streams.iter();
    let waiting =
        streams.filter(|stream| stream.is_live() && session.listed_since(stream).is_none());
    let offered = waiting.map(|stream| {
        let [caller, callee] = &stream.legs;
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
        ..call_record(session, now)
    };
    // As below.
    let _ = serde_json::to_writer(out, &listed);
}

/// Appends the statistics object of a session, on one line.
pub fn write_session(out: &mut Vec<u8>, session: &Session, now: Now) {
    // Writing to memory does not fail, and no map here has keys that JSON cannot hold.
    let _ = serde_json::to_writer(out, &call_record(session, now));
}

pub fn call_record(session: &Session, now: Now) -> CallRecord<'_> {
    let duration = session.duration(now.mono.since_start());
    let mut listed: Vec<&Stream> = session
        .streams
        .iter()
        .filter(|stream| session.listed_since(stream).is_some())
        .collect();
    listed.sort_by_key(|stream| session.listed_since(stream));
    let reports = listed
        .into_iter()
        .map(|stream| stream_record(session, stream, duration));
    CallRecord {
        session_id: session.id.to_string().into(),
        call_id: session.call_id.0.lossy(),
        from_tag: (&session.caller_tag.0).into(),
        to_tag: session.callee_tag().map(|tag| &tag.0).into(),
        from_uri: (&session.from_uri).into(),
        to_uri: (&session.to_uri).into(),
        start_time: session
            .started
            .map(|start| seconds(start.unix.elapsed()))
            .into(),
        duration: duration.as_secs().into(),
        caller_ua: Scalar::text_or_unknown(session.user_agents[Party::Caller as usize].as_ref()),
        callee_ua: Scalar::text_or_unknown(session.user_agents[Party::Callee as usize].as_ref()),
        username: session.username.as_ref().into(),
        dialog_id: session.dialog_id.as_ref().map(|id| &id.0).into(),
        exact: exact(session),
        streams: Some(reports.collect()),
        ..CallRecord::default()
    }
}

/// For JSON, to the microsecond.
pub fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}

pub fn stream_record<'a>(
    session: &Session,
    stream: &'a Stream,
    duration: Duration,
) -> StreamRecord<'a> {
    let [caller, callee] = &stream.legs;
    let since_start = |time: Duration| {
        session
            .started
            .map(|start| time.saturating_sub(start.mono.since_start()))
    };
    let start_time = session.listed_since(stream).and_then(since_start);
    let end_time = match (stream.status, stream.ended) {
        (Status::Rejected, _) => start_time,
        // A line that was off in the offer has ended before its answer.
        (_, Some((ended, _))) => since_start(ended).max(start_time),
        (_, None) => session.started.map(|_| duration),
    };
    let post_dial_delay = stream
        .first_media
        .map(|first| first.saturating_sub(stream.created));
    StreamRecord {
        media_type: stream.media_type.as_str().into(),
        status: status_text(stream).into(),
        timeout_wait: stream
            .ended
            .map_or(0, |(_, waited)| waited.as_secs())
            .into(),
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
    SocketAddrV4::new(leg.local, leg.port).to_string()
}

fn remote(leg: &Leg) -> Option<SocketAddrV4> {
    leg.beliefs[Component::Rtp as usize].check_address()
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

impl Status {
    /// The word in the statistics and in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Live => "active",
            Status::Closed => "closed",
            Status::Rejected => "rejected",
            Status::NoTraffic => "no-traffic timeout",
            Status::OnHoldTimeout => "on hold timeout",
            Status::ConntrackTimeout => "conntrack timeout",
            Status::UnselectedIce => "unselected ICE candidate",
        }
    }
}

/// The answer to an update, and its log line.
pub fn reply(
    session: &Session,
    update: &Update,
    result: Result<Vec<u16>, Refusal>,
    settings: &Settings,
) -> UpdateReply {
    let sender = session.sender(update);
    let kind = match update.kind {
        MessageKind::Request => "request",
        MessageKind::Reply => "reply",
    };
    let about = format_args!("{kind} {} of the {sender}", update.cseq.0);
    match result {
        Ok(ports) => {
            let address = settings
                .advertised_ip
                .unwrap_or(session.local(sender.other()));
            info!(
                "[session {}] {about}: relay {address} ports {ports:?}",
                session.call_id
            );
            UpdateReply::Ports(address.into(), ports)
        }
        Err(why) => {
            warn!("[session {}] {about} refused: {why}", session.call_id);
            UpdateReply::Error(why.into())
        }
    }
}

/// The log line of a session's end; `how` it came about. The statistics are in the dispatcher's log.
pub fn log_end(session: &Session, how: &str, statistics: &[u8], now: Now) {
    let (call_id, why) = (&session.call_id, reason(session));
    let sum = |party| {
        let legs = session.streams.iter().map(|stream| stream.leg(party));
        legs.map(|leg| leg.relayed().packets).sum::<u64>()
    };
    info!(
        "[session {call_id}] {how} ({why}) after {} s: {} packets relayed from the caller, {} from the callee",
        session.duration(now.mono.since_start()).as_secs(),
        sum(Party::Caller),
        sum(Party::Callee)
    );
    debug!("[session {call_id}] statistics {}", Visible(statistics));
}

/// Why a session ended, as its last stream tells.
fn reason(session: &Session) -> &'static str {
    let ended = |s: &&Stream| s.ended.map(|(at, _)| at);
    let last = session.streams.iter().max_by_key(ended);
    last.map_or("no streams", |stream| stream.status.as_str())
}
