//! What becomes of an answered session: a note for the case that this process is killed; at its end a line in the log, a
//! record in the journal, the end of its dialog. The dialog is noted before the record is there: from then on nothing
//! else tells the dispatcher after this one that it is to be ended.

use std::path::Path;
use std::sync::{Arc, Mutex};

use log::info;

use super::dialog::{Enders, Told};
use super::finished::{Finished, Finisher};
use super::ledger::{Due, Earlier, Ledger};
use super::registry::LiveCall;
use super::waiting::lock;
use crate::accounting::{self, Accounting, Keeper, Outcome};
use crate::metrics::Exposition;
use crate::proto::{CallId, DialogId, SessionId};
use crate::sys::{clock, random};

/// See the module.
pub struct Recorder {
    /// None where nothing is accounted: the log is all there is then.
    books: Option<Books>,
    enders: Arc<Enders>,
}

struct Books {
    accounting: Arc<Accounting>,
    ledger: Arc<Ledger>,
    /// What the ledger had from a dispatcher before this one.
    earlier: Mutex<Earlier>,
}

impl Books {
    fn open(accounting: Arc<Accounting>, state_dir: &Path) -> Result<Books, String> {
        let recorded = Arc::clone(&accounting);
        let is_recorded = move |id: SessionId| recorded.has(&id.to_string());
        let directory = state_dir.join("accounting").join("calls");
        let (ledger, earlier) = Ledger::open(&directory, clock::now().unix, &is_recorded)?;
        let (calls, dialogs) = (earlier.calls.len(), earlier.dialogs.len());
        if calls > 0 {
            info!(
                "{calls} answered call(s) are known from before this start: their relays are waited for"
            );
        }
        if dialogs > 0 {
            info!(
                "{dialogs} dialog(s) from before this start are to be ended: the SIP proxy is asked again"
            );
        }
        let ledger = Arc::new(ledger);
        ledger.start(is_recorded)?;
        Ok(Books {
            accounting,
            ledger,
            earlier: Mutex::new(earlier),
        })
    }

    /// Notes that a dialog is to be ended.
    fn due(&self, call_id: &CallId, dialog_id: &DialogId) -> Told {
        let now = clock::now().unix;
        let due = self.ledger.due(call_id, dialog_id, now, random::bits());
        Told::Ledger(Arc::clone(&self.ledger), due)
    }
}

impl Recorder {
    /// `state_dir` is where the accounting has its files.
    ///
    /// # Errors
    /// A sentence: what cannot be opened.
    pub fn open(
        accounting: Option<Arc<Accounting>>,
        enders: Arc<Enders>,
        state_dir: &Path,
    ) -> Result<Recorder, String> {
        let books = accounting.map(|accounting| Books::open(accounting, state_dir));
        let books = books.transpose()?;
        Ok(Recorder { books, enders })
    }

    fn record(&self, finished: &Finished) -> bool {
        let Some(books) = &self.books else {
            return true;
        };
        let keeper = match finished.is_kept {
            true => Keeper::Relay,
            false => Keeper::Nobody,
        };
        let record = finished.record(clock::now(), random::bits());
        let take = |record: String| books.accounting.take(&record, keeper) != Outcome::Refused;
        let is_recorded = record.is_none_or(take);
        if let Some(id) = finished.session_id() {
            books.ledger.over(id, is_recorded);
        }
        is_recorded
    }
}

impl Finisher for Recorder {
    fn finish(&self, finished: Finished) -> bool {
        info!("{finished}");
        let call_id = &finished.call_id;
        let dialog_id = finished.dialog_id.as_ref().filter(|_| finished.end_dialog);
        let told = match (dialog_id, &self.books) {
            (Some(dialog_id), Some(books)) => books.due(call_id, dialog_id),
            _ => Told::Nobody,
        };
        let is_recorded = self.record(&finished);
        if let Some(dialog_id) = dialog_id {
            self.enders.end(call_id, dialog_id, told);
        }
        is_recorded
    }

    fn note(&self, call: &LiveCall) {
        if let Some(books) = &self.books {
            books.ledger.note(call, clock::now().unix);
        }
    }

    fn earlier(&self) -> Earlier {
        let books = self.books.as_ref();
        books.map_or_else(Earlier::default, |books| {
            std::mem::take(&mut lock(&books.earlier))
        })
    }

    fn end_earlier(&self, dialogs: Vec<Due>) {
        let Some(books) = &self.books else {
            return;
        };
        for due in dialogs {
            let (call_id, dialog_id) = (due.call_id.clone(), due.dialog_id.clone());
            let told = Told::Ledger(Arc::clone(&books.ledger), due);
            self.enders.end(&call_id, &dialog_id, told);
        }
    }

    fn records(&self) -> bool {
        self.books.is_some()
    }

    fn has(&self, session_id: &str) -> bool {
        let books = self.books.as_ref();
        books.is_some_and(|books| books.accounting.has(session_id))
    }

    fn write_metrics(&self, text: &mut Exposition) {
        self.enders.counts().write(text);
        let books = self.books.as_ref();
        accounting::metrics::write(text, books.map(|books| &*books.accounting));
    }
}
