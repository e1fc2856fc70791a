//! What a backend refused for good: one JSON object a line with the reason, for people to look at and to enter again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::value::RawValue;

use crate::sys::clock;
use crate::sys::files::open_own;

/// A larger file takes no more: then the backend waits, so that nothing is lost without anybody noticing.
const MAX_FILE: u64 = 256 << 20;

/// The file of one backend, made with the first record that is rejected.
#[derive(Debug)]
pub(super) struct Rejected {
    path: PathBuf,
    limit: u64,
}

#[derive(Serialize)]
struct Entry<'a> {
    /// UNIX seconds.
    time: u64,
    reason: &'a str,
    /// As it stood in the journal, where that is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

impl Rejected {
    pub(super) fn new(dir: &Path, backend: &str) -> Rejected {
        Rejected {
            path: dir.join(format!("rejected-{backend}.jsonl")),
            limit: MAX_FILE,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds records with their reasons; the disk has them when this returns.
    ///
    /// # Errors
    /// When they cannot be written, or the file has reached its limit.
    pub(super) fn add<'a>(
        &self,
        entries: impl Iterator<Item = (&'a [u8], &'a str)>,
    ) -> io::Result<()> {
        let mut lines = Vec::new();
        for (text, reason) in entries {
            let record: Option<&RawValue> = serde_json::from_slice(text).ok();
            let lossy = String::from_utf8_lossy(text);
            let entry = Entry {
                time: clock::now().unix.as_secs(),
                reason,
                record,
                text: record.is_none().then_some(&*lossy),
            };
            serde_json::to_writer(&mut lines, &entry)?;
            lines.push(b'\n');
        }
        self.append(&lines)
    }

    fn append(&self, lines: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o640);
        let mut file = open_own(&mut options, &self.path)?;
        let length = file.metadata()?.len();
        if length + lines.len() as u64 > self.limit {
            let limit = self.limit >> 20;
            return Err(io::Error::other(format!(
                "it has {limit} MiB of rejected records: look at them, then move it away"
            )));
        }
        let written = write_synced(&mut file, lines);
        if written.is_err() {
            // A part of a line would spoil those after it.
            file.set_len(length)?;
        }
        written
    }
}

fn write_synced(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn each_rejected_record_is_a_line_with_its_reason() {
        let scratch = Scratch::new("rejected");
        let rejected = Rejected::new(scratch.path(), "mysql");
        let entries: [(&[u8], &str); 2] = [
            (b"{\"call_id\":\"a\"}", "too \"long\""),
            (b"\xff{", "damaged"),
        ];
        rejected.add(entries.into_iter()).unwrap();
        rejected.add(entries.into_iter().take(1)).unwrap();
        let text = std::fs::read_to_string(scratch.path().join("rejected-mysql.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["record"]["call_id"], "a");
        assert_eq!(lines[0]["reason"], "too \"long\"");
        assert_eq!(lines[1]["text"], "\u{fffd}{");
    }

    #[test]
    fn a_full_file_takes_nothing_and_says_so() {
        let scratch = Scratch::new("rejected");
        let mut rejected = Rejected::new(scratch.path(), "file");
        rejected.limit = 10;
        let error = rejected.add([(&b"{}"[..], "no")].into_iter()).unwrap_err();
        assert!(error.to_string().contains("move it away"), "{error}");
    }
}
