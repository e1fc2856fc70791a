//! One party's side of a stream: the relay's ports that it sends to, what is known of it, what was counted, and what
//! waits for it. Does not know the other side.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::address::is_routable;
use super::belief::Belief;
use super::codec::Codec;
use super::description::{Described, Said};
use super::drops::{DropReason, Dropped};
use super::environment::Tally;
use super::evidence::Evidence;
use super::kept::{HeldPacket, KeptPackets};
use super::settings::Settings;
use super::verdict::PacketVerdict;
use crate::counters::Counters;
use crate::moment::Moment;
use crate::proto::demux::Kind;
use crate::proto::media::{MediaAddress, MediaDescription};
use crate::proto::saved::{exact, is_usual};
use crate::proto::{CallId, Component, PerComponent};

/// What went wrong with one party's packets, for who asks about a call. Most parties have none of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Incidents {
    /// When the host last did not take a packet, and the kernel's number for why.
    #[serde(skip_serializing_if = "is_usual")]
    pub last_unsent: Option<(Moment, i32)>,
    /// Who was last taken for a stranger here, and when (M2).
    #[serde(skip_serializing_if = "is_usual")]
    pub stranger: Option<(SocketAddr, Moment)>,
    /// The call by which its packets come round, where they do (M11).
    #[serde(with = "exact", skip_serializing_if = "is_usual")]
    pub round_with: Option<CallId>,
}

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Leg {
    /// The relay's address on this side.
    pub local: IpAddr,
    /// The relay's RTP port; RTCP is one above.
    pub port: u16,
    #[serde(default, skip_serializing_if = "is_usual")]
    pub described: Option<Described>,
    #[serde(default, skip_serializing_if = "is_usual")]
    pub said: Said,
    #[serde(default)]
    pub beliefs: PerComponent<Belief>,
    /// Where this party's SIP comes from, the latest first (E1).
    #[serde(default, skip_serializing_if = "is_usual")]
    pub signaling: [Option<IpAddr>; 2],
    /// What its SDP named when it was last looked at.
    #[serde(default, skip_serializing_if = "is_usual")]
    noted: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "is_usual")]
    pub codec: Option<Codec>,
    /// Relayed from this party.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub user_space: Counters,
    #[serde(default, skip_serializing_if = "is_usual")]
    pub kernel: Counters,
    /// Not relayed from this party.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub dropped: Dropped,
    /// Packets from this party that the host did not take.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub unsent: u64,
    #[serde(default, skip_serializing_if = "is_usual")]
    incidents: Option<Box<Incidents>>,
    /// The longest packet of this party that user space has seen, bytes with headers.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub longest: u64,
    #[serde(default, skip_serializing_if = "is_usual")]
    pub last_media: Option<Moment>,
    #[serde(default, skip_serializing_if = "is_usual")]
    pub last_rtcp: Option<Moment>,
    /// Anything on the RTCP port, STUN as well.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub rtcp_port_used: Option<Moment>,
    /// STUN that waits for this party's address, and media that waits for its SDP.
    #[serde(skip)]
    kept: Option<Box<KeptPackets>>,
}

impl Leg {
    /// On a freshly bound pair: the relay's address and RTP port.
    pub(super) fn new(bound: SocketAddr) -> Leg {
        Leg {
            local: bound.ip(),
            port: bound.port(),
            described: None,
            said: Said::default(),
            beliefs: PerComponent::default(),
            signaling: [None; 2],
            noted: None,
            codec: None,
            user_space: Counters::default(),
            kernel: Counters::default(),
            dropped: Dropped::default(),
            unsent: 0,
            incidents: None,
            longest: 0,
            last_media: None,
            last_rtcp: None,
            rtcp_port_used: None,
            kept: None,
        }
    }

    /// The relay's port of a component.
    pub(super) fn port_of(&self, component: Component) -> u16 {
        self.port + component as u16
    }

    /// A datagram with so many bytes of payload that came to this side, as it is counted.
    pub(super) fn datagram(&self, payload: usize) -> Counters {
        Counters::datagram(payload, self.local)
    }

    /// Returns true if an SDP names the address that this leg already has.
    pub(super) fn is_same(&self, media: &MediaDescription) -> bool {
        self.described
            .as_ref()
            .is_some_and(|d| d.address == media.address && d.port == media.port)
    }

    /// Takes the address of an SDP; 0.0.0.0 is a hold and says nothing of where the party is.
    pub(super) fn describe(&mut self, media: &MediaDescription, is_own: bool) {
        if !media.address.is_zero() {
            self.described = Some(Described::of(media, is_own));
        }
    }

    /// Where to send to: where it was heard, or before that what the SDP says if it can be reached (M1).
    pub(super) fn destination(
        &self,
        component: Component,
        kind: Kind,
        settings: &Settings,
    ) -> Option<SocketAddr> {
        let belief = &self.beliefs[component];
        let latched = match kind {
            Kind::Stun => belief.check_address(),
            _ => belief.address(),
        };
        latched.or_else(|| self.described_address(component, settings))
    }

    pub(super) fn described_address(
        &self,
        component: Component,
        settings: &Settings,
    ) -> Option<SocketAddr> {
        let is_own = self.described.as_ref()?.is_own;
        let named = self.named_address(component)?;
        let routable = is_routable(named.ip(), &settings.routable_private_ranges);
        (routable && !is_own).then_some(named)
    }

