//! All that is known of a call, for who wants to know why somebody hears nothing: the statistics object
//! (`report`) and beside it each stream's time-out, addresses, paths and dropped packets. docs/protocol.md section 9.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::call::Session;
use super::candidate::Candidate;
use super::drops::Dropped;
use super::evidence::Rank;
use super::handover::MediaPath;
use super::leg::Leg;
use super::report::{adopted, call_record, seconds, stream_record};
use super::settings::Settings;
use super::silence::Silence;
use super::stream::Stream;
use super::table::SessionTable;
use crate::moment::{Moment, Now};
use crate::proto::media::Direction;
use crate::proto::record::{CallRecord, StreamRecord};
use crate::proto::{CallId, Component, Party};

/// A session. All its streams are listed, answered or not.
#[derive(Serialize)]
struct Explained<'a> {
    #[serde(flatten)]
    report: CallRecord<'a>,
    /// The callee has finally answered.
    answered: bool,
    streams: Vec<ExplainedStream<'a>>,
}

#[derive(Serialize)]
struct ExplainedStream<'a> {
    #[serde(flatten)]
    report: StreamRecord<'a>,
    /// None where it has ended.
    timeout: Option<Limit>,
    /// Seconds since its first answer.
    since_answer: Option<f64>,
    caller: ExplainedLeg,
    callee: ExplainedLeg,
    rtp: ExplainedComponent,
    rtcp: ExplainedComponent,
}

/// The limit that ends a stream if nothing more comes.
#[derive(Serialize)]
struct Limit {
    /// The configuration key.
    name: &'static str,
    /// Seconds, both.
    limit: u64,
    left: f64,
}

/// One party.
#[derive(Serialize)]
struct ExplainedLeg {
    /// Whether media is sent there before the party has shown where it is.
    sdp_usable: bool,
    direction: &'static str,
    ice: bool,
    /// Where its SIP came from, the latest first; not the relay's own addresses.
    signaling: Vec<IpAddr>,
    /// Where its media is to go: what the relay has put into the SDP that it got.
    told: SocketAddr,
    /// Seconds since its last media, and its last RTCP.
    last_media: Option<f64>,
    last_rtcp: Option<f64>,
    /// Its packets that were not passed on, by reason.
    dropped: Dropped,
    /// Its packets that the host did not take.
    unsent: u64,
    last_unsent: Option<Failure>,
    /// The last other address that has sent to its port.
    stranger: Option<Stranger>,
    /// The call by which its packets come round.
    round_with: Option<String>,
    /// Its longest packet that user space has seen, bytes with headers.
    longest: u64,
}

/// A packet that the host did not take.
#[derive(Serialize)]
struct Failure {
    /// Seconds since.
    ago: f64,
    /// The kernel's number for why.
    errno: i32,
}

/// A source that is not the party's.
#[derive(Serialize)]
struct Stranger {
    address: SocketAddr,
    /// Seconds since.
    ago: f64,
}

/// RTP or RTCP of a stream.
#[derive(Serialize)]
struct ExplainedComponent {
    /// Where the parties were seen; `stun` where only connectivity checks came from there.
    caller: Option<Learned>,
    callee: Option<Learned>,
    /// Who else has sent to each party's port of late.
    caller_candidates: Vec<Claim>,
    callee_candidates: Vec<Claim>,
    /// `kernel` or `user space`.
    path: &'static str,
    /// Why it is user space, or since when it is the kernel.
    why: String,
}

#[derive(Serialize)]
struct Learned {
    address: String,
    by: &'static str,
    /// What speaks for it: exact, ice, near or other; and why.
    rank: &'static str,
    why: &'static str,
}

/// A source that is not believed to be a party.
#[derive(Serialize)]
struct Claim {
    address: SocketAddr,
    packets: u64,
    rank: &'static str,
    /// Seconds since its last.
    ago: f64,
    why: String,
}

/// Appends an array of the sessions of a call-id. False where there are none.
pub(super) fn write(
    out: &mut Vec<u8>,
    sessions: &SessionTable,
    call_id: &CallId,
    settings: &Settings,
    now: Now,
) -> bool {
    let explained: Vec<Explained<'_>> = sessions
        .of_call(call_id)
        .map(|session| explain(session, settings, now))
        .collect();
    // Writing to memory does not fail, and no map here has keys that JSON cannot hold.
    let _ = serde_json::to_writer(out, &explained);
    !explained.is_empty()
}

fn explain<'a>(session: &'a Session, settings: &Settings, now: Now) -> Explained<'a> {
    let duration = session.media.duration(now.mono);
    let streams = session.media.streams.iter();
    let streams = streams.map(|stream| ExplainedStream {
        report: stream_record(session, stream, duration),
        timeout: stream
            .is_live()
            .then(|| limit(session, stream, settings, now.mono)),
        since_answer: stream.answered.map(|at| seconds(now.mono.since(at))),
        caller: leg(&stream.legs.caller, settings, now.mono),
        callee: leg(&stream.legs.callee, settings, now.mono),
        rtp: component(stream, Component::Rtp, settings, now.mono),
        rtcp: component(stream, Component::Rtcp, settings, now.mono),
    });
    let mut report = call_record(session, now);
    report.adopted = adopted(session);
    // All of them are listed here.
    report.streams = None;
    Explained {
        report,
        answered: session.media.is_finally_answered(),
        streams: streams.collect(),
    }
}

