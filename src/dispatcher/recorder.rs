//! What becomes of a session that is over: a line in the log, a record in the journal, the end of its dialog.

use std::sync::Arc;

use log::info;

use super::dialog::Enders;
use super::finished::{Finished, Finisher};
use crate::accounting::{self, Accounting, Keeper, Outcome};
use crate::metrics::Exposition;
use crate::sys::{clock, random};

/// See the module.
pub struct Recorder {
    /// None where nothing is accounted: the log is all there is then.
    accounting: Option<Arc<Accounting>>,
    enders: Arc<Enders>,
}

impl Recorder {
    pub fn new(accounting: Option<Arc<Accounting>>, enders: Arc<Enders>) -> Recorder {
        Recorder { accounting, enders }
    }

    fn record(&self, finished: &Finished) -> bool {
        let Some(accounting) = &self.accounting else {
            return true;
        };
        let Some(record) = finished.record(clock::now(), random::bits()) else {
            return true;
        };
        let keeper = match finished.is_kept {
            true => Keeper::Relay,
            false => Keeper::Nobody,
        };
        accounting.take(&record, keeper) != Outcome::Refused
    }
}

impl Finisher for Recorder {
    fn finish(&self, finished: Finished) -> bool {
        info!("{finished}");
        let is_recorded = self.record(&finished);
        if let Some(dialog_id) = finished.dialog_id.as_ref().filter(|_| finished.end_dialog) {
            self.enders.end(&finished.call_id, dialog_id, None);
        }
        is_recorded
    }

    fn records(&self) -> bool {
        self.accounting.is_some()
    }

    fn has(&self, session_id: &str) -> bool {
        let accounting = self.accounting.as_ref();
        accounting.is_some_and(|accounting| accounting.has(session_id))
    }

    fn write_metrics(&self, text: &mut Exposition) {
        self.enders.counts().write(text);
        accounting::metrics::write(text, self.accounting.as_deref());
    }
}
