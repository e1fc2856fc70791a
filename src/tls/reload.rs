//! The context in use, read again when its files change: they are looked at for each new connection, and every half
//! second for those that are up.
//!
//! Certificate and key change only as a matching pair, CAs and lists only together; what cannot be read leaves
//! the old in force and is logged once for each change of the files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::context::{Context, Paths};
use super::files::{LoadError, load_pair, load_trust};
use crate::moment::Moment;

/// What a look at the files led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reload {
    /// Nothing changed since the last look.
    Unchanged,
    /// All files were read.
    Reloaded,
    /// Something could not be read and stays as it was; the reasons, already logged.
    Kept(Vec<String>),
}

/// Shared by all threads of a daemon.
#[derive(Debug)]
pub struct Store {
    paths: Paths,
    state: Mutex<State>,
    /// Held while the files are looked at and read: of two threads that do, the later has the later files.
    looking: Mutex<()>,
}

#[derive(Debug)]
struct State {
    current: Arc<Context>,
    seen: Seen,
    /// How often the files have changed.
    changes: u64,
}

/// How often the files are to be looked at for the connections that are up.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Tells when the connections that are up are to be judged again.
#[derive(Debug)]
pub struct Watch {
    interval: Duration,
    due: Moment,
    /// The changes at the last look, and when connections were last judged.
    seen: u64,
    judged: u64,
}

impl Watch {
    /// In each interval once, and when the files have changed.
    pub fn new(interval: Duration, now: Moment) -> Watch {
        let due = now + interval;
        let (seen, judged) = (0, 0);
        Watch {
            interval,
            due,
            seen,
            judged,
        }
    }

    /// Reads what has changed, to be called every [`LOOK_INTERVAL`]. Returns the context to judge by when it is time to.
    /// Of files that are just being written the half that is there cuts nobody off: they count once they are the same in
    /// two looks.
    pub fn look(&mut self, store: &Store, now: Moment) -> Option<Arc<Context>> {
        store.reload_if_changed();
        let (context, changes) = {
            let state = store.lock();
            (state.current.clone(), state.changes)
        };
        let is_steady = std::mem::replace(&mut self.seen, changes) == changes;
        let is_due = now >= self.due || changes != self.judged;
        if !is_steady || !is_due {
            return None;
        }
        self.judged = changes;
        self.due = now + self.interval;
        Some(context)
    }
}

/// The state of the four files when they were last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    ca: Option<Stamp>,
    crl: Option<Stamp>,
    cert: Option<Stamp>,
    key: Option<Stamp>,
}

/// Device, inode, size, and the times of the last change of content and of inode, with nanoseconds.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

impl Store {
    /// Reads the files of `role` (`dispatcher` or `relay`) from a directory; logs warnings.
    ///
    /// # Errors
    /// Names the file, what is wrong with it and what to do.
    pub fn open(directory: &Path, role: &str) -> Result<Store, LoadError> {
        let paths = Paths::new(directory, role);
        // Looked at before they are read: what changes meanwhile is read again next time.
        let seen = Seen::look(&paths);
        let (context, warnings) = Context::load(directory, role)?;
        warnings.iter().for_each(|text| log::warn!("{text}"));
        log::info!("TLS: {}", context.describe());
        let current = Arc::new(context);
        Ok(Store {
            paths,
            state: Mutex::new(State {
                current,
                seen,
                changes: 0,
            }),
            looking: Mutex::new(()),
        })
    }

    /// What a new connection uses: the files as they are now.
    pub fn fresh(&self) -> Arc<Context> {
        self.reload_if_changed();
        self.current()
    }

    /// What was last read.
    pub fn current(&self) -> Arc<Context> {
        self.lock().current.clone()
    }

    /// Reads the files again if one of them changed.
    pub fn reload_if_changed(&self) -> Reload {
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = Seen::look(&self.paths);
        let (old, before) = {
            let mut state = self.lock();
            let before = std::mem::replace(&mut state.seen, seen);
            (state.current.clone(), before)
        };
        if seen == before {
            return Reload::Unchanged;
        }
        let mut warnings = Vec::new();
        let mut kept = Vec::new();
        let had_lists = old.trust.has_lists();
        let trust = match load_trust(&self.paths.ca, &self.paths.crl, had_lists, &mut warnings) {
            Ok(trust) => Arc::new(trust),
            Err(reason) => {
                kept.push(format!("{reason}; CAs and lists stay as they were"));
                old.trust.clone()
            }
        };
        let pair = match load_pair(&self.paths.cert, &self.paths.key, &mut warnings) {
            Ok(pair) => pair,
            Err(reason) => {
                kept.push(keep_pair(&reason));
                old.pair.clone()
            }
        };
        let context = Context::new(trust, pair);
        warnings.extend(context.own_certificate_warning(&self.paths));
        warnings.iter().for_each(|text| log::warn!("{text}"));
        kept.iter().for_each(|text| log::error!("{text}"));
        log::info!("TLS files changed: {}", context.describe());
        {
            let mut state = self.lock();
            state.current = Arc::new(context);
            state.changes += 1;
        }
        if kept.is_empty() {
            Reload::Reloaded
        } else {
            Reload::Kept(kept)
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn look(paths: &Paths) -> Seen {
        Seen {
            ca: stamp(&paths.ca),
            crl: stamp(&paths.crl),
            cert: stamp(&paths.cert),
            key: stamp(&paths.key),
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some((
        meta.dev(),
        meta.ino(),
        meta.len(),
        (meta.mtime(), meta.mtime_nsec()),
        (meta.ctime(), meta.ctime_nsec()),
    ))
}

fn keep_pair(reason: &LoadError) -> String {
    if reason.is_mismatch() {
        format!("{reason}; the old pair stays in use until both files are the new ones")
    } else {
        format!("{reason}; the old certificate and key stay in use")
    }
}
