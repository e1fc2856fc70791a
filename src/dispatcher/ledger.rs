//! Answered calls that are not over, and dialogs that the SIP proxy is to end, on disk: what a dispatcher that is killed
//! knew of them, for the one after it. So a call is accounted even where its relay is lost while no dispatcher runs, a
//! dialog is ended whose relay came back without the call, and none goes on because nobody asked the proxy again.
//!
//! In its log (see [`KeyedLog`]) stand `call NOTE` and `dialog ID NOTE` (see `lines`), `over ID`, with a call's session id
//! or a dialog's own, and, as long as there are calls, `seen MICROSECONDS` every few seconds. A line is in the kernel's
//! hands before the proxy is answered or asked, and on disk a second later.

mod lines;

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use log::{error, info, warn};

use self::lines::{CallLine, DialogLine, time_micros, time_of};
use super::call::CallNote;
use super::ended_call::DIALOG_AGE;
use crate::journal::{Change, KeyedLog, Kind, Line, News, Options};
use crate::moment::UnixTime;
use crate::proto::name::Name;
use crate::proto::{DialogId, Excerpt, SessionId};
use crate::sys::clock;
use crate::sys::sync::lock;
use crate::sys::thread::run_tenaciously;
use crate::words::counted;

/// A call needs some 500 bytes.
const OPTIONS: Options = Options {
    size: 512 << 20,
    segment: 1 << 20,
    memory: 8 << 20,
    moved: 500,
};

/// How often the disk is made to have what was written, and room is given back.
const TEND_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is noted that this dispatcher lives: a call whose relay never comes back ended no earlier than that.
const SEEN_INTERVAL: Duration = Duration::from_secs(10);

/// So many of those that are over are remembered: news of one may come late.
const MAX_STRUCK: usize = 4096;

/// See the module.
pub struct Ledger {
    log: KeyedLog<LiveCalls>,
    state: Mutex<State>,
}

/// What an earlier dispatcher has left.
#[derive(Debug, Default)]
pub struct Earlier {
    /// There was one, and it has told all of them.
    pub is_known: bool,
    pub calls: Vec<CallNote>,
    pub dialogs: Vec<Due>,
}

/// A dialog that is to be ended, on disk until [`Ledger::settled`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    id: SessionId,
    pub name: Name,
    pub dialog_id: DialogId,
}

#[derive(Debug, Default)]
struct State {
    /// What was over lately.
    struck: Struck,
    /// Over, and recorded nowhere yet.
    unrecorded: HashSet<SessionId>,
    seen: UnixTime,
}

/// What the log holds.
struct LiveCalls;

/// What is known of a line besides its text.
enum Noted {
    /// The order of the news that it tells.
    Told(u64),
    /// What it says, of an earlier dispatcher, until that has been taken.
    Call(Box<CallLine>),
    Dialog(Box<DialogLine>),
}

impl Noted {
    const TAKEN: Noted = Noted::Told(0);
}

impl Kind for LiveCalls {
    type Key = SessionId;
    type Value = Noted;
    const NAME: &'static str = "live calls";
    const REMOVED: &'static str = "over";

    fn tell(news: News<'_, SessionId>) {
        let (why, left_out) = match news {
            News::Refused(why, left_out) => (why, left_out),
            News::Unsynced(error, left_out) => (error.to_string(), left_out),
            News::GivenUp(_, Some(left_out)) => ("too many wait in memory".to_owned(), left_out),
            News::GivenUp(_, None) => return,
            News::Unfit(why, line) => {
                let line = Excerpt(line);
                return error!("a live call cannot be noted on disk ({why}): {line}");
            }
            News::TakenAgain => return info!("live calls are noted on disk again"),
            News::Damaged(id) => {
                return error!("what was noted of session {id} is damaged on disk and given up");
            }
            News::NotRemoved(error) => {
                return warn!("a segment of ended calls cannot be removed: {error}");
            }
        };
        error!(
            "live calls cannot be noted on disk: {why}; should this dispatcher be killed, they are accounted only if \
             their relays tell them{left_out}"
        );
    }
}

