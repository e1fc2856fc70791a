//! A client and what it is answered, in either format: lines and an empty one, or one JSON array on a line.

use std::fmt;
use std::io;
use std::time::Duration;

use super::ANSWER_LIMIT;
use crate::config::ManagementFormat;
use crate::dispatcher::shared::Dispatcher;
use crate::moment::Moment;
use crate::sys::clock;
use crate::tls::{PeerCertificates, Writer};

/// Bytes of an answer that are collected for one write.
const PIECE: usize = 32 * 1024;

/// Who a client is, as the log names it, and what it may do.
pub(super) struct Who {
    pub name: String,
    /// It may end calls and drain relays.
    pub may_change: bool,
    /// What it showed, to be judged again.
    pub certificates: Option<PeerCertificates>,
}

impl Who {
    /// One without TLS.
    pub(super) fn plain(name: String, may_change: bool) -> Who {
        let certificates = None;
        Who {
            name,
            may_change,
            certificates,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// One connection.
pub(super) struct Client<'a> {
    pub dispatcher: &'a Dispatcher,
    pub who: Who,
    pub writer: Writer,
    piece: Vec<u8>,
    /// The answer must have been read by then.
    deadline: Moment,
}

impl<'a> Client<'a> {
    pub(super) fn new(dispatcher: &'a Dispatcher, writer: Writer, who: Who) -> Self {
        Client {
            dispatcher,
            who,
            writer,
            piece: Vec::new(),
            deadline: Moment::START,
        }
    }

    /// The next answer may take so long.
    pub(super) fn allow(&mut self, limit: Duration) {
        self.deadline = clock::moment() + limit;
    }

    /// One line, and the empty line where there is one.
    pub(super) fn say(&mut self, line: &str) -> io::Result<()> {
        self.allow(ANSWER_LIMIT);
        self.put(line)?;
        self.put("\r\n")?;
        if self.dispatcher.settings.management_format == ManagementFormat::Lines {
            self.put("\r\n")?;
        }
        self.flush()
    }

    /// A line that begins as `error` does for who looks for no more.
    pub(super) fn fail(&mut self, why: &str) -> io::Result<()> {
        self.say(&format!("error: {why}"))
    }

    /// Lines for people.
    pub(super) fn lines(
        &mut self,
        lines: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> io::Result<()> {
        // What had to be waited for is not the client's time.
        self.allow(ANSWER_LIMIT);
        let mut list = List::new(self);
        for line in lines {
            list.add_text(line.as_ref())?;
        }
        list.end()
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        self.piece.extend_from_slice(text.as_bytes());
        if self.piece.len() < PIECE {
            return Ok(());
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if clock::moment() >= self.deadline {
            return Err(io::Error::other(
                "closed: it has not read its answer in time",
            ));
        }
        self.writer.write_all(&self.piece)?;
        self.piece.clear();
        Ok(())
    }
}

/// An answer of several objects or lines, in the format that is configured.
pub(super) struct List<'a, 'b> {
    pub client: &'a mut Client<'b>,
    format: ManagementFormat,
    is_empty: bool,
}

impl<'a, 'b> List<'a, 'b> {
    pub(super) fn new(client: &'a mut Client<'b>) -> Self {
        let format = client.dispatcher.settings.management_format;
        List {
            client,
            format,
            is_empty: true,
        }
    }

    /// A JSON value on one line.
    pub(super) fn add(&mut self, object: &str) -> io::Result<()> {
        match (self.format, std::mem::take(&mut self.is_empty)) {
            (ManagementFormat::Lines, _) => {
                self.client.put(object)?;
                self.client.put("\r\n")
            }
            (ManagementFormat::Array, first) => {
                self.client.put(if first { "[" } else { ", " })?;
                self.client.put(object)
            }
        }
    }

    /// A line for people: a string where the answer is an array.
    pub(super) fn add_text(&mut self, line: &str) -> io::Result<()> {
        match self.format {
            ManagementFormat::Lines => self.add(line),
            ManagementFormat::Array => self.add(&serde_json::Value::from(line).to_string()),
        }
    }

    pub(super) fn end(self) -> io::Result<()> {
        match (self.format, self.is_empty) {
            (ManagementFormat::Lines, _) => self.client.put("\r\n")?,
            (ManagementFormat::Array, true) => self.client.put("[]\r\n")?,
            (ManagementFormat::Array, false) => self.client.put("]\r\n")?,
        }
        self.client.flush()
    }
}
