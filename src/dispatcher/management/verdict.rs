//! Who hears whom in a call, and if somebody is not heard, the likeliest cause and what to do: one sentence for each
//! direction of each stream. Made of what its relay tells; of an older relay there is less to say. Pure.

use std::net::{IpAddr, SocketAddr};

use super::explained::{Call, Failure, Learned, Leg, Route, Stream, told};
use crate::session::address::is_routable;
use crate::words::counted;

/// A party that has sent nothing for so long is not heard, seconds.
const RECENT: f64 = 5.0;

/// A packet that comes every 20 ms and one that could not be sent are the same one, seconds.
const AT_ONCE: f64 = 0.1;

/// After the answer a phone may take so long to begin, seconds.
const ANSWER_PAUSE: f64 = 2.0;

/// Causes that are told of one direction, the likelier first.
const MAX_CAUSES: usize = 2;

const CAPTURE: &str = "tcpdump -ni any udp port";

/// One party of a stream.
#[derive(Clone, Copy)]
struct Party<'a> {
    name: &'static str,
    /// Relayed from it.
    packets: u64,
    sdp: &'a str,
    /// Where it was seen.
    remote: Option<&'a str>,
    by_stun: bool,
    /// Where it was told to send to.
    told: &'a str,
    local: &'a str,
    /// None where the relay does not tell.
    leg: Option<&'a Leg>,
}

/// What one party sends to the other.
struct Way<'a> {
    call: &'a Call,
    stream: &'a Stream,
    from: Party<'a>,
    to: Party<'a>,
}

/// The sentences of a call.
pub(super) fn verdict(call: &Call) -> Vec<String> {
    let mut said = Vec::new();
    if call.relay_link == "does not answer" {
        said.push(
            "the relay does not answer at the moment: what follows may be old; look at that host (processor, swap, network)"
                .to_owned(),
        );
    }
    if call.streams.is_empty() {
        said.push(match call.answered {
            Some(true) => "there is no stream: no media is expected".to_owned(),
            _ => "no stream has been answered: no media is expected yet".to_owned(),
        });
    }
    for stream in &call.streams {
        of_stream(&mut said, call, stream);
    }
    said
}

fn of_stream(said: &mut Vec<String>, call: &Call, stream: &Stream) {
    let kind = match stream.media_type.as_str() {
        "" => "stream",
        kind => kind,
    };
    let [caller, callee] = parties(stream);
    if let Some(why) = no_media_at_all(stream, [caller, callee]) {
        said.push(format!("{kind}: {why}"));
        return;
    }
    for (from, to) in [(caller, callee), (callee, caller)] {
        let way = Way {
            call,
            stream,
            from,
            to,
        };
        said.push(format!("{kind}: {}", way.sentence()));
    }
    if let Some(kernel) = &call.host.kernel {
        said.push(format!(
            "{kind}: the relay forwards it itself, since the kernel does not: {kernel}"
        ));
    }
}

