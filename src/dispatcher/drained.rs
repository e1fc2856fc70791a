//! Which relays the administrator has drained, on disk: a restart, such as an upgrade, gives none of them calls again.
//!
//! `drained` in `state_dir` has a relay a line: its address, and its name as a JSON string where it has one. It is
//! written anew with each change, under another name first, so that a crash leaves the old file or the new one. What
//! could not be written is tried again every now and then.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::relay_id::RelayKey;
use crate::journal::make_directory;
use crate::proto::Visible;
use crate::sys::files::{open_own, replace_own};
use crate::sys::sync::lock;

/// So many relays can be drained. More are no relays of today.
pub(super) const MAX_DRAINED: usize = 1000;

/// Bytes that are read: [`MAX_DRAINED`] lines with names as long as they get are half of it.
const LIMIT: u64 = 1 << 20;

/// Lines that cannot be read and are told one by one.
const TOLD: usize = 10;

const HEAD: &str =
    "# Relays that get no new calls: media-admin drain and media-admin resume write this.\n";

/// See the module.
#[derive(Debug)]
pub(super) struct Drained {
    path: PathBuf,
    /// What the file has, as far as it could be read.
    kept: Mutex<BTreeSet<RelayKey>>,
}

impl Drained {
    /// What an earlier dispatcher has left in this directory. Whatever cannot be read is a warning in the log.
    pub(super) fn open(state_dir: &Path) -> Drained {
        let path = state_dir.join("drained");
        let kept = match read(&path) {
            Ok(text) => parse(&text, &path.display().to_string(), |text| {
                log::warn!("{text}");
            }),
            Err(error) => {
                log::warn!(
                    "{}: cannot be read: {error}; relays that were drained before this start get new calls, until they are \
                     drained again",
                    path.display()
                );
                BTreeSet::new()
            }
        };
        if !kept.is_empty() {
            let relays: Vec<String> = kept.iter().map(RelayKey::to_string).collect();
            log::warn!(
                "drained before this start, no new calls until they are resumed: relay {}",
                relays.join(", relay ")
            );
        }
        Drained {
            path,
            kept: Mutex::new(kept),
        }
    }

    pub(super) fn relays(&self) -> BTreeSet<RelayKey> {
        lock(&self.kept).clone()
    }

    /// Has the file say what `now` tells, if it does not yet. `now` is asked when nobody else writes.
    ///
    /// # Errors
    /// A sentence with the path.
    pub(super) fn keep(&self, now: impl FnOnce() -> BTreeSet<RelayKey>) -> Result<(), String> {
        let mut kept = lock(&self.kept);
        let wanted = now();
        if wanted == *kept {
            return Ok(());
        }
        write(&self.path, &wanted)
            .map_err(|error| format!("{}: cannot be written: {error}", self.path.display()))?;
        *kept = wanted;
        Ok(())
    }
}

/// The bytes of the file; none where there is no file.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    match open_own(OpenOptions::new().read(true), path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => {
            found?.take(LIMIT).read_to_end(&mut text)?;
        }
    }
    Ok(text)
}

pub(super) fn parse(text: &[u8], path: &str, mut warn: impl FnMut(String)) -> BTreeSet<RelayKey> {
    let mut found = BTreeSet::new();
    let mut bad = 0;
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let number = index + 1;
        match relay(line) {
            Some(_) if found.len() >= MAX_DRAINED => {
                warn(format!(
                    "{path}:{number}: more than {MAX_DRAINED} relays: the others are not drained"
                ));
                break;
            }
            Some(key) => {
                found.insert(key);
            }
            None => {
                bad += 1;
                if bad <= TOLD {
                    let shown = line.get(..100).unwrap_or(line);
                    warn(format!(
                        "{path}:{number}: \"{}\": no relay is drained by this; allowed: IP, or IP \"NAME\"",
                        Visible(shown)
                    ));
                }
            }
        }
    }
    if bad > TOLD {
        warn(format!("{path}: {} more lines of that kind", bad - TOLD));
    }
    found
}

fn relay(line: &[u8]) -> Option<RelayKey> {
    let line = std::str::from_utf8(line).ok()?;
    let (address, name) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let address: IpAddr = address.parse().ok()?;
    let name: Option<String> = match name.trim() {
        "" => None,
        name => Some(serde_json::from_str(name).ok()?),
    };
    Some(RelayKey {
        address: address.to_canonical(),
        name: name.map(Arc::from),
    })
}

