//! Packets that are kept for a moment, because it is not known yet where they go or whose they are. One party's.

use std::net::SocketAddr;
use std::time::Duration;

use crate::moment::Moment;
use crate::proto::{Component, PerComponent};

/// STUN packets kept for a party whose address is not known yet.
const STUN_KEPT: usize = 4;
/// Longest packet that is kept, bytes.
const KEPT_BYTES: usize = 1500;
/// Media kept for a party whose SDP has not come by yet, and for how long: phones send with their answer, which is on its
/// way through the SIP proxy.
const MEDIA_KEPT: usize = 8;
const MEDIA_KEPT_FOR: Duration = Duration::from_secs(1);

/// A packet of a source that nothing speaks for yet (E10).
#[derive(Clone, Debug)]
pub(super) struct HeldPacket {
    pub component: Component,
    pub from: SocketAddr,
    pub data: Vec<u8>,
    at: Moment,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct KeptPackets {
    /// For the party.
    stun: PerComponent<Vec<Vec<u8>>>,
    /// From the party's port, the oldest first.
    media: Vec<HeldPacket>,
}

impl KeptPackets {
    pub(super) fn is_short(data: &[u8]) -> bool {
        data.len() <= KEPT_BYTES
    }

    /// False where there is no place for it.
    pub(super) fn keep_stun(&mut self, component: Component, data: &[u8]) -> bool {
        let stun = &mut self.stun[component];
        let has_place = stun.len() < STUN_KEPT;
        if has_place {
            stun.push(data.to_vec());
        }
        has_place
    }

    pub(super) fn has_stun(&self, component: Component) -> bool {
        !self.stun[component].is_empty()
    }

    pub(super) fn take_stun(&mut self, component: Component) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.stun[component])
    }

    /// Keeps a packet. Returns true if the oldest one has given way.
    pub(super) fn keep_media(
        &mut self,
        component: Component,
        from: SocketAddr,
        data: &[u8],
        now: Moment,
    ) -> bool {
        let is_full = self.media.len() == MEDIA_KEPT;
        if is_full {
            self.media.remove(0);
        }
        self.media.push(HeldPacket {
            component,
            from,
            data: data.to_vec(),
            at: now,
        });
        is_full
    }

    /// All that is not too old, and how many packets are.
    pub(super) fn take_media(&mut self, now: Moment) -> (Vec<HeldPacket>, usize) {
        let mut media = std::mem::take(&mut self.media);
        let before = media.len();
        media.retain(|packet| now <= packet.at + MEDIA_KEPT_FOR);
        let too_old = before - media.len();
        (media, too_old)
    }
}
