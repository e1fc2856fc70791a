//! What a relay says of a call that it is asked to explain; an older one says less. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::objects::objects_only;

/// What relays say of a session; an older one says less.
#[derive(Default, Deserialize)]
#[serde(remote = "Self", default)]
pub(super) struct Call {
    pub(super) call_id: String,
    pub(super) session_id: Option<String>,
    pub(super) from_uri: String,
    pub(super) to_uri: String,
    pub(super) from_tag: String,
    pub(super) to_tag: Option<String>,
    pub(super) username: Option<String>,
    pub(super) caller_ua: Option<String>,
    pub(super) callee_ua: Option<String>,
    pub(super) start_time: Option<f64>,
    pub(super) duration: f64,
    pub(super) answered: Option<bool>,
    pub(super) streams: Vec<Stream>,
    /// UNIX seconds at which its relay's process took it over from the one before.
    pub(super) adopted: Option<f64>,
    pub(super) relay: Relay,
    pub(super) relay_link: String,
    pub(super) relay_explains: bool,
    pub(super) host: Host,
    /// Why an update of it was refused a short time ago.
    pub(super) refused: Option<String>,
    pub(super) dialog_id: Option<String>,
    pub(super) exact: Option<Exact>,
}
objects_only!(Call);

/// Where one of these is not UTF-8, all with their bytes.
#[derive(Deserialize)]
#[serde(remote = "Self")]
pub(super) struct Exact {
    pub(super) call_id: String,
    pub(super) from_tag: String,
    pub(super) to_tag: Option<String>,
}
objects_only!(Exact);

#[derive(Default, Deserialize)]
#[serde(remote = "Self", default)]
pub(super) struct Relay {
    pub(super) ip: String,
    pub(super) name: Option<String>,
}
objects_only!(Relay);

/// What of the relay's host has to do with the call.
#[derive(Default, Deserialize)]
#[serde(remote = "Self", default)]
pub(super) struct Host {
    pub(super) input: Vec<Barrier>,
    pub(super) routes: Vec<Route>,
    /// Why the kernel does not forward what enters it.
    pub(super) kernel: Option<String>,
}
objects_only!(Host);

/// A chain that refuses packets to the relay's ports.
#[derive(Deserialize)]
#[serde(remote = "Self")]
pub(super) struct Barrier {
    /// Which it is, which ports it refuses, and how.
    pub(super) refusal: String,
    /// The command that lets media in.
    pub(super) opening: String,
}
objects_only!(Barrier);

/// The way to a party.
#[derive(Default, Deserialize)]
#[serde(remote = "Self", default)]
pub(super) struct Route {
    pub(super) to: String,
    /// Bytes of a packet that goes in one piece.
    pub(super) mtu: Option<u64>,
    pub(super) error: Option<String>,
    pub(super) next_hop: Option<String>,
    /// It does not answer ARP.
    pub(super) next_hop_silent: bool,
}
objects_only!(Route);

#[derive(Default, Deserialize)]
#[serde(remote = "Self", default)]
pub(super) struct Stream {
    pub(super) media_type: String,
    pub(super) status: String,
    pub(super) timeout_wait: f64,
    pub(super) timeout: Option<Limit>,
    /// Seconds since its first answer.
    pub(super) since_answer: Option<f64>,
    pub(super) caller_codec: String,
    pub(super) callee_codec: String,
    pub(super) caller_packets: u64,
    pub(super) callee_packets: u64,
    pub(super) caller_bytes: u64,
    pub(super) callee_bytes: u64,
    pub(super) caller_sdp: String,
    pub(super) callee_sdp: String,
    pub(super) caller_local: String,
    pub(super) callee_local: String,
    pub(super) caller_remote: String,
    pub(super) callee_remote: String,
    pub(super) caller_packets_kernel: u64,
    pub(super) callee_packets_kernel: u64,
    pub(super) caller: Option<Leg>,
    pub(super) callee: Option<Leg>,
    pub(super) rtp: Option<Component>,
    pub(super) rtcp: Option<Component>,
}
objects_only!(Stream);

#[derive(Deserialize)]
#[serde(remote = "Self")]
pub(super) struct Limit {
    pub(super) name: String,
    pub(super) limit: f64,
    pub(super) left: f64,
}
objects_only!(Limit);

#[derive(Default, Deserialize)]
#[serde(remote = "Self", default)]
pub(super) struct Leg {
    pub(super) sdp_usable: bool,
    pub(super) direction: String,
    pub(super) ice: bool,
    /// Where its SIP came from.
    pub(super) signaling: Vec<String>,
    pub(super) last_media: Option<f64>,
    pub(super) last_rtcp: Option<f64>,
    /// Where it was told to send to.
    pub(super) told: String,
    pub(super) last_unsent: Option<Failure>,
    pub(super) stranger: Option<Stranger>,
    /// The call by which its packets come round.
    pub(super) round_with: Option<String>,
    /// Bytes of its longest packet.
    pub(super) longest: u64,
    pub(super) dropped: BTreeMap<String, u64>,
    pub(super) unsent: u64,
}
objects_only!(Leg);

/// A packet that the relay's host did not take.
#[derive(Deserialize)]
#[serde(remote = "Self")]
pub(super) struct Failure {
    /// Seconds since.
    pub(super) ago: f64,
    pub(super) errno: i32,
}
objects_only!(Failure);

/// Another source at a party's port.
#[derive(Deserialize)]
#[serde(remote = "Self")]
pub(super) struct Stranger {
    pub(super) address: String,
    /// Seconds since.
    pub(super) ago: f64,
}
objects_only!(Stranger);

#[derive(Default, Deserialize)]
#[serde(remote = "Self", default)]
pub(super) struct Component {
    pub(super) caller: Option<Learned>,
    pub(super) callee: Option<Learned>,
    pub(super) caller_candidates: Vec<Claim>,
    pub(super) callee_candidates: Vec<Claim>,
    pub(super) path: String,
    pub(super) why: String,
}
objects_only!(Component);

#[derive(Deserialize)]
#[serde(remote = "Self")]
pub(super) struct Learned {
    pub(super) address: String,
    pub(super) by: String,
    /// What speaks for it, in a word and in more; older relays do not say.
    #[serde(default)]
    pub(super) rank: String,
    #[serde(default)]
    pub(super) why: String,
}
objects_only!(Learned);

/// A source that is not believed to be a party.
#[derive(Deserialize)]
#[serde(remote = "Self")]
pub(super) struct Claim {
    pub(super) address: String,
    pub(super) packets: u64,
    pub(super) rank: String,
    /// Seconds since its last.
    pub(super) ago: f64,
    pub(super) why: String,
}
objects_only!(Claim);

/// Where a party was told to send to: an older relay tells no more than its own address.
pub(super) fn told<'a>(leg: Option<&'a Leg>, local: &'a str) -> &'a str {
    match leg {
        Some(leg) if !leg.told.is_empty() => &leg.told,
        _ => local,
    }
}
