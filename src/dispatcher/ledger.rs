//! Answered calls that are not over, and dialogs that the SIP proxy is to end, on disk: what a dispatcher that is killed
//! knew of them, for the one after it. So a call is accounted even where its relay is lost while no dispatcher runs, a
//! dialog is ended whose relay came back without the call, and none goes on because nobody asked the proxy again.
//!
//! In the journal stand `call NOTE` and `dialog ID NOTE` (see `lines`), `over ID`, with a call's session id or a dialog's
//! own, and, as long as there are calls, `seen MICROSECONDS` every few seconds. A line is in the kernel's hands before
//! the proxy is answered or asked, and on disk a second later.

mod lines;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use log::{error, info, warn};

use self::lines::{DialogNote, Note, micros};
use super::call::LiveCall;
use super::ended_call::DIALOG_AGE;
use crate::journal::{Journal, Limits, Position, Refused};
use crate::logging::sparse::Sparse;
use crate::proto::name::Name;
use crate::proto::{DialogId, Excerpt, SessionId};
use crate::sys::clock;
use crate::sys::sync::lock;
use crate::sys::thread::run_tenaciously;
use crate::words::counted;

/// Bytes of all segments, and of one. A call needs some 500.
const SIZE: u64 = 512 << 20;
const SEGMENT: u64 = 1 << 20;

/// How often the disk is made to have what was written, and room is given back.
const TEND: Duration = Duration::from_secs(1);

/// How often it is noted that this dispatcher lives: a call whose relay never comes back ended no earlier than that.
const SEEN: Duration = Duration::from_secs(10);

/// So many lines of live calls are moved at once from the oldest segment, so that it can go.
const MOVED: usize = 500;

/// So many of those that are over are remembered: news of one may come late.
const STRUCK: usize = 4096;

/// So many lines that the disk refused are tried again at a time.
const RETRIED: usize = 100;

/// Bytes of lines that are kept in memory while the disk does not take them.
const IN_MEMORY: usize = 8 << 20;

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    journal: Journal,
    state: Mutex<State>,
}

/// What an earlier dispatcher has left.
#[derive(Debug, Default)]
pub struct Earlier {
    /// There was one, and it has told all of them.
    pub is_known: bool,
    pub calls: Vec<LiveCall>,
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
    /// Where the last line of each live call or dialog is. None while the disk does not take it.
    lines: HashMap<SessionId, Option<Position>>,
    by_position: BTreeMap<Position, SessionId>,
    /// Of the news that its line tells.
    orders: HashMap<SessionId, u64>,
    /// What was over lately.
    struck: Struck,
    /// What the disk did not take, oldest first: a line, or that it is over.
    refused: VecDeque<(SessionId, Vec<u8>)>,
    refused_bytes: usize,
    /// Over, and recorded nowhere yet.
    unrecorded: HashSet<SessionId>,
    complaints: Sparse,
    seen: Duration,
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
        if self.order.len() > STRUCK {
            if let Some(oldest) = self.order.pop_front() {
                self.ids.remove(&oldest);
            }
        }
    }
}

