//! What became of a stream, and the field's words for it.

use serde::{Deserialize, Serialize};

/// What became of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    #[default]
    Live,
    Closed,
    Rejected,
    NoTraffic,
    OnHoldTimeout,
    ConntrackTimeout,
    UnselectedIce,
}

impl Status {
    /// The word in the statistics and in the log.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Status::Live => "active",
            Status::Closed => "closed",
            Status::Rejected => "rejected",
            Status::NoTraffic => "no-traffic timeout",
            Status::OnHoldTimeout => "on hold timeout",
            Status::ConntrackTimeout => "conntrack timeout",
            Status::UnselectedIce => "unselected ICE candidate",
        }
    }
}
