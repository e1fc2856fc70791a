//! A session's state as one line of JSON, for another process of the relay on the same boot: everything but what cannot
//! outlive the process (packets that wait, timers, who waits for an answer). The keys are those of the types themselves; what
//! has its usual value is left out, and keys that are not known are passed over.

use serde::{Deserialize, Serialize};

use super::call::Session;
use crate::moment::Moment;
use crate::proto::CallId;
use crate::proto::saved::exact;

/// A session and when it was as it says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Saved<S> {
    /// What happened since is not in it.
    pub saved: Moment,
    pub session: S,
}

/// Appends the state of a session.
pub(super) fn write(out: &mut Vec<u8>, session: &Session, saved: Moment) {
    // Writing to memory does not fail, and no map here has keys that JSON cannot hold.
    let _ = serde_json::to_writer(out, &Saved { saved, session });
}

/// Reads a state.
///
/// # Errors
/// Why it cannot be used.
pub(super) fn read(state: &[u8]) -> Result<Saved<Session>, String> {
    let mut saved: Saved<Session> =
        serde_json::from_slice(state).map_err(|error| error.to_string())?;
    saved.session.media.restore()?;
    Ok(saved)
}

/// The call-id in a state, by which it is known whose it is to be.
///
/// # Errors
/// Why there is none.
pub fn saved_call_id(state: &[u8]) -> Result<CallId, String> {
    #[derive(Deserialize)]
    struct Head {
        media: MediaHead,
    }
    #[derive(Deserialize)]
    struct MediaHead {
        #[serde(with = "exact")]
        call_id: CallId,
    }
    let saved: Saved<Head> = serde_json::from_slice(state).map_err(|error| error.to_string())?;
    Ok(saved.session.media.call_id)
}
