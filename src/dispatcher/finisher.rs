//! Who takes sessions that are over, and notes those that are answered.

use super::call::CallNote;
use super::ended_call::EndedCall;
use super::ledger::{Due, Earlier};
use crate::metrics::Exposition;

/// Takes ended sessions. Called by the threads that read from relays, so it may write to a file but must wait for
/// nobody.
pub trait Finisher: Send + Sync {
    /// Sessions are over. For each: false when it could not be recorded now and is to be told again.
    fn finish(&self, ended: Vec<EndedCall>) -> Vec<bool>;

    /// An answered call is under way, or there is news of it: whoever records sessions notes it for the case that this
    /// process is killed, and forgets it with [`Finisher::finish`].
    fn note(&self, _note: &CallNote) {}

    /// What a dispatcher before this one has noted: calls that are in no record, dialogs that are to be ended.
    fn earlier(&self) -> Earlier {
        Earlier::default()
    }

    /// Has those dialogs ended. The proxy's requests that come of it are served by now.
    fn end_earlier(&self, _dialogs: Vec<Due>) {}

    /// Whether sessions are recorded at all. Where not, relays need keep none for that.
    fn records(&self) -> bool;

    /// Whether the session of this id has been recorded.
    fn has(&self, session_id: &str) -> bool;

    /// Whether it has ended before and could not be recorded then.
    fn is_refused(&self, _session_id: &str) -> bool {
        false
    }

    /// The disk has what has been recorded until now when [`Finisher::on_disk`] has come to this.
    fn mark(&self) -> u64 {
        0
    }

    /// See [`Finisher::mark`].
    fn on_disk(&self) -> u64 {
        0
    }

    /// Brings what has been recorded to the disk, where it is not there yet.
    fn sync(&self) {}

    /// Writes the metrics of what becomes of them.
    fn write_metrics(&self, _text: &mut Exposition) {}
}