/// The last ones that were over.
#[derive(Debug, Default)]
struct Struck {
    ids: HashSet<SessionId>,
    order: VecDeque<SessionId>,
}

impl Struck {
    fn contains(&self, id: SessionId) -> bool {
        self.ids.contains(&id)
    }

    fn add(&mut self, id: SessionId) {
        if self.ids.insert(id) {
            self.order.push_back(id);
        }
        if self.order.len() > MAX_STRUCK {
            if let Some(oldest) = self.order.pop_front() {
                self.ids.remove(&oldest);
            }
        }
    }
}

impl Ledger {
    /// Opens the ledger in this directory and takes what an earlier dispatcher has left; `is_recorded` tells which
    /// sessions were accounted all the same.
    ///
    /// # Errors
    /// A sentence with the path.
    pub fn open(
        dir: &Path,
        now: UnixTime,
        is_recorded: impl Fn(SessionId) -> bool,
    ) -> Result<(Ledger, Earlier), String> {
        let (mut seen, mut unreadable) = (UnixTime::EPOCH, 0);
        let log = KeyedLog::open(dir, OPTIONS, |text| {
            read(text, &mut seen).unwrap_or_else(|| {
                unreadable += 1;
                Line::Other
            })
        })?;
        if unreadable > 0 {
            let (lines, shown) = (counted(unreadable, "line"), dir.display());
            error!("{shown}: {lines} on live calls cannot be read and are left out");
        }
        let mut earlier = Earlier {
            is_known: seen > UnixTime::EPOCH && unreadable == 0,
            ..Earlier::default()
        };
        // In the order in which they were noted, so that of two with one call-id the later one is the call.
        let mut lines = Vec::new();
        log.each(|id, noted| lines.push((id, std::mem::replace(noted, Noted::TAKEN))));
        let changes = lines.into_iter().map(|(id, noted)| {
            let line = match noted {
                // Accounting does not remember it for ever.
                Noted::Call(_) if is_recorded(id) => None,
                Noted::Told(_) => None,
                Noted::Call(line) => {
                    // What is known now of its end and its relay, the next start does not know better.
                    let note = line.note(seen);
                    let line = note.as_ref().and_then(|note| call_line(note, now));
                    earlier.calls.extend(note);
                    line
                }
                Noted::Dialog(line) => {
                    let due = line.due(id, now.saturating_sub(DIALOG_AGE));
                    let line = due.as_ref().and_then(|(due, at)| dialog_line(due, *at));
                    earlier.dialogs.extend(due.map(|(due, _)| due));
                    line
                }
            };
            // Should the disk not take it: the old line says nearly the same.
            match line {
                Some(line) => Change::Put(id, Noted::TAKEN, line),
                None => Change::Remove(id),
            }
        });
        log.apply(changes);
        let state = Mutex::default();
        Ok((Ledger { log, state }, earlier))
    }