fn limit(session: &Session, stream: &Stream, settings: &Settings, now: Moment) -> Limit {
    let limit = Silence::of(&session.media, settings).limit(stream);
    Limit {
        name: limit.name,
        limit: limit.limit.as_secs(),
        left: seconds(limit.at.since(now)),
    }
}

fn leg(leg: &Leg, settings: &Settings, now: Moment) -> ExplainedLeg {
    let incidents = leg.incidents();
    let last_unsent = incidents.and_then(|told| told.last_unsent);
    let stranger = incidents.and_then(|told| told.stranger);
    let round_with = incidents.and_then(|told| told.round_with.as_ref());
    let since = |time: Option<Moment>| Some(seconds(now.since(time?)));
    ExplainedLeg {
        sdp_usable: leg.described_address(Component::Rtp, settings).is_some(),
        direction: match leg.said.direction {
            _ if leg.said.zero_address => "hold (0.0.0.0)",
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        },
        ice: leg.said.ice,
        signaling: leg.signaling.into_iter().flatten().collect(),
        told: SocketAddr::new(settings.advertised_ip.unwrap_or(leg.local), leg.port),
        last_media: since(leg.last_media),
        last_rtcp: since(leg.last_rtcp),
        dropped: leg.dropped,
        unsent: leg.unsent,
        last_unsent: last_unsent.map(|(at, errno)| Failure {
            ago: seconds(now.since(at)),
            errno,
        }),
        stranger: stranger.map(|(address, at)| Stranger {
            address,
            ago: seconds(now.since(at)),
        }),
        round_with: round_with.map(|call_id| call_id.to_string()),
        longest: leg.longest,
    }
}

fn component(
    stream: &Stream,
    component: Component,
    settings: &Settings,
    now: Moment,
) -> ExplainedComponent {
    let learned = |party| {
        let belief = &stream.legs[party].beliefs[component];
        let by = match belief.media_address() {
            Some(_) => "media",
            None => "stun",
        };
        let evidence = stream.legs[party].evidence(component);
        let address = belief.check_address()?;
        let rank = belief.rank(address, &evidence);
        Some(Learned {
            address: address.to_string(),
            by,
            rank: rank.as_str(),
            why: match rank {
                Rank::Proven => "the other party has answered its ICE check",
                _ => evidence.why(address),
            },
        })
    };
    let candidates = |party| {
        let leg = &stream.legs[party];
        let belief = &leg.beliefs[component];
        let evidence = leg.evidence(component);
        let claim = |one: &Candidate| {
            let rank = belief.rank(one.address, &evidence);
            let is_former = belief.is_refused(one.address, rank, now);
            Claim {
                address: one.address,
                packets: one.packets,
                rank: rank.as_str(),
                ago: seconds(now.since(one.last)),
                why: match belief.media_address() {
                    _ if is_former => format!("the {party} was there before its SDP changed"),
                    Some(known) => format!("the {party} is known at {known}"),
                    None => one.why(),
                },
            }
        };
        belief.candidates().map(claim).collect()
    };
    let (path, why) = path(stream, component, settings, now);
    ExplainedComponent {
        caller: learned(Party::Caller),
        callee: learned(Party::Callee),
        caller_candidates: candidates(Party::Caller),
        callee_candidates: candidates(Party::Callee),
        path,
        why,
    }
}

/// Who forwards a component, and why.
fn path(
    stream: &Stream,
    component: Component,
    settings: &Settings,
    now: Moment,
) -> (&'static str, String) {
    const USER_SPACE: &str = "user space";
    if !stream.is_live() {
        return (USER_SPACE, "the stream has ended".to_owned());
    }
    if let Err(why) = &settings.kernel {
        return (USER_SPACE, why.to_string());
    }
    let why = match stream.handovers[component].path {
        MediaPath::Kernel(since) => {
            let ago = now.since(since).as_secs();
            return ("kernel", format!("since {ago} s"));
        }
        MediaPath::Installing => "the kernel is being asked".to_owned(),
        MediaPath::Refused(obstacle, None) => obstacle.as_str().to_owned(),
        MediaPath::Refused(obstacle, Some(again)) => {
            let left = again.since(now).as_secs();
            format!("{}; tried again in {left} s", obstacle.as_str())
        }
        MediaPath::UserSpace => missing(stream, component),
    };
    (USER_SPACE, why)
}

/// What the kernel path waits for (M4).
fn missing(stream: &Stream, component: Component) -> String {
    let parties = Party::BOTH.into_iter();
    let lacking = parties.filter_map(|party| {
        let belief = &stream.legs[party].beliefs[component];
        match (belief.media_address(), belief.check_address()) {
            (Some(_), _) => None,
            (None, Some(_)) => Some(format!("only STUN has come from the {party}")),
            (None, None) => Some(format!("nothing has come from the {party} yet")),
        }
    });
    let lacking: Vec<String> = lacking.collect();
    if lacking.is_empty() {
        "handed over with the next packet".to_owned()
    } else {
        lacking.join(", ")
    }
}
