//! What one party's SDP says of its side of a stream.

use serde::{Deserialize, Serialize};

use crate::proto::media::{Direction, MediaAddress, MediaDescription};
use crate::proto::saved::is_usual;

/// Where the party is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Described {
    pub address: MediaAddress,
    pub port: u16,
    /// It names one of this very session's ports: media sent there would come back for ever.
    #[serde(default, skip_serializing_if = "is_usual")]
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

/// What it says besides; the usual one as long as it has said nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Said {
    #[serde(skip_serializing_if = "is_usual")]
    pub direction: Direction,
    /// The SDP gave 0.0.0.0: hold as of RFC 2543.
    #[serde(skip_serializing_if = "is_usual")]
    pub zero_address: bool,
    #[serde(skip_serializing_if = "is_usual")]
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
