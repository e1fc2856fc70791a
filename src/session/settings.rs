//! What the administrator decides of calls.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::address::Range;

/// What the administrator decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Quiet time before a stream ends; from `stream_timeout`.
    pub stream_timeout: Duration,
    /// The same on hold; from `on_hold_timeout`.
    pub on_hold_timeout: Duration,
    /// Time for a call to be answered; from `setup_timeout`.
    pub setup_timeout: Duration,
    /// Goes into SDP in place of the relay's own address; from `advertised_ip`.
    pub advertised_ip: Option<IpAddr>,
    /// Private addresses that may be sent to before they are learned.
    pub routable_private_ranges: Vec<Range>,
    /// Who is believed to be a party; from `learning` and the keys beside it.
    pub learning: LearningRules,
    /// Whether components are offered to the kernel at all, or else why not, for people.
    pub kernel: Result<(), Arc<str>>,
}

/// Who is believed without evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Learning {
    /// The first who sends.
    Open,
    /// Who sends one stream for a while, where nobody better does.
    #[default]
    Guarded,
    Strict,
}

/// What the administrator decides of learning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearningRules {
    pub learning: Learning,
    /// From `learning_wait`.
    pub wait: Duration,
    /// After how long a silence of the old address a party is followed to the one that its NAT gives it; none where it is
    /// not followed.
    pub relearn: Option<Duration>,
}

impl Default for LearningRules {
    fn default() -> LearningRules {
        LearningRules {
            learning: Learning::default(),
            wait: Duration::from_millis(300),
            relearn: Some(Duration::from_secs(2)),
        }
    }
}
