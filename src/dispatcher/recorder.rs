//! What becomes of an answered session: a note for the case that this process is killed; at its end a line in the log, a
//! record in the journal, the end of its dialog. The dialog is noted before the record is there: from then on nothing
//! else tells the dispatcher after this one that it is to be ended.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use log::{Level, info, log};

use super::call::CallNote;
use super::dialog::{Enders, Told};
use super::ended_call::{EndedCall, NewRecord};
use super::finisher::Finisher;
use super::ledger::{Due, Earlier, Ledger};
use crate::accounting::{self, Accounting, Keeper, Outcome};
use crate::metrics::Exposition;
use crate::proto::name::Name;
use crate::proto::{DialogId, SessionId};
use crate::sys::sync::lock;
use crate::sys::{clock, random};
use crate::words::counted;

/// See the module.
pub struct Recorder {
    /// None where nothing is accounted: the log is all there is then.
    books: Option<Books>,
    enders: Arc<Enders>,
}

struct Books {
    accounting: Arc<Accounting>,
    ledger: Arc<Ledger>,
    refused: Mutex<Refused>,
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
                "{} known from before this start: waiting for their relays to connect",
                counted(calls, "answered call")
            );
        }
        if dialogs > 0 {
            info!(
                "{} from before this start to be ended: asking the SIP proxy again",
                counted(dialogs, "dialog")
            );
        }
        let ledger = Arc::new(ledger);
        ledger.start(is_recorded)?;
        Ok(Books {
            accounting,
            ledger,
            refused: Mutex::default(),
            earlier: Mutex::new(earlier),
        })
    }

    /// Notes that a dialog is to be ended.
    fn due(&self, name: &Name, dialog_id: &DialogId) -> Told {
        let now = clock::now().unix;
        let due = self.ledger.due(name, dialog_id, now, random::bits());
        Told::Ledger(Arc::clone(&self.ledger), due)
    }
}

/// What was known of sessions that could not be recorded when they ended. Their relays tell of them again, when the
/// registry has forgotten them.
#[derive(Debug, Default)]
struct Refused(HashMap<SessionId, EndedCall>);

/// So many are remembered, those with long names for what they take: by then the disk has been full for long.
const MAX_REFUSED: usize = 20_000;
/// Bytes of a long name.
const LONG_NAME: usize = 2048;

impl Refused {
    fn remember(&mut self, finished: &EndedCall) {
        let id = finished.session_id().filter(|_| finished.is_kept);
        let name = &finished.name;
        let is_long = name.call_id.0.as_bytes().len() + name.tags() > LONG_NAME;
        let most = if is_long {
            MAX_REFUSED / 20
        } else {
            MAX_REFUSED
        };
        let Some(id) = id.filter(|_| self.0.len() < most) else {
            return;
        };
        let without_statistics = EndedCall {
            statistics: None,
            ..finished.clone()
        };
        self.0.insert(id, without_statistics);
    }

    /// A session that was told of before ended as it did then, and its dialog has been seen to. Returns true if this is
    /// one.
    fn recall(&mut self, finished: &mut EndedCall) -> bool {
        let id = finished.session_id();
        let Some(before) = id.and_then(|id| self.0.remove(&id)) else {
            return false;
        };
        *finished = EndedCall {
            dialog_id: before.dialog_id.or(finished.dialog_id.take()),
            known: before.known.or(finished.known.take()),
            statistics: finished.statistics.take(),
            all_streams_ice: finished.all_streams_ice,
            relay_ip: finished.relay_ip,
            is_kept: finished.is_kept,
            end_dialog: false,
            ..before
        };
        true
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

    /// What goes before the record: a line in the log, and the note that a dialog is to be ended.
    fn announce(&self, finished: &mut EndedCall) -> Told {
        let books = self.books.as_ref();
        let is_told_again = books.is_some_and(|b| lock(&b.refused).recall(finished));
        // A relay repeats what is not recorded, for as long as that takes.
        let level = if is_told_again {
            Level::Debug
        } else {
            Level::Info
        };
        log!(level, "{finished}");
        match (dialog_to_end(finished), books) {
            (Some(dialog_id), Some(books)) => books.due(&finished.name, dialog_id),
            _ => Told::Nobody,
        }
    }

    /// Which of them are recorded.
    fn record(&self, ended: &[EndedCall]) -> Vec<bool> {
        let Some(books) = &self.books else {
            return vec![true; ended.len()];
        };
        let record = |one: &EndedCall| one.record(clock::now(), random::bits());
        let records: Vec<Option<NewRecord>> = ended.iter().map(record).collect();
        let mut answered = Vec::with_capacity(ended.len());
        for (record, one) in records.iter().zip(ended) {
            answered.extend(record.as_ref().map(|record| accounting::Ended {
                session_id: Some(record.session_id.as_str().into()),
                info: &record.text,
                keeper: if one.is_kept {
                    Keeper::Relay
                } else {
                    Keeper::Nobody
                },
            }));
        }
        let mut outcomes = books.accounting.take_all(&answered).into_iter();
        let is_recorded = |record: &Option<NewRecord>| match record {
            Some(_) => outcomes.next() != Some(Outcome::Refused),
            None => true,
        };
        let recorded: Vec<bool> = records.iter().map(is_recorded).collect();
        let mut over = Vec::with_capacity(ended.len());
        for ((one, record), is_recorded) in ended.iter().zip(&records).zip(&recorded) {
            if !is_recorded {
                lock(&books.refused).remember(one);
            }
            // Else a relay tells of what it alone has left of a call that another one got.
            if record.is_some() || one.known.is_some() {
                over.extend(one.session_id().map(|id| (id, *is_recorded)));
            }
        }
        books.ledger.over(&over);
        recorded
    }
}

/// The dialog that the proxy is to end.
fn dialog_to_end(finished: &EndedCall) -> Option<&DialogId> {
    finished.dialog_id.as_ref().filter(|_| finished.end_dialog)
}

impl Finisher for Recorder {
    fn finish(&self, mut ended: Vec<EndedCall>) -> Vec<bool> {
        let told: Vec<Told> = ended.iter_mut().map(|one| self.announce(one)).collect();
        let recorded = self.record(&ended);
        for (one, told) in ended.iter().zip(told) {
            if let Some(dialog_id) = dialog_to_end(one) {
                self.enders.end(&one.name.call_id, dialog_id, told);
            }
        }
        recorded
    }