fn write(path: &Path, relays: &BTreeSet<RelayKey>) -> io::Result<()> {
    let mut text = HEAD.to_owned();
    for RelayKey { address, name } in relays {
        text.push_str(&match name {
            Some(name) => format!("{address} {}\n", serde_json::Value::from(&**name)),
            None => format!("{address}\n"),
        });
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    make_directory(directory)?;
    replace_own(path, text.as_bytes())?;
    // The name, too, is to survive a power cut.
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sys::scratch::Scratch;

    fn key(address: &str, name: Option<&str>) -> RelayKey {
        RelayKey {
            address: address.parse().unwrap(),
            name: name.map(Arc::from),
        }
    }

    fn parsed(text: &[u8]) -> (Vec<RelayKey>, Vec<String>) {
        let mut warnings = Vec::new();
        let found = parse(text, "/x/drained", |text| warnings.push(text));
        (found.into_iter().collect(), warnings)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let scratch = Scratch::new("drained");
        // The directory is made when it is needed.
        let directory = scratch.path().join("state");
        let relays = BTreeSet::from([
            key("192.0.2.1", None),
            key("192.0.2.1", Some("a:40000")),
            key("192.0.2.1", Some("odd \"name\"\n\u{1b}é#")),
            key("2001:db8::1", Some("b")),
        ]);
        let drained = Drained::open(&directory);
        assert!(drained.relays().is_empty() && !directory.exists());
        drained.keep(BTreeSet::new).unwrap();
        assert!(!directory.exists(), "nothing to keep");
        drained.keep(|| relays.clone()).unwrap();
        assert_eq!(Drained::open(&directory).relays(), relays);
        let text = fs::read_to_string(directory.join("drained")).unwrap();
        assert!(
            text.contains("\n192.0.2.1\n192.0.2.1 \"a:40000\"\n"),
            "{text}"
        );
        drained.keep(BTreeSet::new).unwrap();
        assert!(Drained::open(&directory).relays().is_empty());
        let left = fs::read_dir(&directory).unwrap().count();
        assert_eq!(left, 1, "no temporary file");
    }

    #[test]
    fn a_file_that_is_longer_than_any_is_read_in_part() {
        let scratch = Scratch::new("drained-long");
        let longest = "\u{1b}".repeat(128);
        let relays = (0..MAX_DRAINED)
            .map(|n| key("2001:db8::ffff:ffff:ffff:1", Some(&format!("{longest}{n}"))));
        let relays: BTreeSet<RelayKey> = relays.collect();
        let drained = Drained::open(scratch.path());
        drained.keep(|| relays.clone()).unwrap();
        let path = scratch.path().join("drained");
        assert!(fs::metadata(&path).unwrap().len() < LIMIT);
        assert_eq!(Drained::open(scratch.path()).relays(), relays);
        fs::write(&path, vec![b'x'; 3 << 20]).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1 << 20);
    }

    #[test]
    fn rubbish_is_told_with_its_line_and_the_rest_counts() {
        let text = b"# head\n\n192.0.2.1\r\n 192.0.2.2  \"a b\" \nrelay.example.com\n192.0.2.3 name\n192.0.2.4 \"a\" \"b\"\n\
            \xff\xfe\0\n::ffff:192.0.2.5\n192.0.2.1";
        let (found, warnings) = parsed(text);
        let want = [
            key("192.0.2.1", None),
            key("192.0.2.2", Some("a b")),
            key("192.0.2.5", None),
        ];
        assert_eq!(found, want);
        let lines = warnings.iter().map(|text| text.split(": ").next().unwrap());
        let lines: Vec<&str> = lines.collect();
        let want = [
            "/x/drained:5",
            "/x/drained:6",
            "/x/drained:7",
            "/x/drained:8",
        ];
        assert_eq!(lines, want, "{warnings:#?}");
        assert!(
            warnings[0].contains("\"relay.example.com\"") && warnings[0].ends_with("IP \"NAME\"")
        );
    }

    #[test]
    fn endless_rubbish_ends() {
        let (found, warnings) = parsed(&b"\x1b[2J\n".repeat(5000));
        assert_eq!((found.len(), warnings.len()), (0, TOLD + 1));
        assert!(warnings[TOLD].ends_with("4990 more lines of that kind"));
        let many = (0..2 * MAX_DRAINED).map(|n| format!("192.0.2.1 \"{n}\"\n"));
        let (found, warnings) = parsed(many.collect::<String>().as_bytes());
        assert_eq!((found.len(), warnings.len()), (MAX_DRAINED, 1));
        assert!(warnings[0].starts_with("/x/drained:1001: "), "{warnings:?}");
    }

    #[test]
    fn what_is_no_file_stops_nothing_and_what_cannot_be_written_is_said() {
        let scratch = Scratch::new("drained-none");
        let path = scratch.path().join("drained");
        fs::create_dir(&path).unwrap();
        let drained = Drained::open(scratch.path());
        assert!(drained.relays().is_empty());
        let one = || BTreeSet::from([key("192.0.2.1", None)]);
        let why = drained.keep(one).unwrap_err();
        assert!(
            why.starts_with(&format!("{}: cannot be written: ", path.display())),
            "{why}"
        );
        // It is tried again as soon as anybody asks.
        fs::remove_dir(&path).unwrap();
        drained.keep(one).unwrap();
        assert_eq!(Drained::open(scratch.path()).relays(), one());
    }
}
