//! The only unsafe code: system calls that the standard library does not offer.
//!
//! One file for each subject. Every function turns a failed call into `io::Error` and owns its
//! descriptors by `OwnedFd`; nothing unsafe is visible to callers.

pub mod clock;
mod fork;
pub mod limits;
pub mod local_time;
pub mod notify;
mod pid_file;
pub mod process;
#[cfg(test)]
pub mod scratch;
pub mod signals;
pub mod stderr;
pub mod users;
