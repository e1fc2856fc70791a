//! RTP and RTCP of a stream, and what there is one of for each.

use std::fmt;
use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

/// RTP, or RTCP one port above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Component {
    Rtp,
    Rtcp,
}

impl Component {
    pub const BOTH: [Component; 2] = [Component::Rtp, Component::Rtcp];

    /// Its port, where RTP has this one; none where there is none so high.
    pub fn port(self, rtp: u16) -> Option<u16> {
        match self {
            Component::Rtp => Some(rtp),
            Component::Rtcp => rtp.checked_add(1),
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Component::Rtp => "RTP",
            Component::Rtcp => "RTCP",
        })
    }
}

/// One for RTP and one for RTCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PerComponent<T> {
    pub rtp: T,
    pub rtcp: T,
}

impl<T> PerComponent<T> {
    /// The two that this makes of each.
    pub fn of(mut make: impl FnMut(Component) -> T) -> PerComponent<T> {
        PerComponent {
            rtp: make(Component::Rtp),
            rtcp: make(Component::Rtcp),
        }
    }

    pub fn map<U>(self, mut change: impl FnMut(T) -> U) -> PerComponent<U> {
        PerComponent {
            rtp: change(self.rtp),
            rtcp: change(self.rtcp),
        }
    }

    /// Both, the rtp's first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        [&self.rtp, &self.rtcp].into_iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        [&mut self.rtp, &mut self.rtcp].into_iter()
    }
}

impl<T> Index<Component> for PerComponent<T> {
    type Output = T;

    fn index(&self, of: Component) -> &T {
        match of {
            Component::Rtp => &self.rtp,
            Component::Rtcp => &self.rtcp,
        }
    }
}

impl<T> IndexMut<Component> for PerComponent<T> {
    fn index_mut(&mut self, of: Component) -> &mut T {
        match of {
            Component::Rtp => &mut self.rtp,
            Component::Rtcp => &mut self.rtcp,
        }
    }
}