    fn note(&self, note: &CallNote) {
        if let Some(books) = &self.books {
            books.ledger.note(note, clock::now().unix);
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
            let (call_id, dialog_id) = (due.name.call_id.clone(), due.dialog_id.clone());
            let told = Told::Ledger(Arc::clone(&books.ledger), due);
            self.enders.end(&call_id, &dialog_id, told);
        }
    }

    fn records(&self) -> bool {
        self.books.is_some()
    }

    fn has(&self, session_id: &str) -> bool {
        let Some(books) = &self.books else {
            return false;
        };
        let is_recorded = books.accounting.has(session_id);
        // What was refused may have been recorded since.
        if let (true, Ok(id)) = (is_recorded, session_id.parse()) {
            lock(&books.refused).0.remove(&id);
        }
        is_recorded
    }

    fn is_refused(&self, session_id: &str) -> bool {
        let id: Option<SessionId> = session_id.parse().ok();
        let books = self.books.as_ref();
        id.zip(books)
            .is_some_and(|(id, books)| lock(&books.refused).0.contains_key(&id))
    }

    fn mark(&self) -> u64 {
        let books = self.books.as_ref();
        books.map_or(0, |books| books.accounting.mark())
    }

    fn on_disk(&self) -> u64 {
        let books = self.books.as_ref();
        books.map_or(0, |books| books.accounting.synced())
    }

    fn sync(&self) {
        if let Some(books) = &self.books {
            books.accounting.sync();
        }
    }

    fn write_metrics(&self, text: &mut Exposition) {
        self.enders.counts().write(text);
        let books = self.books.as_ref();
        accounting::metrics::write(text, books.map(|books| &*books.accounting));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::ProxySocket;
    use crate::dispatcher::ended_call::Reason;
    use crate::dispatcher::statistics::Statistics;
    use crate::proto::{CallId, Tag};
    use crate::sys::scratch::Scratch;

    const TOLD: &str = r#"{"call_id":"a","start_time":1.5,"to_tag":"t","dialog_id":"1:2",
        "session_id":"0f8fad5b-d9cb-469f-a165-70867728950e"}"#;

    /// As a relay tells it of a session that is not known otherwise.
    fn told() -> EndedCall {
        EndedCall {
            name: Name {
                call_id: CallId("a".into()),
                caller: None,
                callee: Some(Tag("t".into())),
            },
            dialog_id: None,
            statistics: Some(Statistics::parse(TOLD.as_bytes()).unwrap()),
            known: None,
            reason: Reason::Expired,
            end_dialog: true,
            timed_out: true,
            all_streams_ice: false,
            relay_ip: [192, 0, 2, 1].into(),
            is_kept: true,
            length: None,
        }
    }

    #[test]
    fn what_comes_again_ended_as_it_did() {
        let mut refused = Refused::default();
        let removed = EndedCall {
            reason: Reason::Removed,
            dialog_id: Some(DialogId("1:2".into())),
            end_dialog: false,
            timed_out: false,
            length: Some(Duration::from_secs(8)),
            ..told()
        };
        refused.remember(&removed);
        let mut again = told();
        refused.recall(&mut again);
        assert_eq!(again.to_string(), removed.to_string());
        assert!(!again.timed_out && !again.end_dialog);
        // Refused once more, and told once more.
        refused.remember(&again);
        let mut third = told();
        refused.recall(&mut third);
        assert!(!third.timed_out);
        let mut other = told();
        refused.recall(&mut other);
        assert!(
            other.timed_out && other.end_dialog,
            "nothing is known of it"
        );
    }

    #[test]
    fn what_was_refused_and_is_recorded_now_is_not_waited_for() {
        let scratch = Scratch::new("recorder");
        let dir = scratch.path();
        let settings = accounting::Settings {
            state_dir: dir.to_owned(),
            journal_limit: 16 << 20,
        };
        let accounting = Accounting::start(&settings, Vec::new()).unwrap();
        let nowhere = ProxySocket {
            paths: vec![dir.join("fifo")],
            is_set: false,
        };
        let enders = Arc::new(Enders::start(&nowhere, &nowhere, dir, (0o600, None)).unwrap());
        let recorder = Recorder::open(Some(Arc::clone(&accounting)), enders, dir).unwrap();
        let id = told().session_id().unwrap().to_string();
        lock(&recorder.books.as_ref().unwrap().refused).remember(&told());
        assert!(recorder.is_refused(&id) && !recorder.has(&id));
        // What accounting held in memory went to the disk.
        let record = told().record(clock::now(), 0).unwrap();
        let record = record.text.replace('\n', "");
        assert_eq!(accounting.take(&record, Keeper::Relay), Outcome::Stored);
        assert!(recorder.has(&id) && !recorder.is_refused(&id));
    }

    #[test]
    fn what_no_relay_keeps_does_not_come_again() {
        let mut refused = Refused::default();
        refused.remember(&EndedCall {
            is_kept: false,
            ..told()
        });
        assert!(refused.0.is_empty());
    }
}
