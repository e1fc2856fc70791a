//! The management port and socket: `sessions`, `summary`, `version`, `quit` (docs/protocol.md section 6).
//!
//! One thread for each client. Relays are asked all at once; what they send goes to the client piece by
//! piece. A client holds no lock while it reads, and one that reads slowly is closed.

use std::collections::HashMap;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use serde::de::IgnoredAny;

use super::gate::{Gate, Pass};
use super::link::{Ask, Link, Shown};
use super::registry::{self, RelayKey};
use super::statistics::each;
use super::waiting::{Slot, lock};
use super::wire::write_plain;
use super::{Dispatcher, accept_all, spawn};
use crate::config::ManagementFormat;
use crate::logging::sparse::Sparse;
use crate::proto::Visible;
use crate::proto::line::Lines;
use crate::sys::clock;
use crate::tls::{self, HANDSHAKE_LIMIT, Reader, Writer};

/// Clients at once, on the port and on the socket each.
const MAX_CLIENTS: usize = 64;

/// Bytes in a command.
const MAX_LINE: usize = 1024;

/// How long a client may say nothing.
const IDLE_LIMIT: Duration = Duration::from_secs(300);

/// How long a client may take to read one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Bytes of an answer that are collected for one write.
const PIECE: usize = 32 * 1024;

type Connected = io::Result<(Reader, Writer, tls::Peer)>;

/// The accepting thread of the TCP port.
pub fn accept_tcp(dispatcher: &Arc<Dispatcher>, listener: &TcpListener) {
    let gate = Gate::new(MAX_CLIENTS, MAX_CLIENTS);
    let mut refused = Sparse::default();
    accept_all(
        "the management port",
        || listener.accept(),
        |(socket, address)| {
            let who = format!("management client {address}");
            let connect = move |dispatcher: &Dispatcher| connect_tcp(dispatcher, socket);
            admit(dispatcher, &gate, &mut refused, who, connect);
        },
    );
}

/// The accepting thread of the UNIX socket.
pub fn accept_unix(dispatcher: &Arc<Dispatcher>, listener: &UnixListener) {
    let accept = || listener.accept().map(|(socket, _)| socket);
    let gate = Gate::new(MAX_CLIENTS, MAX_CLIENTS);
    let mut refused = Sparse::default();
    accept_all("the management socket", accept, |socket: UnixStream| {
        let connect = move |_: &Dispatcher| tls::plain_unix(socket);
        let who = "local management client".to_owned();
        admit(dispatcher, &gate, &mut refused, who, connect);
    });
}

fn connect_tcp(dispatcher: &Dispatcher, socket: TcpStream) -> Connected {
    if !dispatcher.settings.management_use_tls {
        return tls::plain_tcp(socket);
    }
    let context = dispatcher.store.current();
    let passport = dispatcher.settings.management_passport.as_ref();
    tls::accept(socket, &context, passport, HANDSHAKE_LIMIT)
        .map_err(|error| io::Error::other(error.to_string()))
}

fn admit(
    dispatcher: &Arc<Dispatcher>,
    gate: &Arc<Gate>,
    refused: &mut Sparse,
    who: String,
    connect: impl FnOnce(&Dispatcher) -> Connected + Send + 'static,
) {
    let Some(pass) = gate.enter(None) else {
        if let Some(skipped) = refused.due() {
            log::warn!("{who}: closed, {MAX_CLIENTS} are connected{skipped}");
        }
        return;
    };
    let shared = Arc::clone(dispatcher);
    let name = who.clone();
    let run = move || serve(&shared, &who, pass, connect);
    if let Err(error) = spawn("management client", run) {
        log::error!("{name}: no thread for it: {error}");
    }
}

fn serve(
    dispatcher: &Dispatcher,
    who: &str,
    pass: Pass,
    connect: impl FnOnce(&Dispatcher) -> Connected,
) {
    let talked = connect(dispatcher).and_then(|(reader, writer, _)| {
        reader.set_timeout(Some(IDLE_LIMIT))?;
        let mut client = Client {
            dispatcher,
            writer,
            piece: Vec::new(),
            deadline: Duration::ZERO,
        };
        let talked = client.talk(reader);
        client.writer.finish();
        talked
    });
    match talked {
        Ok(()) => log::debug!("{who}: done"),
        Err(error) => log::info!("{who}: {error}"),
    }
    drop(pass);
}

struct Client<'a> {
    dispatcher: &'a Dispatcher,
    writer: Writer,
    piece: Vec<u8>,
    /// The answer must have been read by then.
    deadline: Duration,
}