impl Ledger {
    /// Opens the ledger in this directory and takes what an earlier dispatcher has left; `is_recorded` tells which
    /// sessions were accounted all the same. `now` is since 1970-01-01 UTC.
    ///
    /// # Errors
    /// A sentence with the path.
    pub fn open(
        dir: &Path,
        now: Duration,
        is_recorded: impl Fn(SessionId) -> bool,
    ) -> Result<(Ledger, Earlier), String> {
        let limits = Limits {
            size: SIZE,
            segment: SEGMENT,
            history: 0,
        };
        let mut found = Left::default();
        let journal = Journal::open(dir, limits, |at, text| found.read(at, text))?;
        if found.unreadable > 0 {
            let (lines, shown) = (counted(found.unreadable, "line"), dir.display());
            error!("{shown}: {lines} on live calls cannot be read and are left out");
        }
        let is_known = found.seen > Duration::ZERO && found.unreadable == 0;
        let (mut state, mut earlier) = (State::default(), Earlier::default());
        earlier.is_known = is_known;
        // In the order in which they were noted, so that of two with one call-id the later one is the call.
        let mut left: Vec<_> = found.entries.into_iter().collect();
        left.sort_unstable_by_key(|(_, (at, _))| *at);
        for (id, (at, entry)) in left {
            let line = match entry {
                // Accounting does not remember it for ever.
                Entry::Call(_) if is_recorded(id) => None,
                Entry::Call(note) => {
                    // What is known now of its end and its relay, the next start does not know better.
                    let call = note.call(found.seen);
                    let line = call.as_ref().and_then(|call| call_line(call, now));
                    earlier.calls.extend(call);
                    line
                }
                Entry::Dialog(note) => {
                    let due = note.due(id, now.saturating_sub(DIALOG_AGE));
                    let line = due.as_ref().and_then(|(due, at)| dialog_line(due, *at));
                    earlier.dialogs.extend(due.map(|(due, _)| due));
                    line
                }
            };
            // Should the disk not take it: the old line says nearly the same.
            match line {
                Some(line) => state.move_to(id, journal.append(&line).unwrap_or(at)),
                None => drop(journal.append(format!("over {id}").as_bytes())),
            }
        }
        let ledger = Ledger {
            journal,
            state: Mutex::new(state),
        };
        Ok((ledger, earlier))
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
                    ledger.tend(clock::now().unix.elapsed(), &is_recorded);
                    drop(ledger);
                    thread::sleep(TEND);
                }
            });
        })
        .map_err(|error| format!("cannot start the ledger thread: {error}"))
    }

    /// A call is answered, or there is news of it.
    pub fn note(&self, call: &LiveCall, now: Duration) {
        let id = call.known.session_id;
        let Some(line) = call_line(call, now) else {
            return;
        };
        let mut state = lock(&self.state);
        // Two threads may have news of one call, and the older news may come last.
        let last = state.orders.get(&id).copied();
        if state.struck.contains(id) || last.is_some_and(|last| call.order < last) {
            return;
        }
        self.enter(&mut state, id, line);
        state.orders.insert(id, call.order);
    }

    /// A dialog is to be ended: to be told before anybody is asked to. `random` becomes its name here.
    pub fn due(&self, name: &Name, dialog_id: &DialogId, now: Duration, random: u128) -> Due {
        let due = Due {
            id: SessionId::from_random(random),
            name: name.clone(),
            dialog_id: dialog_id.clone(),
        };
        if let Some(line) = dialog_line(&due, now) {
            self.enter(&mut lock(&self.state), due.id, line);
        }
        due
    }

    /// The proxy has answered, or is not asked any more.
    pub fn settled(&self, due: &Due) {
        self.strike(&mut lock(&self.state), [due.id]);
    }

    /// Writes the line that counts from now on.
    fn enter(&self, state: &mut State, id: SessionId, line: Vec<u8>) {
        state.forget(id);
        state.lines.insert(id, None);
        self.write(state, vec![(id, line)]);
    }

    /// Calls are over, each with whether it is recorded. One that is not stays until it is, whoever else keeps its
    /// record.
    pub fn over(&self, ended: &[(SessionId, bool)]) {
        let mut state = lock(&self.state);
        let mut recorded = Vec::new();
        for (id, is_recorded) in ended {
            match is_recorded {
                true => recorded.push(*id),
                false if state.lines.contains_key(id) => drop(state.unrecorded.insert(*id)),
                false => {}
            }
        }
        self.strike(&mut state, recorded);
    }

    fn strike(&self, state: &mut State, ids: impl IntoIterator<Item = SessionId>) {
        let mut lines = Vec::new();
        for id in ids {
            state.struck.add(id);
            if state.forget(id) {
                lines.push((id, format!("over {id}").into_bytes()));
            }
        }
        self.write(state, lines);
    }

    /// Appends lines, or keeps them until the disk takes lines again: behind those that wait already.
    fn write(&self, state: &mut State, lines: Vec<(SessionId, Vec<u8>)>) {
        let texts = lines.iter().map(|(_, line)| line.as_slice());
        let appended = match state.refused.is_empty() {
            true => self.journal.append_all(&texts.collect::<Vec<_>>()),
            false => texts.map(|_| Err(Refused::Full)).collect(),
        };
        for ((id, line), result) in lines.into_iter().zip(appended) {
            match result {
                Ok(at) => state.written(id, at),
                Err(Refused::Unfit(why)) => {
                    error!(
                        "a live call cannot be noted on disk ({why}): {}",
                        Excerpt(&line)
                    );
                }
                Err(why) => state.keep(id, line, &why),
            }
        }
    }

    /// What is due: the disk gets what was written and what it did not take before, and what is over is given back.
    pub fn tend(&self, now: Duration, is_recorded: impl Fn(SessionId) -> bool) {
        // They may be many, and nobody who answers the proxy shall wait for them.
        let unrecorded = std::mem::take(&mut lock(&self.state).unrecorded);
        let (recorded, left): (Vec<SessionId>, Vec<SessionId>) =
            unrecorded.into_iter().partition(|id| is_recorded(*id));
        let mut state = lock(&self.state);
        state.unrecorded.extend(left);
        self.strike(&mut state, recorded);
        drop(state);
        while self.retry_some() {
            thread::yield_now();
        }
        self.move_stragglers();
        let mut state = lock(&self.state);
        if !state.lines.is_empty() && now.abs_diff(state.seen) >= SEEN {
            state.seen = now;
            // Should it fail: the next one is soon.
            let _ = self
                .journal
                .append(format!("seen {}", micros(now)).as_bytes());
        }
        let oldest = state.by_position.keys().next().copied();
        let oldest = oldest.unwrap_or_else(|| self.journal.end());
        drop(state);
        let released = self.journal.release(oldest);
        if let Err(error) = released {
            warn!("a segment of ended calls cannot be removed: {error}");
        }
        self.sync();
    }

    /// Makes sure that the disk has what was written.
    pub fn sync(&self) {
        if let Err(error) = self.journal.sync() {
            lock(&self.state).complain(&error.to_string());
        }
    }

    /// Tries a few refused lines again, so that nobody who answers the proxy waits for long; whether there are more.
    fn retry_some(&self) -> bool {
        let mut state = lock(&self.state);
        if state.refused.is_empty() {
            return false;
        }
        for _ in 0..RETRIED {
            let Some((id, line)) = state.refused.pop_front() else {
                break;
            };
            match self.journal.append(&line) {
                Ok(at) => {
                    state.refused_bytes = state.refused_bytes.saturating_sub(line.len());
                    if !line.starts_with(b"over ") {
                        state.written(id, at);
                    }
                }
                Err(why) => {
                    state.refused.push_front((id, line));
                    state.complain(&why.to_string());
                    return false;
                }
            }
        }
        let has_more = !state.refused.is_empty();
        if !has_more {
            info!("live calls are noted on disk again");
        }
        has_more
    }

    /// Writes live calls of the oldest segment again, at the end, where most of what is there is over.
    fn move_stragglers(&self) {
        let state = lock(&self.state);
        let needed = state.by_position.iter().map(|(at, id)| (*at, *id));
        let old = self.journal.stragglers(needed, MOVED);
        drop(state);
        for (at, id) in old {
            let text = self.journal.read_at(at);
            let mut state = lock(&self.state);
            if state.lines.get(&id) != Some(&Some(at)) {
                continue; // There is news of it.
            }
            let Some(text) = text else {
                error!("what was noted of session {id} is damaged on disk and given up");
                state.forget(id);
                continue;
            };
            match self.journal.append(&text) {
                Ok(position) => state.move_to(id, position),
                Err(_) => return,
            }
        }
    }

    /// Bytes on disk.
    #[cfg(test)]
    fn size(&self) -> u64 {
        self.journal.size()
    }
}

