//! What becomes of an answered session: a note for the case that this process is killed; at its end a line in the log, a
//! record in the journal, the end of its dialog.

use std::path::Path;
use std::sync::{Arc, Mutex};

use log::info;

use super::dialog::Enders;
use super::finished::{Finished, Finisher};
use super::ledger::Ledger;
use super::registry::LiveCall;
use super::waiting::lock;
use crate::accounting::{self, Accounting, Keeper, Outcome};
use crate::metrics::Exposition;
use crate::proto::SessionId;
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
    earlier: Mutex<Vec<LiveCall>>,
}

impl Books {
    fn open(accounting: Arc<Accounting>, state_dir: &Path) -> Result<Books, String> {
        let recorded = Arc::clone(&accounting);
        let is_recorded = move |id: SessionId| recorded.has(&id.to_string());
        let directory = state_dir.join("accounting").join("calls");
        let (ledger, earlier) = Ledger::open(&directory, &is_recorded)?;
        if !earlier.is_empty() {
            let count = earlier.len();
            info!(
                "{count} answered call(s) are known from before this start: their relays are waited for"
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
        let is_recorded = self.record(&finished);
        if let Some(dialog_id) = finished.dialog_id.as_ref().filter(|_| finished.end_dialog) {
            self.enders.end(&finished.call_id, dialog_id, None);
        }
        is_recorded
    }

    fn note(&self, call: &LiveCall) {
        if let Some(books) = &self.books {
            books.ledger.note(call, clock::now().unix);
        }
    }

    fn earlier(&self) -> Vec<LiveCall> {
        let earlier = self.books.as_ref();
        earlier.map_or_else(Vec::new, |books| std::mem::take(&mut lock(&books.earlier)))
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
