//! What one party's SDP says of its side of a stream.

use crate::proto::media::{Direction, MediaAddress, MediaDescription};

/// Where the party is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub address: MediaAddress,
    pub port: u16,
    /// It names one of this very session's ports: media sent there would come back for ever.
    pub is_own: bool,
}

impl Described {
    pub(super) fn of(media: &MediaDescription, is_own: bool) -> Described {
        Described {
            address: media.address.clone(),
            port: media.port,
            is_own,
        }
    }
}

/// What it says besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub direction: Direction,
    /// The SDP gave 0.0.0.0: hold as of RFC 2543.
    pub zero_address: bool,
    pub ice: bool,
}

impl Said {
    pub(super) fn of(media: &MediaDescription) -> Said {
        Said {
            direction: media.direction,
            // With trickle ICE (RFC 8840) 0.0.0.0 says that candidates follow.
            zero_address: media.address.is_zero() && !media.ice,
            ice: media.ice,
        }
    }

    /// It sends nothing, by its own word (C6).
    pub(super) fn is_hold(self) -> bool {
        self.zero_address || matches!(self.direction, Direction::SendOnly | Direction::Inactive)
    }
}

/// What holds as long as it has said nothing.
impl Default for Said {
    fn default() -> Said {
        Said {
            direction: Direction::SendRecv,
            zero_address: false,
            ice: false,
        }
    }
}