impl State {
    /// The last line of a live call is here now.
    fn move_to(&mut self, id: SessionId, at: Position) {
        if let Some(Some(before)) = self.lines.insert(id, Some(at)) {
            self.by_position.remove(&before);
        }
        self.by_position.insert(at, id);
    }

    /// A line has been written; that a call is over leaves nothing to find.
    fn written(&mut self, id: SessionId, at: Position) {
        if self.lines.contains_key(&id) {
            self.move_to(id, at);
        }
    }

    fn forget(&mut self, id: SessionId) -> bool {
        let Some(at) = self.lines.remove(&id) else {
            return false;
        };
        if let Some(at) = at {
            self.by_position.remove(&at);
        }
        self.orders.remove(&id);
        true
    }

    /// The disk did not take this line.
    fn keep(&mut self, id: SessionId, line: Vec<u8>, why: &Refused) {
        if self.refused.is_empty() {
            self.complain(&why.to_string());
        }
        if self.refused_bytes + line.len() > IN_MEMORY {
            return self.complain("too many wait in memory");
        }
        self.refused_bytes += line.len();
        self.refused.push_back((id, line));
    }

    fn complain(&mut self, why: &str) {
        if let Some(left_out) = self.complaints.due() {
            error!(
                "live calls cannot be noted on disk: {why}; should this dispatcher be killed, they are accounted only if \
                 their relays tell them{left_out}"
            );
        }
    }
}

fn call_line(call: &LiveCall, now: Duration) -> Option<Vec<u8>> {
    let mut line = b"call ".to_vec();
    serde_json::to_writer(&mut line, &Note::new(call, now)?).ok()?;
    Some(line)
}

fn dialog_line(due: &Due, at: Duration) -> Option<Vec<u8>> {
    let mut line = format!("dialog {} ", due.id).into_bytes();
    serde_json::to_writer(&mut line, &DialogNote::new(due, at)).ok()?;
    Some(line)
}

/// What stands in a ledger that is opened.
#[derive(Default)]
struct Left {
    entries: HashMap<SessionId, (Position, Entry)>,
    /// Since 1970-01-01 UTC: until then a dispatcher lived.
    seen: Duration,
    unreadable: usize,
}

enum Entry {
    Call(Box<Note>),
    Dialog(DialogNote),
}

impl Left {
    fn read(&mut self, at: Position, text: &[u8]) {
        if self.take(at, text).is_none() {
            self.unreadable += 1;
        }
    }

    fn take(&mut self, at: Position, text: &[u8]) -> Option<()> {
        let (word, rest) = std::str::from_utf8(text).ok()?.split_once(' ')?;
        match word {
            "call" => {
                let note: Box<Note> = serde_json::from_str(rest).ok()?;
                self.seen = self.seen.max(Duration::from_micros(note.at));
                let id = note.session_id.parse().ok()?;
                self.entries.insert(id, (at, Entry::Call(note)));
            }
            "dialog" => {
                let (id, json) = rest.split_once(' ')?;
                let note = serde_json::from_str(json).ok()?;
                self.entries
                    .insert(id.parse().ok()?, (at, Entry::Dialog(note)));
            }
            "over" => {
                self.entries.remove(&rest.parse().ok()?);
            }
            "seen" => {
                // The last one counts, though the clock may have been set back before it.
                self.seen = Duration::from_micros(rest.parse().ok()?);
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests;
