//! All that is known of a call, for who wants to know why somebody hears nothing: the statistics object
//! (`report`) and beside it each stream's time-out, addresses, paths and dropped packets. docs/protocol.md section 9.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use serde::Serialize;

use super::Settings;
use super::call::Session;
use super::candidate::Candidate;
use super::drops::Dropped;
use super::engine::Engine;
use super::evidence::Rank;
use super::handover::Path;
use super::report::{call_record, seconds, stream_record};
use super::stream::{Leg, Stream};
use crate::moment::Now;
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
    signaling: Vec<Ipv4Addr>,
    /// Where its media is to go: what the relay has put into the SDP that it got.
    told: SocketAddrV4,
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
    address: SocketAddrV4,
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
    address: SocketAddrV4,
    packets: u64,
    rank: &'static str,
    /// Seconds since its last.
    ago: f64,
    why: String,
}

impl Engine {
    /// Appends an array of the sessions of a call-id. False where there are none.
    pub fn write_explained(&self, out: &mut Vec<u8>, call_id: &CallId, now: Now) -> bool {
        let sessions = self.sessions_of(call_id);
        let explained: Vec<Explained<'_>> = sessions
            .map(|session| explain(session, self.settings(), now))
            .collect();
        // Writing to memory does not fail, and no map here has keys that JSON cannot hold.
        let _ = serde_json::to_writer(out, &explained);
        !explained.is_empty()
    }
}

fn explain<'a>(session: &'a Session, settings: &Settings, now: Now) -> Explained<'a> {
    let duration = session.duration(now.mono.since_start());
    let streams = session.streams.iter();
    let streams = streams.map(|stream| ExplainedStream {
        report: stream_record(session, stream, duration),
        timeout: stream
            .is_live()
            .then(|| limit(session, stream, settings, now.mono.since_start())),
        since_answer: stream
            .answered
            .map(|at| seconds(now.mono.since_start().saturating_sub(at))),
        caller: leg(stream.leg(Party::Caller), settings, now.mono.since_start()),
        callee: leg(stream.leg(Party::Callee), settings, now.mono.since_start()),
        rtp: component(stream, Component::Rtp, settings, now.mono.since_start()),
        rtcp: component(stream, Component::Rtcp, settings, now.mono.since_start()),
    });
    let mut report = call_record(session, now);
    // All of them are listed here.
    report.streams = None;
    Explained {
        report,
        answered: session.is_finally_answered(),
        streams: streams.collect(),
    }
}

fn limit(session: &Session, stream: &Stream, settings: &Settings, now: Duration) -> Limit {
    let limit = session.limit(stream, settings);
    Limit {
        name: limit.name,
        limit: limit.limit.as_secs(),
        left: seconds(limit.at.saturating_sub(now)),
    }
}

fn leg(leg: &Leg, settings: &Settings, now: Duration) -> ExplainedLeg {
    let since = |time: Option<Duration>| Some(seconds(now.saturating_sub(time?)));
    ExplainedLeg {
        sdp_usable: leg.described_address(Component::Rtp, settings).is_some(),
        direction: match leg.direction {
            _ if leg.zero_address => "hold (0.0.0.0)",
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        },
        ice: leg.ice,
        signaling: leg.signaling.into_iter().flatten().collect(),
        told: SocketAddrV4::new(settings.advertised_ip.unwrap_or(leg.local), leg.port),
        last_media: since(leg.last_media),
        last_rtcp: since(leg.last_rtcp),
        dropped: leg.dropped,
        unsent: leg.unsent,
        last_unsent: leg.last_unsent.map(|(at, errno)| Failure {
            ago: seconds(now.saturating_sub(at)),
            errno,
        }),
        stranger: leg.stranger.map(|(address, at)| Stranger {
            address,
            ago: seconds(now.saturating_sub(at)),
        }),
        round_with: leg.round_with.as_ref().map(ToString::to_string),
        longest: leg.longest,
    }
}

fn component(
    stream: &Stream,
    component: Component,
    settings: &Settings,
    now: Duration,
) -> ExplainedComponent {
    let learned = |party| {
        let belief = &stream.leg(party).beliefs[component as usize];
        let by = match belief.media_address() {
            Some(_) => "media",
            None => "stun",
        };
        let evidence = stream.leg(party).evidence(component);
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
        let leg = stream.leg(party);
        let belief = &leg.beliefs[component as usize];
        let evidence = leg.evidence(component);
        let claim = |one: &Candidate| {
            let rank = belief.rank(one.address, &evidence);
            let is_former = belief.is_refused(one.address, rank, now);
            Claim {
                address: one.address,
                packets: one.packets,
                rank: rank.as_str(),
                ago: seconds(now.saturating_sub(one.last)),
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
    now: Duration,
) -> (&'static str, String) {
    const USER_SPACE: &str = "user space";
    if !stream.is_live() {
        return (USER_SPACE, "the stream has ended".to_owned());
    }
    if let Err(why) = &settings.kernel {
        return (USER_SPACE, why.to_string());
    }
    let why = match stream.handovers[component as usize].path {
        Path::Kernel(since) => {
            let ago = now.saturating_sub(since).as_secs();
            return ("kernel", format!("since {ago} s"));
        }
        Path::Installing => "the kernel is being asked".to_owned(),
        Path::Refused(obstacle, None) => obstacle.as_str().to_owned(),
        Path::Refused(obstacle, Some(again)) => {
            let left = again.saturating_sub(now).as_secs();
            format!("{}; tried again in {left} s", obstacle.as_str())
        }
        Path::UserSpace => missing(stream, component),
    };
    (USER_SPACE, why)
}

/// What the kernel path waits for (M4).
fn missing(stream: &Stream, component: Component) -> String {
    let parties = [Party::Caller, Party::Callee].into_iter();
    let lacking = parties.filter_map(|party| {
        let belief = &stream.leg(party).beliefs[component as usize];
        match (belief.media_address(), belief.check_address()) {
            (Some(_), _) => None,
            (None, Some(_)) => Some(format!("only STUN has come from the {party}")),
            (None, None) => Some(format!("nothing has come from the {party} yet")),
        }
    });
    let lacking: Vec<String> = lacking.collect();
    match lacking.is_empty() {
        true => "handed over with the next packet".to_owned(),
        false => lacking.join(", "),
    }
}