/// Why no party can be heard, where that is by the parties' own word.
fn no_media_at_all(stream: &Stream, parties: [Party<'_>; 2]) -> Option<String> {
    let waits = parties
        .iter()
        .any(|party| party.sdp.is_empty() && party.leg.is_some());
    let status = stream.status.as_str();
    Some(match status {
        "rejected" => "it was rejected with port 0 in the answer, so no media flows: the phones agree on no codec or \
                       transport (RTP, SRTP) for it"
            .to_owned(),
        "closed" => "it is closed: a later SDP gave it port 0 or another address, or the call is over".to_owned(),
        "unselected ICE candidate" => {
            "the phones went direct by ICE, and the relay is not needed any more".to_owned()
        }
        "no-traffic timeout" | "conntrack timeout" | "on hold timeout" => format!(
            "it is over ({status}): neither side sent RTP for {:.0} s; packets before that: {} from the caller, {} from \
             the callee",
            stream.timeout_wait, stream.caller_packets, stream.callee_packets
        ),
        _ if waits && stream.callee_packets + stream.caller_packets == 0 => {
            "it waits for an answer with SDP, no media is expected yet".to_owned()
        }
        _ => return None,
    })
}

fn parties(stream: &Stream) -> [Party<'_>; 2] {
    let rtp = stream.rtp.as_ref();
    [
        Party {
            name: "caller",
            packets: stream.caller_packets,
            sdp: known(&stream.caller_sdp).unwrap_or_default(),
            remote: known(&stream.caller_remote),
            by_stun: is_stun(rtp.and_then(|rtp| rtp.caller.as_ref())),
            told: told(stream.caller.as_ref(), &stream.caller_local),
            local: &stream.caller_local,
            leg: stream.caller.as_ref(),
        },
        Party {
            name: "callee",
            packets: stream.callee_packets,
            sdp: known(&stream.callee_sdp).unwrap_or_default(),
            remote: known(&stream.callee_remote),
            by_stun: is_stun(rtp.and_then(|rtp| rtp.callee.as_ref())),
            told: told(stream.callee.as_ref(), &stream.callee_local),
            local: &stream.callee_local,
            leg: stream.callee.as_ref(),
        },
    ]
}

fn known(address: &str) -> Option<&str> {
    Some(address).filter(|text| !text.is_empty() && *text != "Unknown")
}

fn is_stun(learned: Option<&Learned>) -> bool {
    learned.is_some_and(|learned| learned.by == "stun")
}

impl Party<'_> {
    fn dropped(&self, why: &str) -> u64 {
        let dropped = self.leg.and_then(|leg| leg.dropped.get(why));
        dropped.copied().unwrap_or_default()
    }

    /// Packets of sources that are not believed to be it, and the commonest reason.
    fn strangers(&self) -> String {
        const REASONS: [&str; 4] = [
            "wrong source",
            "unproven source",
            "other port",
            "named source not in use",
        ];
        let counts = REASONS.map(|why| self.dropped(why));
        let most = (0..REASONS.len()).rev().max_by_key(|&at| counts[at]);
        let why = REASONS[most.unwrap_or_default()];
        format!("{} dropped ({why})", packets(counts.iter().sum()))
    }

    fn last_media(&self) -> Option<f64> {
        self.leg?.last_media
    }

    /// It has sent media just now.
    fn speaks(&self) -> bool {
        self.last_media().is_some_and(|ago| ago <= RECENT)
    }

    /// Where packets for it go.
    fn destination(&self) -> Option<&str> {
        let usable = self.leg.is_none_or(|leg| leg.sdp_usable);
        self.remote
            .or_else(|| Some(self.sdp).filter(|sdp| usable && !sdp.is_empty()))
    }

    /// Its SDP names an address that is not reached from the Internet.
    fn is_private(&self) -> bool {
        address(self.sdp).is_some_and(|ip| !is_routable(ip, &[]))
    }
}

fn address(text: &str) -> Option<IpAddr> {
    let address: SocketAddr = text.parse().ok()?;
    Some(address.ip())
}

/// The part behind the last colon.
fn port(text: &str) -> &str {
    text.rsplit_once(':').map_or(text, |(_, port)| port)
}

fn packets(count: u64) -> String {
    counted(count, "packet")
}

/// Packets of a party that were not passed on.
fn dropped(count: u64, party: &str, why: &str) -> String {
    let was = if count == 1 { "was" } else { "were" };
    format!("{} of the {party} {was} dropped ({why})", packets(count))
}

