//! How far each backend is in the journal, over restarts: a file for each, replaced as a whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use log::{error, info, warn};

use super::Backend;
use crate::journal::Position;
use crate::sys::files::{read_own, replace_own};
use crate::words::counted;

const SUFFIX: &str = ".position";

/// Bytes of such a file that are read: it has two numbers.
const MAX_FILE: u64 = 4096;

/// Records that a backend has not got yet, counted while the journal is opened.
pub struct Unread {
    backends: Vec<Unsettled>,
    left: Left,
}

/// Positions of backends that are not configured any more.
pub struct Left {
    backends: Vec<(PathBuf, Unsettled)>,
    /// One that is new goes on there.
    is_inherited: bool,
}

/// Where a backend goes on, and how many records are behind that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub position: Position,
    pub unread: u64,
}

struct Unsettled {
    /// None: begins at the end.
    position: Option<Position>,
    unread: u64,
}

impl Unread {
    /// Reads where each backend is. One that is new goes on where one that is no longer configured has stopped, so
    /// that what waits for a database that was given up goes to the one in its place; else with the next record.
    ///
    /// # Errors
    /// A sentence with the file that cannot be read.
    pub fn new(dir: &Path, backends: &[Box<dyn Backend>]) -> Result<Unread, String> {
        let left = left_behind(dir, backends).map_err(|e| format!("{}: {e}", dir.display()))?;
        let inherited = left.iter().filter_map(|(_, left)| left.position).min();
        let mut is_inherited = false;
        let mut start = |backend: &dyn Backend| {
            let path = path(dir, backend.name());
            let position = read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            if let (None, Some(_)) = (position, inherited) {
                is_inherited = true;
                info!(
                    "accounting: {} begins with what was left undelivered when others were configured",
                    backend.name()
                );
            }
            Ok(Unsettled {
                position: position.or(inherited),
                unread: 0,
            })
        };
        let backends: Result<Vec<Unsettled>, String> = backends
            .iter()
            .map(|backend| start(backend.as_ref()))
            .collect();
        Ok(Unread {
            backends: backends?,
            left: Left {
                backends: left,
                is_inherited,
            },
        })
    }

    /// A record begins here.
    pub fn count(&mut self, at: Position) {
        let left = self.left.backends.iter_mut().map(|(_, left)| left);
        for backend in self.backends.iter_mut().chain(left) {
            if backend.position.is_some_and(|position| at >= position) {
                backend.unread += 1;
            }
        }
    }

    /// All records are counted. What is left of backends that are gone is to be settled when those there are have
    /// their own files: until then the old ones are all that tells what waits.
    pub fn finish(self, start: Position, end: Position) -> (Vec<Start>, Left) {
        let settle = |backend: Unsettled| Start {
            position: backend.position.unwrap_or(end).clamp(start, end),
            unread: backend.unread,
        };
        let starts = self.backends.into_iter().map(settle).collect();
        (starts, self.left)
    }
}

impl Left {
    /// Forgets the positions that somebody has taken over, and those behind which nothing waits. The others stay, in
    /// case their backend is configured again.
    pub fn settle(self) {
        for (path, left) in self.backends {
            if !self.is_inherited && left.unread > 0 {
                warn!(
                    "accounting: {} queued for a backend that is not configured any more; should it be again, \
                     it gets those that the journal still has then. Remove {} to give them up",
                    counted(left.unread, "record"),
                    path.display()
                );
            } else if let Err(error) = fs::remove_file(&path) {
                warn!("{}: cannot be removed: {error}", path.display());
            }
        }
    }
}

fn left_behind(dir: &Path, backends: &[Box<dyn Backend>]) -> io::Result<Vec<(PathBuf, Unsettled)>> {
    let mut left = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(|name| name.strip_suffix(SUFFIX)) else {
            continue;
        };
        if backends.iter().all(|backend| backend.name() != name) {
            // One that cannot be read stays: nobody knows what waits behind it.
            match read(&path) {
                Ok(position) => left.push((
                    path,
                    Unsettled {
                        position,
                        unread: 0,
                    },
                )),
                Err(error) => warn!("accounting: {}: {error}", path.display()),
            }
        }
    }
    Ok(left)
}

/// The file of a backend.
pub fn path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}{SUFFIX}"))
}

fn read(path: &Path) -> io::Result<Option<Position>> {
    let Some(text) = read_own(path, MAX_FILE)? else {
        return Ok(None);
    };
    // One that cannot be read must neither lose what waits nor stop the dispatcher.
    let text = String::from_utf8_lossy(&text);
    Ok(Some(text.trim().parse().unwrap_or_else(|()| {
        error!(
            "accounting: {}: is no position, allowed: SEGMENT:OFFSET; all that the journal still has is delivered once \
             more, and what was delivered is known by its session_id (not to RADIUS)",
            path.display(),
        );
        Position::default()
    })))
}

