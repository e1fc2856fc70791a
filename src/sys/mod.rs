//! The only unsafe code: system calls that the standard library does not offer.
//!
//! One file for each subject. Every function turns a failed call into `io::Error` and owns its
//! descriptors by `OwnedFd`; nothing unsafe is visible to callers.

pub mod clock;