impl Way<'_> {
    fn sentence(&self) -> String {
        let (from, to) = (self.from.name, self.to.name);
        let hears = match self.stream.media_type.as_str() {
            "audio" => "hears",
            "video" => "sees",
            _ => "gets",
        };
        let Some(leg) = self.from.leg else {
            return self.of_older_relay(hears);
        };
        let causes = self.causes(leg);
        if !causes.is_empty() {
            let nothing = match self.from.packets {
                0 => "nothing",
                _ => "nothing any more",
            };
            let told: Vec<String> = causes.into_iter().take(MAX_CAUSES).collect();
            return format!("the {to} {hears} {nothing}: {}", told.join("; or "));
        }
        let mut said = format!(
            "the {to} {hears} the {from}: {} so far, the last {:.1} s ago",
            packets(self.from.packets),
            leg.last_media.unwrap_or_default()
        );
        if self.to.remote.is_none() {
            said.push_str(&format!(
                ", sent to {}, which the SDP names and from where nothing has come yet",
                self.to.sdp
            ));
        }
        said.push_str(&self.doubts(leg));
        said
    }

    /// An older relay tells packets and addresses.
    fn of_older_relay(&self, hears: &str) -> String {
        let (from, to) = (self.from.name, self.to.name);
        match (self.from.packets, self.from.remote) {
            (0, None) => format!(
                "the {to} {hears} nothing: nothing has come from the {from}; {}",
                self.look()
            ),
            (0, Some(at)) => format!(
                "the {to} {hears} nothing: the {from} is at {at}, and nothing of it was relayed; see that relay's log"
            ),
            (count, _) => format!(
                "{} of the {from} went to the {to} so far; an older relay does not tell when",
                packets(count)
            ),
        }
    }

    /// Why it is not heard, the likeliest first; none where it is.
    fn causes(&self, leg: &Leg) -> Vec<String> {
        let held: Vec<String> = self.held(leg).into_iter().collect();
        if !held.is_empty() && !self.from.speaks() {
            return held;
        }
        let mut causes: Vec<String> = self.goes_round().into_iter().collect();
        if self.from.speaks() {
            causes.extend(self.no_destination());
            causes.extend(self.not_sent(leg));
            return causes;
        }
        causes.extend(self.another_source(leg));
        match leg.last_media {
            Some(ago) => causes.push(self.fell_silent(ago)),
            None => causes.extend(self.never_came(leg)),
        }
        causes
    }

    /// On hold, or one side does not want to send.
    fn held(&self, leg: &Leg) -> Option<String> {
        let (from, to) = (self.from.name, self.to.name);
        let resumes = "a re-INVITE with sendrecv ends that";
        let other = self.to.leg?;
        Some(match (leg.direction.as_str(), other.direction.as_str()) {
            (_, "hold (0.0.0.0)") => {
                format!("the {to} has put the call on hold (0.0.0.0 in its SDP); {resumes}")
            }
            (_, "sendonly") => format!("the {to} has put the call on hold (sendonly); {resumes}"),
            ("inactive", _) | (_, "inactive") => {
                format!("the call is on hold (inactive); {resumes}")
            }
            ("recvonly", _) => {
                format!("the {from}'s SDP says recvonly: it does not send; {resumes}")
            }
            _ => return None,
        })
    }

    /// Its packets come, and the relay does not know where to send them.
    fn no_destination(&self) -> Option<String> {
        if self.to.destination().is_some() {
            return None;
        }
        let (from, to, sdp) = (self.from.name, self.to.name, self.to.sdp);
        let lost = |reason: &str| dropped(self.from.dropped(reason), from, reason);
        let own = self.from.dropped("receiver is this relay");
        if own > 0 {
            return Some(format!(
                "the {to}'s SDP names this relay's own port {sdp}, {}: the SIP proxy has handed the \
                 {from}'s own SDP back, or asked for a relay twice for one message",
                lost("receiver is this relay")
            ));
        }
        if self.to.is_private() {
            return Some(format!(
                "nothing has come from the {to}{}, and its SDP address {sdp} is private or reserved, so it is not sent \
                 to before it is heard: {}; if the relay reaches that \
                 network, add it to routable_private_ranges; if not, see why the {to} does not send: {}",
                self.since_answer(),
                lost("receiver not routable"),
                self.look_at(&self.to)
            ));
        }
        Some(format!(
            "nothing has come from the {to}{}, and its SDP gives no address that can be sent to ({}): {}",
            self.since_answer(),
            if sdp.is_empty() { "there is none" } else { sdp },
            lost("receiver not known yet"),
        ))
    }

    /// What is sent to the other party comes back: its address is a port of another call.
    fn goes_round(&self) -> Option<String> {
        let (from, to) = (self.from.name, self.to.name);
        let count = self.from.dropped("goes round");
        let at = self.to.destination().filter(|_| count > 0)?;
        let by = self.from.leg.and_then(|leg| leg.round_with.as_ref());
        let by = by.map_or("a way that the relay does not see".to_owned(), |call| {
            format!("call {call}")
        });
        Some(format!(
            "what is sent to the {to}'s address {at} comes back by {by}: it goes round, {}; the relay is not a party: see \
             why the SIP proxy, or the {to}, gave its address for one",
            dropped(count, from, "goes round")
        ))
    }

    /// The relay's host cannot send, or what it sends goes nowhere.
    fn not_sent(&self, leg: &Leg) -> Vec<String> {
        let mut causes = Vec::new();
        let Some(destination) = self.to.destination() else {
            return causes;
        };
        // What came last was among it.
        let last_media = leg.last_media.unwrap_or_default();
        let fails = |last: &&Failure| last.ago <= last_media + AT_ONCE;
        if let Some(last) = leg.last_unsent.as_ref().filter(fails) {
            causes.push(unsent(leg, last, destination));
        }
        if let Some(route) = self.route(destination) {
            match (&route.error, &route.next_hop) {
                (Some(error), _) if causes.is_empty() => causes.push(format!(
                    "the relay has no route to {}: {error} (ip route get {})",
                    route.to, route.to
                )),
                (_, Some(hop)) if route.next_hop_silent && *hop == route.to => {
                    causes.push(format!(
                        "{hop} is in the relay's own network and does not answer ARP: the host is down or has another \
                         address (ip neigh show {hop})"
                    ));
                }
                (_, Some(hop)) if route.next_hop_silent => causes.push(format!(
                    "the next hop to {}, {hop}, does not answer ARP: the router is down or the route is wrong (ip neigh \
                     show {hop}; ip route get {})",
                    route.to, route.to
                )),
                _ => {}
            }
        }
        causes
    }

    /// What may keep a part of it from arriving.
    fn doubts(&self, leg: &Leg) -> String {
        let destination = self.to.destination().unwrap_or_default();
        let failed = leg.last_unsent.as_ref();
        if let Some(last) = failed.filter(|last| last.ago <= RECENT) {
            return format!("; {}", unsent(leg, last, destination));
        }
        let mtu = self.route(destination).and_then(|route| route.mtu);
        if let Some(mtu) = mtu.filter(|mtu| leg.longest > *mtu) {
            return format!(
                "; its packets of up to {} bytes are longer than the MTU of {mtu} towards {destination}: they go in \
                 fragments, which firewalls and NATs drop (let the phone send smaller ones)",
                leg.longest
            );
        }
        match &leg.stranger {
            Some(stranger) if stranger.ago <= RECENT => format!(
                "; others send to its port from {}: {}",
                stranger.address,
                self.from.strangers()
            ),
            _ => String::new(),
        }
    }

    /// Its packets come from another address than before.
    fn another_source(&self, leg: &Leg) -> Option<String> {
        let from = self.from.name;
        if let Some(stranger) = leg.stranger.as_ref().filter(|one| one.ago <= RECENT) {
            let strangers = self.from.strangers();
            let address = &stranger.address;
            let Some(remote) = self.from.remote else {
                return Some(format!(
                    "packets come to the {from}'s port from {address}, where neither its SDP nor its SIP says that it is: \
                     {strangers}; if that is the {from}, let the proxy send its signaling_ip, or see [Relay] learning"
                ));
            };
            return Some(format!(
                "the {from} was first heard at {remote}, and packets now come from {address}: {strangers}; its NAT gave it \
                 another address that cannot be told from a stranger's, or somebody else sends; a re-INVITE with its new \
                 address lets the relay learn anew"
            ));
        }
        let old = self.from.dropped("old source");
        (old > 0 && leg.last_media.is_none_or(|ago| ago > RECENT) && self.from.remote.is_none()).then(|| {
            format!(
                "the {from} gave another address and still sends from its old one: {} were dropped (old source, which is \
                 refused for 5 s)",
                packets(old)
            )
        })
    }

    fn fell_silent(&self, ago: f64) -> String {
        let from = self.from.name;
        format!(
            "nothing has come from the {from} for {ago:.0} s, {} before: it was muted and sends nothing, lost its network, \
             or its NAT dropped the way; {}",
            match self.from.packets {
                0 => "though it sent".to_owned(),
                count => packets(count),
            },
            self.look()
        )
    }

    /// Nothing has come from it at all.
    fn never_came(&self, leg: &Leg) -> Vec<String> {
        let from = self.from.name;
        if self
            .stream
            .since_answer
            .is_some_and(|ago| ago < ANSWER_PAUSE)
        {
            return vec![format!(
                "the call was answered just now, and nothing has come from the {from} yet"
            )];
        }
        if self.from.by_stun {
            return vec![format!(
                "only STUN has come from the {from}, no media: ICE chose another path, DTLS is not done, or it is muted"
            )];
        }
        let nothing = format!("nothing has come from the {from}{}", self.since_answer());
        let mut causes = Vec::new();
        let barriers: Vec<String> = self.barriers();
        let is_open = self.to.remote.is_some();
        if !is_open && !barriers.is_empty() {
            causes.push(format!("{nothing}; {}", barriers.join(" and ")));
        }
        let told = address(self.from.told);
        let is_told_private = told.is_some_and(|ip| !is_routable(ip, &[]));
        if is_told_private && !self.from.is_private() && !self.from.sdp.is_empty() {
            causes.push(format!(
                "{nothing}; it was told to send to {}, a private address, and is itself at {}: set advertised_ip on the \
                 relay to the address that is reached from outside",
                self.from.told, self.from.sdp
            ));
        }
        if self.from.is_private() && leg.sdp_usable {
            causes.push(format!("{nothing}; {}", self.look()));
        } else if self.from.is_private() {
            let waits = if self.to.speaks() {
                format!(
                    ", and if it waits for the {} in turn, neither is heard",
                    self.to.name
                )
            } else {
                String::new()
            };
            causes.push(format!(
                "{nothing}; its SDP address {} is private or reserved, so the relay waits for it to send first{waits}: if \
                 the relay reaches that network, add it to routable_private_ranges; if not, its NAT or firewall lets \
                 nothing out: {}",
                self.from.sdp,
                self.look()
            ));
        } else if causes.is_empty() {
            causes.push(format!("{nothing}; {}", self.look()));
        }
        if is_open && !barriers.is_empty() {
            causes.push(barriers.join(" and "));
        }
        causes
    }

    /// Chains of the relay's host that refuse what comes in, or may.
    fn barriers(&self) -> Vec<String> {
        let barriers = self.call.host.input.iter();
        let told = barriers.map(|barrier| {
            format!(
                "on the relay's host, {}: {}",
                barrier.refusal, barrier.opening
            )
        });
        told.collect()
    }

    fn since_answer(&self) -> String {
        match self.stream.since_answer {
            Some(ago) if ago >= 1.0 => format!(" since the answer {ago:.0} s ago"),
            _ => String::new(),
        }
    }

    fn look(&self) -> String {
        self.look_at(&self.from)
    }

    /// How to find out where a party's packets stay.
    fn look_at(&self, party: &Party<'_>) -> String {
        format!(
            "it was told to send to {}: on the relay, {CAPTURE} {} shows whether it does; if not, it is muted or sends \
             nothing, or a firewall or NAT on the way drops it",
            party.told,
            port(party.local)
        )
    }

    fn route(&self, destination: &str) -> Option<&Route> {
        let to = address(destination)?.to_string();
        let mut routes = self.call.host.routes.iter();
        routes.find(|route| route.to == to)
    }
}

fn unsent(leg: &Leg, last: &Failure, destination: &str) -> String {
    let ip = destination.rsplit_once(':');
    let ip = ip.map_or(destination, |(ip, _)| ip);
    format!(
        "the relay's host has not taken {} for {destination}: {}",
        packets(leg.unsent),
        errno(last.errno, ip)
    )
}

/// Linux's numbers for why a datagram was not taken, and what to do.
fn errno(number: i32, ip: &str) -> String {
    match number {
        1 => "a rule of hook output refuses it (nft list ruleset; iptables -S OUTPUT)".to_owned(),
        90 => "it is longer than the link takes (ip link show)".to_owned(),
        101 => format!("there is no route (ip route get {ip})"),
        105 => "the interface's queue is full (ip -s link show)".to_owned(),
        113 => format!(
            "the route leads nowhere, or the next hop does not answer (ip route get {ip}; ip neigh)"
        ),
        other => format!("error number {other} of the kernel (the relay's log has it in words)"),
    }
}

#[cfg(test)]
mod tests;
