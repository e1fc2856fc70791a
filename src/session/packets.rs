//! What a datagram does to its session beyond its stream: flows that are offered to the kernel or taken back, what waited,
//! lines in the log.

use std::collections::VecDeque;
use std::net::SocketAddr;

use log::info;

use super::actions::Action;
use super::belief::HowLatched;
use super::call::Session;
use super::drops::DropReason;
use super::flows::{offer_to_kernel, suspect_bypass, withdraw_component};
use super::keys::PortKey;
use super::settings::Settings;
use super::strangers::Strangers;
use super::stream::{Datagram, Latched, StreamLine};
use super::verdict::PacketVerdict;
use crate::moment::Moment;
use crate::proto::{CallId, Component, demux};

/// What a datagram is received with.
pub(super) struct PacketContext<'a> {
    pub settings: &'a Settings,
    pub actions: &'a mut VecDeque<Action>,
    pub strangers: &'a mut Strangers,
    pub now: Moment,
    /// When the session may go back to a kernel that forwards again.
    pub welcome: Moment,
}

/// What became of a datagram.
pub(super) struct Received {
    pub verdict: PacketVerdict,
    /// It has shown where a party is.
    pub has_latched: bool,
    /// The session's state is to be saved.
    pub is_changed: bool,
}

/// Takes a datagram in.
pub(super) fn receive(
    session: &mut Session,
    port: PortKey,
    (from, data): (SocketAddr, &[u8]),
    context: PacketContext<'_>,
) -> Received {
    let PortKey {
        session: key,
        party,
        component,
        ..
    } = port;
    let PacketContext {
        settings,
        actions,
        strangers,
        now,
        welcome,
    } = context;
    let index = usize::from(port.stream);
    let Some(stream) = session.media.streams.get_mut(index) else {
        return Received {
            verdict: PacketVerdict::Drop(DropReason::Closed),
            has_latched: false,
            is_changed: false,
        };
    };
    let call_id = &session.media.call_id;
    let kind = demux::classify(data);
    let packet = Datagram {
        party,
        component,
        from,
        data,
        kind,
    };
    let outcome = stream.on_packet(&packet, settings, now);
    if let Some(latched) = outcome.latched {
        log_latched(call_id, StreamLine(stream, index), component, latched);
        if component == Component::Rtp && latched.how != HowLatched::First {
            stream.rtp_has_moved(latched.party);
            withdraw_component(stream, (key, index), Component::Rtcp, actions);
        }
        stream.send_waiting(latched.party, settings, actions);
    }
    if outcome.is_claimed {
        let line = StreamLine(stream, index);
        info!(
            "[session {call_id}] {line}: {from} claims to be the {party}, whose {component} the kernel forwards: taken \
             back from it to see who is"
        );
        withdraw_component(stream, (key, index), component, actions);
    }
    if outcome.is_strange {
        let is_told = &mut session.stranger_told;
        strangers.note(call_id, is_told, (party, component), from, now);
    }
    let has_latched = outcome.latched.is_some();
    let mut is_changed = has_latched || outcome.is_claimed || outcome.is_news;
    if settings.kernel.is_ok() {
        let is_forwarded = matches!(outcome.verdict, PacketVerdict::Forward { .. });
        let is_media = kind != demux::Kind::Stun && is_forwarded;
        if is_media && stream.handovers[component].is_bypassed(now) {
            suspect_bypass(stream, port, actions);
        }
        is_changed |= offer_to_kernel(stream, port, (now, welcome), actions);
    }
    Received {
        verdict: outcome.verdict,
        has_latched,
        is_changed,
    }
}

/// Where a party was found, and why it is believed where another was before.
fn log_latched(call_id: &CallId, line: StreamLine<'_>, component: Component, latched: Latched) {
    let Latched {
        party,
        address,
        how,
    } = latched;
    let why = match how {
        HowLatched::First => String::new(),
        HowLatched::Better(old) => {
            format!(": more speaks for it than for {old}, where it was taken to be")
        }
        HowLatched::Followed(old) => {
            format!(": its stream goes on there, and {old} is silent (another NAT mapping)")
        }
    };
    info!("[session {call_id}] {line}: {party} {component} is at {address}{why}");
}