    /// Tends the ledger every second, in a thread of its own, as long as it is used.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(
        self: &Arc<Ledger>,
        is_recorded: impl Fn(SessionId) -> bool + Send + 'static,
    ) -> Result<(), String> {
        let ledger = Arc::downgrade(self);
        super::threads::spawn("ledger", move || {
            run_tenaciously("ledger", || {
                while let Some(ledger) = ledger.upgrade() {
                    ledger.tend(clock::now().unix, &is_recorded);
                    drop(ledger);
                    thread::sleep(TEND_INTERVAL);
                }
            });
        })
        .map_err(|error| format!("cannot start the ledger thread: {error}"))
    }

    /// A call is answered, or there is news of it.
    pub fn note(&self, note: &CallNote, now: UnixTime) {
        let id = note.call.known.session_id;
        let Some(line) = call_line(note, now) else {
            return;
        };
        let state = lock(&self.state);
        // Two threads may have news of one call, and the older news may come last.
        let is_old = |noted: &mut Noted| matches!(noted, Noted::Told(last) if note.order < *last);
        if state.struck.contains(id) || self.log.with(id, is_old) == Some(true) {
            return;
        }
        self.log.put(id, Noted::Told(note.order), line);
        drop(state);
    }

    /// A dialog is to be ended: to be told before anybody is asked to. `random` becomes its name here.
    pub fn due(&self, name: &Name, dialog_id: &DialogId, now: UnixTime, random: u128) -> Due {
        let due = Due {
            id: SessionId::from_random(random),
            name: name.clone(),
            dialog_id: dialog_id.clone(),
        };
        if let Some(line) = dialog_line(&due, now) {
            self.log.put(due.id, Noted::TAKEN, line);
        }
        due
    }

    /// The proxy has answered, or is not asked any more.
    pub fn settled(&self, due: &Due) {
        self.strike(&mut lock(&self.state), [due.id]);
    }

    /// Calls are over, each with whether it is recorded. One that is not stays until it is, whoever else keeps its
    /// record.
    pub fn over(&self, ended: &[(SessionId, bool)]) {
        let mut state = lock(&self.state);
        let mut recorded = Vec::new();
        for (id, is_recorded) in ended {
            if *is_recorded {
                recorded.push(*id);
            } else if self.log.with(*id, |_| ()).is_some() {
                state.unrecorded.insert(*id);
            }
        }
        self.strike(&mut state, recorded);
    }

    fn strike(&self, state: &mut State, ids: impl IntoIterator<Item = SessionId>) {
        self.log.apply(ids.into_iter().map(|id| {
            state.struck.add(id);
            Change::Remove(id)
        }));
    }

    /// What is due: the disk gets what was written and what it did not take before, and what is over is given back.
    pub fn tend(&self, now: UnixTime, is_recorded: impl Fn(SessionId) -> bool) {
        // They may be many, and nobody who answers the proxy shall wait for them.
        let unrecorded = std::mem::take(&mut lock(&self.state).unrecorded);
        let (recorded, left): (Vec<SessionId>, Vec<SessionId>) =
            unrecorded.into_iter().partition(|id| is_recorded(*id));
        let mut state = lock(&self.state);
        state.unrecorded.extend(left);
        self.strike(&mut state, recorded);
        let is_due = self.log.count() > 0
            && now.since(state.seen).max(state.seen.since(now)) >= SEEN_INTERVAL;
        if is_due {
            state.seen = now;
        }
        drop(state);
        if is_due {
            self.log
                .remark(format!("seen {}", time_micros(now)).as_bytes());
        }
        self.log.tend();
        self.log.sync();
    }
}

fn call_line(note: &CallNote, now: UnixTime) -> Option<Vec<u8>> {
    let mut line = b"call ".to_vec();
    serde_json::to_writer(&mut line, &CallLine::new(note, now)?).ok()?;
    Some(line)
}

fn dialog_line(due: &Due, at: UnixTime) -> Option<Vec<u8>> {
    let mut line = format!("dialog {} ", due.id).into_bytes();
    serde_json::to_writer(&mut line, &DialogLine::new(due, at)).ok()?;
    Some(line)
}

/// What a line of the log says. Until `seen` a dispatcher lived.
fn read(text: &[u8], seen: &mut UnixTime) -> Option<Line<LiveCalls>> {
    let (word, rest) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    Some(match word {
        "call" => {
            let line: Box<CallLine> = serde_json::from_str(rest).ok()?;
            *seen = (*seen).max(time_of(line.at));
            Line::Put(line.session_id.parse().ok()?, Noted::Call(line))
        }
        "dialog" => {
            let (id, json) = rest.split_once(' ')?;
            let line = serde_json::from_str(json).ok()?;
            Line::Put(id.parse().ok()?, Noted::Dialog(line))
        }
        "over" => Line::Remove(rest.parse().ok()?),
        "seen" => {
            // The last one counts, though the clock may have been set back before it.
            *seen = time_of(rest.parse().ok()?);
            Line::Other
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