impl Client<'_> {
    /// Serves until the client quits, closes or breaks a limit.
    fn talk(&mut self, mut reader: Reader) -> io::Result<()> {
        let mut lines = Lines::new(MAX_LINE);
        let mut buffer = [0; MAX_LINE];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(io::Error::other("closed, it says nothing"));
                }
                Err(error) => return Err(error),
            };
            lines.extend(buffer.get(..count).unwrap_or_default());
            loop {
                let line = match lines.next_line() {
                    Ok(Some(line)) => line.trim_ascii(),
                    Ok(None) => break,
                    Err(too_long) => {
                        self.say("error")?;
                        return Err(io::Error::other(too_long.to_string()));
                    }
                };
                // Relays may take relay_timeout to answer; that is not the client's time.
                self.deadline =
                    clock::mono() + self.dispatcher.settings.relay_timeout + ANSWER_LIMIT;
                match line {
                    b"quit" | b"exit" => return Ok(()),
                    b"sessions" => self.sessions()?,
                    b"summary" => self.summary()?,
                    b"version" => self.say(env!("CARGO_PKG_VERSION"))?,
                    other => {
                        log::debug!("management: unknown command \"{}\"", Visible(other));
                        self.say("error")?;
                    }
                }
            }
        }
    }

    /// One line, and the empty line where there is one.
    fn say(&mut self, line: &str) -> io::Result<()> {
        self.deadline = clock::mono() + ANSWER_LIMIT;
        self.put(line)?;
        self.put("\r\n")?;
        if self.dispatcher.settings.management_format == ManagementFormat::Lines {
            self.put("\r\n")?;
        }
        self.flush()
    }

    fn sessions(&mut self) -> io::Result<()> {
        // Answers may be megabytes each: so many clients at once have theirs collected, no more.
        let Some(_pass) = self.dispatcher.listings.enter(None) else {
            log::warn!("management: too many clients list sessions at once");
            return self.say("error");
        };
        let mut list = List::new(self);
        for (relay, answer) in list.client.dispatcher.ask_all("sessions") {
            let Some(sessions) = answer.take() else {
                log::warn!("management: relay {relay} has not listed its sessions");
                continue;
            };
            let mut failed = None;
            let read = each(&sessions, |session| {
                list.add(session.get()).map_err(|error| {
                    let text = error.to_string();
                    failed = Some(error);
                    text
                })
            });
            match (failed, read) {
                (Some(error), _) => return Err(error),
                (None, Err(error)) => {
                    log::warn!("management: relay {relay}: sessions that cannot be read: {error}");
                }
                (None, Ok(())) => {}
            }
        }
        list.end()
    }

    fn summary(&mut self) -> io::Result<()> {
        let mut list = List::new(self);
        for (relay, answer) in list.client.dispatcher.ask_all("summary") {
            let summary = answer.take().and_then(|bytes| object(&bytes));
            match summary {
                Some(summary) => list.add(&summary)?,
                None => list.add(&failed_summary(&relay))?,
            }
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
        if clock::mono() >= self.deadline {
            return Err(io::Error::other("closed, it reads too slowly"));
        }
        self.writer.write_all(&self.piece)?;
        self.piece.clear();
        Ok(())
    }
}

/// An answer of several objects, in the format that is configured.
struct List<'a, 'b> {
    client: &'a mut Client<'b>,
    format: ManagementFormat,
    is_empty: bool,
}

impl<'a, 'b> List<'a, 'b> {
    fn new(client: &'a mut Client<'b>) -> Self {
        let format = client.dispatcher.settings.management_format;
        List {
            client,
            format,
            is_empty: true,
        }
    }

    fn add(&mut self, object: &str) -> io::Result<()> {
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

    fn end(self) -> io::Result<()> {
        match (self.format, self.is_empty) {
            (ManagementFormat::Lines, _) => self.client.put("\r\n")?,
            (ManagementFormat::Array, true) => self.client.put("[]\r\n")?,
            (ManagementFormat::Array, false) => self.client.put("]\r\n")?,
        }
        self.client.flush()
    }
}

/// What a relay was asked for the management port.
struct Answer {
    /// None where it could not be asked.
    slot: Option<Arc<Shown>>,
    deadline: Duration,
}

impl Answer {
    /// Waits for it; none when the relay has failed.
    fn take(self) -> Option<Vec<u8>> {
        let answer = self.slot?.take_until(self.deadline)??;
        Some(answer).filter(|answer| answer != b"error")
    }
}

impl Dispatcher {
    /// Asks all connected relays at once, under one deadline.
    fn ask_all(&self, word: &str) -> Vec<(RelayKey, Answer)> {
        let relays = lock(&self.registry).connected();
        let now = clock::mono();
        let deadline = now + self.settings.relay_timeout;
        let ask = |connected: registry::Connected<Arc<Link>>| {
            let slot = Arc::new(Slot::new());
            let ask = Ask::Show(Arc::clone(&slot));
            let sent = connected.handle.send(now, ask, |out, sequence, _| {
                write_plain(out, word, sequence)
            });
            let slot = sent.is_ok().then_some(slot);
            (connected.relay, Answer { slot, deadline })
        };
        relays.into_iter().map(ask).collect()
    }
}

/// The text of a JSON object, where it is one.
fn object(bytes: &[u8]) -> Option<String> {
    serde_json::from_slice::<HashMap<String, IgnoredAny>>(bytes).ok()?;
    String::from_utf8(bytes.to_vec()).ok()
}

fn failed_summary(relay: &RelayKey) -> String {
    let mut summary = serde_json::json!({"status": "error", "ip": relay.address.to_string()});
    if let Some(name) = &relay.name {
        summary["name"] = serde_json::Value::from(&**name);
    }
    summary.to_string()
}
