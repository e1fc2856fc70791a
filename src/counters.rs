//! What was relayed, counted.

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

    /// What was counted since there were so many; nothing where that is more.
    pub fn since(self, before: Counters) -> Counters {
        Counters {
            packets: self.packets.saturating_sub(before.packets),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
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
