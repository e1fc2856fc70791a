//! Attacks on both daemons while calls go on: the calls, those who attack them, and what is measured of both.

#![allow(dead_code, reason = "every test uses its own part of this")]

pub mod field;
pub mod load;
pub mod neighbours;
pub mod pace;
pub mod probes;
pub mod rogues;
pub mod source;
pub mod strangers;
pub mod trial;
pub mod watch;
