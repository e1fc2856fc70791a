//! What a place for records must be able to do. Each runs on a thread of its own, which retries with back-off, keeps
//! the position in the journal and writes what is rejected to a file; a backend only tries once.

use std::fmt;

use super::Record;

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryResult {
    Delivered,
    /// The same session was there already: delivered by an earlier attempt whose success was not heard of.
    Known,
    /// Never to be had, however often it is tried: why. It goes to the `rejected` file.
    Rejected(String),
}

/// Nothing can be delivered at the moment: why. It is tried again later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place for records. May block, but for a bounded time only: some 30 s at most in one call.
pub trait Backend: Send {
    /// Unique among those of a dispatcher and the same in every run, of `[a-z0-9-]`: it names the file with the
    /// position in the journal, and the backend in the log.
    fn name(&self) -> &str;

    /// Called once before the first delivery: connects and makes what is missing, such as a table.
    ///
    /// # Errors
    /// Logged; deliveries are tried all the same, so whatever is missing then must be made by them.
    fn prepare(&mut self) -> Result<(), Unavailable> {
        Ok(())
    }

    /// Delivers records in their order, and adds a verdict for each that is settled. Records of a batch that fails
    /// for one of them are tried one by one, so that one that cannot be had holds up no other.
    ///
    /// # Errors
    /// When not all could be settled: those without a verdict come again with a later call.
    fn deliver(
        &mut self,
        records: &[Record],
        verdicts: &mut Vec<DeliveryResult>,
    ) -> Result<(), Unavailable>;
}