/// Writes a position so that a crash leaves the old or the new one.
pub fn write(path: &Path, position: Position) -> io::Result<()> {
    replace_own(path, format!("{position}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::scratch::Scratch as Folder;

    /// Its start would wait for ever for who writes to a FIFO, and read an endless file until there is no memory.
    #[test]
    fn what_is_no_position_file_hangs_nothing_and_is_written_by_nobody() {
        let folder = Folder::new("position-kinds");
        let at = path(folder.path(), "file");
        let made = std::process::Command::new("mkfifo").arg(&at).status();
        assert!(made.unwrap().success());
        assert!(read(&at).unwrap_err().to_string().contains("a FIFO"));
        fs::remove_file(&at).unwrap();
        symlink("/dev/zero", &at).unwrap();
        assert!(read(&at).unwrap_err().to_string().contains("symbolic link"));
        fs::remove_file(&at).unwrap();
        fs::write(&at, vec![b'1'; 1 << 20]).unwrap();
        assert!(read(&at).unwrap_err().to_string().contains("larger than"));
        let precious = folder.path().join("precious");
        fs::write(&precious, "mine").unwrap();
        symlink(&precious, at.with_extension("new")).unwrap();
        write(&at, Position::default()).unwrap();
        assert_eq!(fs::read(&precious).unwrap(), b"mine");
        assert_eq!(read(&at).unwrap(), Some(Position::default()));
    }

    use crate::accounting::{DeliveryResult, Record, Unavailable};
    use crate::sys::scratch::Scratch;

    struct Named(&'static str);

    impl Backend for Named {
        fn name(&self) -> &str {
            self.0
        }

        fn deliver(
            &mut self,
            _: &[Record],
            _: &mut Vec<DeliveryResult>,
        ) -> Result<(), Unavailable> {
            Ok(())
        }
    }

    fn at(segment: u64, offset: u64) -> Position {
        Position { segment, offset }
    }

    fn starts(dir: &Path, names: &[&'static str], records: &[Position]) -> Vec<Start> {
        let named = |name: &&'static str| Box::new(Named(name)) as Box<dyn Backend>;
        let backends: Vec<_> = names.iter().map(named).collect();
        let mut unread = Unread::new(dir, &backends).unwrap();
        records.iter().for_each(|at| unread.count(*at));
        let (starts, left) = unread.finish(at(1, 0), at(2, 300));
        for (name, start) in names.iter().zip(&starts) {
            write(&path(dir, name), start.position).unwrap();
        }
        left.settle();
        starts
    }

    #[test]
    fn a_backend_goes_on_where_it_was_and_a_new_one_at_the_end() {
        let scratch = Scratch::new("position");
        write(&path(scratch.path(), "mysql"), at(1, 50)).unwrap();
        let records = [at(1, 0), at(1, 50), at(2, 0)];
        let [mysql, file] = starts(scratch.path(), &["mysql", "file"], &records)[..] else {
            panic!();
        };
        assert_eq!((mysql.position, mysql.unread), (at(1, 50), 2));
        assert_eq!((file.position, file.unread), (at(2, 300), 0));
    }

    #[test]
    fn what_waited_for_one_that_is_gone_goes_to_the_one_in_its_place() {
        let scratch = Scratch::new("position");
        write(&path(scratch.path(), "mysql"), at(1, 50)).unwrap();
        let start = starts(scratch.path(), &["postgres"], &[at(1, 0), at(1, 50)])[0];
        assert_eq!((start.position, start.unread), (at(1, 50), 1));
        assert!(!path(scratch.path(), "mysql").exists());
    }

    /// One of two is left out for a while; nobody else goes on for it.
    #[test]
    fn what_waits_for_one_that_is_left_out_waits_for_its_return() {
        let scratch = Scratch::new("position");
        let records = [at(1, 0), at(1, 50), at(2, 0)];
        write(&path(scratch.path(), "file"), at(2, 300)).unwrap();
        write(&path(scratch.path(), "mysql"), at(1, 50)).unwrap();
        starts(scratch.path(), &["file"], &records);
        let mysql = starts(scratch.path(), &["file", "mysql"], &records)[1];
        assert_eq!((mysql.position, mysql.unread), (at(1, 50), 2));
        // Nothing is behind it: it is not kept for ever.
        write(&path(scratch.path(), "mysql"), at(2, 300)).unwrap();
        starts(scratch.path(), &["file"], &records);
        assert!(!path(scratch.path(), "mysql").exists());
    }

    /// A start that fails half way has forgotten nothing.
    #[test]
    fn a_position_stays_until_another_file_has_it() {
        let scratch = Scratch::new("position");
        write(&path(scratch.path(), "mysql"), at(1, 50)).unwrap();
        let backends: Vec<Box<dyn Backend>> = vec![Box::new(Named("postgres"))];
        let unread = Unread::new(scratch.path(), &backends).unwrap();
        drop(unread.finish(at(1, 0), at(2, 300)));
        let start = starts(scratch.path(), &["postgres"], &[at(1, 50)])[0];
        assert_eq!((start.position, start.unread), (at(1, 50), 1));
    }

    #[test]
    fn a_position_that_the_journal_does_not_have_is_brought_into_it() {
        let scratch = Scratch::new("position");
        write(&path(scratch.path(), "file"), at(9, 9)).unwrap();
        assert_eq!(
            starts(scratch.path(), &["file"], &[])[0].position,
            at(2, 300)
        );
        fs::write(path(scratch.path(), "file"), b"nonsens\xe9").unwrap();
        let start = starts(scratch.path(), &["file"], &[at(1, 50), at(2, 0)])[0];
        assert_eq!((start.position, start.unread), (at(1, 0), 2), "all of it");
    }
}
