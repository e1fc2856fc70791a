//! The end of a session, as the dispatcher learned of it: what accounting stores and dialog ending acts on.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::statistics::Statistics;
use crate::proto::{CallId, DialogId, Visible};

/// How the dispatcher learned that a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The SIP proxy removed it.
    Removed,
    /// Its relay ended it: silence, or the relay's own end.
    Expired,
    /// Its relay stayed away for `cleanup_dead_relays_after`.
    LostRelay,
    /// Its relay came back without it.
    Purged,
    /// The administrator ended it on its relay.
    Ended,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Removed => "removed by the proxy",
            Reason::Expired => "expired on its relay",
            Reason::LostRelay => "its relay stayed away",
            Reason::Purged => "its relay came back without it",
            Reason::Ended => "ended by the administrator",
        })
    }
}

/// A session that is over.
#[derive(Clone, Debug)]
pub struct Finished {
    pub call_id: CallId,
    pub dialog_id: Option<DialogId>,
    /// None where the relay had none to give, or was not there to give them.
    pub statistics: Option<Statistics>,
    pub reason: Reason,
    /// The SIP proxy is to end the dialog (docs/protocol.md section 7).
    pub end_dialog: bool,
    /// It ended without the proxy and the parties did not go direct.
    pub timed_out: bool,
    pub all_streams_ice: bool,
    /// The address that the relay's link comes or came from.
    pub relay_ip: IpAddr,
}

/// Takes ended sessions: called by the threads that read from relays, so it must not block.
pub type FinishedSink = Arc<dyn Fn(Finished) + Send + Sync>;

impl fmt::Display for Finished {
    /// The one line that a log keeps of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finished {
            call_id,
            reason,
            relay_ip,
            ..
        } = self;
        write!(
            f,
            "[session {call_id}] finished: {reason}, relay {relay_ip}"
        )?;
        if let Some(dialog_id) = &self.dialog_id {
            write!(f, ", dialog {dialog_id}")?;
        }
        if self.end_dialog {
            f.write_str(", dialog to be ended")?;
        }
        match &self.statistics {
            Some(statistics) => {
                let json = Visible(statistics.json.get().as_bytes());
                write!(f, ", statistics {json}")
            }
            None => f.write_str(", no statistics"),
        }
    }
}