    /// What speaks for a source that sends to a port of this party (E1, E7).
    pub(super) fn evidence(&self, component: Component) -> Evidence {
        let is_own = self.described.as_ref().is_some_and(|d| d.is_own);
        let mut evidence = Evidence {
            named: self.named_address(component).filter(|_| !is_own),
            signaling: self.signaling,
            rtp: None,
        };
        if component == Component::Rtcp {
            let of_rtp = &self.beliefs.rtp;
            let rank = |at| of_rtp.rank(at, &self.evidence(Component::Rtp));
            evidence.rtp = of_rtp.media_address().map(|at| (at, rank(at)));
        }
        evidence
    }

    /// What the SDP names now is what a later one replaces.
    pub(super) fn note_sdp(&mut self) {
        self.noted = self.named_address(Component::Rtp);
    }

    /// What the SDP before the latest one named.
    pub(super) fn superseded_address(&self, component: Component) -> Option<SocketAddr> {
        let noted = self.noted?;
        Some(SocketAddr::new(noted.ip(), component.port(noted.port())?))
    }

    /// What the SDP says, whether it can be reached or not.
    pub(super) fn named_address(&self, component: Component) -> Option<SocketAddr> {
        let described = self.described.as_ref()?;
        let MediaAddress::Ip(ip) = described.address else {
            return None;
        };
        Some(SocketAddr::new(ip, component.port(described.port)?))
    }

    /// What the SDP says, as text: `address:port`.
    pub(super) fn sdp(&self) -> Option<String> {
        let described = self.described.as_ref()?;
        Some(format!("{}:{}", described.address, described.port))
    }

    /// Why nothing can be sent there as long as the party is not heard.
    fn why_not_sent_to(&self, component: Component) -> DropReason {
        match &self.described {
            Some(described) if described.is_own => DropReason::OwnPort,
            _ if self.named_address(component).is_some() => DropReason::NotRoutable,
            _ => DropReason::NotLearned,
        }
    }

    pub(super) fn incidents(&self) -> Option<&Incidents> {
        self.incidents.as_deref()
    }

    pub(super) fn incidents_mut(&mut self) -> &mut Incidents {
        self.incidents.get_or_insert_default()
    }

    /// Keeps STUN for a party that cannot be reached yet.
    ///
    /// # Errors
    /// Why a packet cannot be sent there, where it is not kept.
    pub(super) fn keep_waiting(
        &mut self,
        component: Component,
        kind: Kind,
        data: &[u8],
    ) -> Result<(), DropReason> {
        if kind == Kind::Stun && KeptPackets::is_short(data) {
            let kept = self.kept.get_or_insert_default();
            if kept.keep_stun(component, data) {
                return Ok(());
            }
        }
        Err(self.why_not_sent_to(component))
    }

    /// STUN that waited for this party's address, once there is one.
    pub(super) fn take_waiting(
        &mut self,
        component: Component,
        settings: &Settings,
    ) -> Option<(SocketAddr, Vec<Vec<u8>>)> {
        if !self.kept.as_ref()?.has_stun(component) {
            return None;
        }
        let to = self.destination(component, Kind::Stun, settings)?;
        Some((to, self.kept.as_mut()?.take_stun(component)))
    }

    /// Keeps a packet that came before the party's SDP; false where that is known.
    pub(super) fn hold(
        &mut self,
        component: Component,
        from: SocketAddr,
        data: &[u8],
        now: Moment,
    ) -> bool {
        if self.described.is_some() || !KeptPackets::is_short(data) {
            return false;
        }
        let kept = self.kept.get_or_insert_default();
        if kept.keep_media(component, from, data, now) {
            self.dropped.add(DropReason::Unproven);
        }
        true
    }

    /// What was kept, once the party's SDP is there: it is judged anew. What is too old is not sent any more.
    pub(super) fn take_held(&mut self, now: Moment) -> Vec<HeldPacket> {
        let Some(kept) = self.kept.as_mut().filter(|_| self.described.is_some()) else {
            return Vec::new();
        };
        let (held, too_old) = kept.take_media(now);
        (0..too_old).for_each(|_| self.dropped.add(DropReason::Unproven));
        held
    }

    /// Takes in what was counted and heard of this party in user space since the state was saved.
    pub(super) fn catch_up(&mut self, tally: &Tally) {
        if tally.user_space.packets >= self.user_space.packets {
            let more = tally.user_space.since(self.user_space);
            self.user_space = tally.user_space;
            self.beliefs.rtp.on_unseen(more.packets);
        }
        self.last_media = self.last_media.max(tally.last_media);
        self.last_rtcp = self.last_rtcp.max(tally.last_rtcp);
        self.rtcp_port_used = self.rtcp_port_used.max(tally.last_rtcp);
    }

    /// Returns true if there is room for what comes yet.
    pub(super) fn has_plausible_counts(&self) -> bool {
        let counters = [self.user_space, self.kernel];
        counters
            .iter()
            .all(|c| c.packets.max(c.bytes) < u64::MAX / 4)
    }

    /// What the next process is to know of this party even where it has only an older state.
    pub(super) fn tally(&self) -> Tally {
        Tally {
            user_space: self.user_space,
            last_media: self.last_media,
            last_rtcp: self.last_rtcp,
        }
    }

    /// Gives up what waits, at the stream's end.
    pub(super) fn forget_packets(&mut self) {
        self.kept = None;
    }

    #[cfg(test)]
    pub(super) fn has_kept_packets(&self) -> bool {
        self.kept.is_some()
    }

    /// Counts a packet from this party that is not passed on.
    pub(super) fn drop_packet(&mut self, why: DropReason) -> PacketVerdict {
        self.dropped.add(why);
        PacketVerdict::Drop(why)
    }

    /// Everything that was relayed from this party, by either path.
    pub(super) fn relayed(&self) -> Counters {
        self.user_space + self.kernel
    }
}
