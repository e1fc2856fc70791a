//! The two who talk, and what there is one of for each.

use std::fmt;
use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

/// One of the two who talk: the caller opened the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    Caller,
    Callee,
}

impl Party {
    pub const BOTH: [Party; 2] = [Party::Caller, Party::Callee];

    /// The one at the other end.
    pub fn other(self) -> Party {
        match self {
            Party::Caller => Party::Callee,
            Party::Callee => Party::Caller,
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Party::Caller => "caller",
            Party::Callee => "callee",
        })
    }
}

/// One for the caller and one for the callee.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PerParty<T> {
    pub caller: T,
    pub callee: T,
}

impl<T> PerParty<T> {
    /// The two that this makes of each.
    pub fn of(mut make: impl FnMut(Party) -> T) -> PerParty<T> {
        PerParty {
            caller: make(Party::Caller),
            callee: make(Party::Callee),
        }
    }

    pub fn map<U>(self, mut change: impl FnMut(T) -> U) -> PerParty<U> {
        PerParty {
            caller: change(self.caller),
            callee: change(self.callee),
        }
    }

    /// Both, the caller's first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        [&self.caller, &self.callee].into_iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        [&mut self.caller, &mut self.callee].into_iter()
    }
}

impl<T> Index<Party> for PerParty<T> {
    type Output = T;

    fn index(&self, of: Party) -> &T {
        match of {
            Party::Caller => &self.caller,
            Party::Callee => &self.callee,
        }
    }
}

impl<T> IndexMut<Party> for PerParty<T> {
    fn index_mut(&mut self, of: Party) -> &mut T {
        match of {
            Party::Caller => &mut self.caller,
            Party::Callee => &mut self.callee,
        }
    }
}

impl<T> PerParty<T> {
    /// Both at once: this party's first, then the other's.
    pub fn pair_mut(&mut self, party: Party) -> (&mut T, &mut T) {
        match party {
            Party::Caller => (&mut self.caller, &mut self.callee),
            Party::Callee => (&mut self.callee, &mut self.caller),
        }
    }
}

/// The caller's first.
impl<T> From<[T; 2]> for PerParty<T> {
    fn from([caller, callee]: [T; 2]) -> PerParty<T> {
        PerParty { caller, callee }
    }
}

/// The caller's first.
impl<T> From<PerParty<T>> for [T; 2] {
    fn from(both: PerParty<T>) -> [T; 2] {
        [both.caller, both.callee]
    }
}
