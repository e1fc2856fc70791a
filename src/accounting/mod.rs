//! Accounting: every answered session is recorded once, whatever fails.
//!
//! ```text
//!  Record     a finished session                                             record
//!  Backend    where records go: file, database, radius                       backend
//! ```

pub mod backend;
pub mod record;

pub use backend::{Backend, Unavailable, Verdict};
pub use record::Record;
