//! Ends dialogs whose media has died, so that both phones get a BYE: JSON-RPC 2.0 over the SIP proxy's datagram
//! socket (docs/protocol.md section 7). OpenSIPS takes a dialog by its number, Kamailio by the two halves of
//! `h_entry:h_id`; the form of the dialog-id tells which proxy it comes from.
//!
//! One thread for each proxy that sends and waits by itself: while Kamailio handles the request, it asks this
//! daemon for `remove` and waits for the answer.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::iter;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, SendError, Sender, unbounded};
use serde_json::{Value, json};

use super::finished::DIALOG_AGE;
use super::ledger::{Due, Ledger};
use super::metrics::Dialogs;
use super::spawn;
use crate::logging::sparse::Sparse;
use crate::proto::{CallId, DialogId, Visible};
use crate::sys::clock;
use crate::sys::thread::run_tenaciously;

/// How long an answer may take; then the request is sent once more.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How often a request is sent.
const TRIES: u32 = 2;
/// Requests that wait for an answer at a time. The proxy handles one after the other, and loses an answer for which there is
/// no room in our socket: the kernel's default is 10 (net.unix.max_dgram_qlen).
const WINDOW: usize = 8;
/// Dialogs that wait to be asked for; those beyond are only logged.
const WAITING: usize = 10_000;
/// When a proxy that has not answered is asked again, and for how long: it may just be starting.
const LATER: Duration = Duration::from_secs(60);
const LAST: Duration = DIALOG_AGE;
/// How long to look for answers before what is new is sent.
const TURN: Duration = Duration::from_millis(50);
/// The longest answer that is read, bytes.
const LONGEST: usize = 64 * 1024;

/// Our own sockets in the runtime directory.
const OPENSIPS_SOCKET: &str = "opensips.sock";
const KAMAILIO_SOCKET: &str = "kamailio.sock";

/// The proxies that dialogs can be ended at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    OpenSips,
    Kamailio,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proxy::OpenSips => "OpenSIPS",
            Proxy::Kamailio => "Kamailio",
        })
    }
}

/// A dialog to be ended.
#[derive(Clone, Debug)]
struct Dialog {
    call_id: CallId,
    dialog_id: DialogId,
    told: Told,
    /// Since when it is to be ended.
    since: Duration,
    /// Held until it is known what became of it, or that this may take long.
    pending: Option<Arc<()>>,
}

/// Who hears what became of a dialog.
#[derive(Clone, Debug)]
pub enum Told {
    Nobody,
    /// Somebody who waits for it.
    Asker(Sender<Outcome>),
    /// Notes that the proxy has answered. As long as it has not, it is asked again, by the dispatcher after this one too.
    Ledger(Arc<Ledger>, Due),
}

/// What became of a dialog that was to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ended(Proxy),
    /// The proxy does not have it any more.
    Gone(Proxy),
    /// It goes on, and why.
    Failed(String),
}

impl Dialog {
    fn tell(&self, outcome: Outcome) {
        match &self.told {
            Told::Nobody => {}
            Told::Asker(told) => {
                // Who asked may have given up waiting.
                let _ = told.send(outcome);
            }
            Told::Ledger(ledger, due) => ledger.settled(due),
        }
    }
}

/// Where dialogs are handed over to be ended.
pub struct Enders {
    opensips: Queue,
    kamailio: Option<Queue>,
    counts: Arc<Dialogs>,
    pending: Arc<()>,
}

/// Dialogs that a proxy is to be asked for, and how to take back those that it was not yet.
type Queue = (Sender<Dialog>, Receiver<Dialog>);

impl Enders {
    /// Starts the threads. `opensips` and `kamailio` are the proxies' sockets; answers come to sockets of our own
    /// in the runtime directory.
    ///
    /// # Errors
    /// A socket of our own cannot be made, or a thread.
    pub fn start(
        opensips: &Path,
        kamailio: Option<&Path>,
        runtime_dir: &Path,
    ) -> Result<Enders, String> {
        let counts = Arc::new(Dialogs::default());
        let begin = |proxy: Proxy, path: &Path, own: &str| {
            let own = runtime_dir.join(own);
            let socket = bind(&own).map_err(|error| format!("{}: {error}", own.display()))?;
            // A bounded one would take the room for all at once.
            let (sender, dialogs) = unbounded();
            let mut ender = Ender::new(proxy, path.to_owned(), socket, Arc::clone(&counts));
            let left = dialogs.clone();
            spawn("dialogs", move || {
                run_tenaciously("dialogs", || ender.run(&dialogs));
            })
            .map_err(|e| e.to_string())?;
            Ok::<_, String>((sender, left))
        };
        Ok(Enders {
            opensips: begin(Proxy::OpenSips, opensips, OPENSIPS_SOCKET)?,
            kamailio: kamailio
                .map(|path| begin(Proxy::Kamailio, path, KAMAILIO_SOCKET))
                .transpose()?,
            counts,
            pending: Arc::default(),
        })
    }

    /// Waits until the proxies have answered for all dialogs, but not longer than this; names those in the log that
    /// they have not been asked for by then and that nobody will ask for.
    pub fn stop(&self, limit: Duration) {
        let end = clock::mono() + limit;
        while Arc::strong_count(&self.pending) > 1 && clock::mono() < end {
            std::thread::sleep(TURN / 5);
        }
        let queues = iter::once(&self.opensips).chain(&self.kamailio);
        for dialog in queues.flat_map(|(_, left)| left.try_iter()) {
            let Dialog {
                call_id, dialog_id, ..
            } = &dialog;
            match dialog.told {
                Told::Ledger(..) => log::info!(
                    "[session {call_id}] dialog {dialog_id} is not ended yet: the proxy is asked after the next start"
                ),
                _ => self.give_up(&dialog, "this dispatcher ends"),
            }
        }
    }

    fn give_up(&self, dialog: &Dialog, why: &str) {
        self.counts.unasked.add(1);
        let Dialog {
            call_id, dialog_id, ..
        } = dialog;
        log::error!("[session {call_id}] dialog {dialog_id} is not ended: {why}");
        dialog.tell(Outcome::Failed(why.to_owned()));
    }

    /// What became of dialogs so far.
    pub fn counts(&self) -> &Dialogs {
        &self.counts
    }

    /// Has a dialog ended, soon; never waits. `told` hears what became of it, 6 s later at most where it is that one's
    /// turn.
    pub fn end(&self, call_id: &CallId, dialog_id: &DialogId, told: Told) {
        let queue = match proxy_of(dialog_id) {
            Proxy::OpenSips => Some(&self.opensips),
            Proxy::Kamailio => self.kamailio.as_ref(),
        };
        let dialog = Dialog {
            call_id: call_id.clone(),
            dialog_id: dialog_id.clone(),
            told,
            since: clock::mono(),
            pending: Some(Arc::clone(&self.pending)),
        };
        let Some((sender, _)) = queue else {
            return self.give_up(&dialog, "[Kamailio] socket_path is not set");
        };
        let refused = match sender.len() < WAITING {
            true => sender.send(dialog).err().map(SendError::into_inner),
            false => Some(dialog),
        };
        if let Some(dialog) = refused {
            self.give_up(&dialog, "too many wait for it");
        }
    }
}

/// Removes the sockets' files at the daemon's end.
pub fn remove_sockets(runtime_dir: &Path) {
    for name in [OPENSIPS_SOCKET, KAMAILIO_SOCKET] {
        let path = runtime_dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!("{}: cannot be removed: {error}", path.display());
            }
            _ => {}
        }
    }
}

/// Kamailio's are `h_entry:h_id`, OpenSIPS' one number.
fn proxy_of(dialog_id: &DialogId) -> Proxy {
    match dialog_id.0.as_bytes().contains(&b':') {
        true => Proxy::Kamailio,
        false => Proxy::OpenSips,
    }
}

/// The answers' socket: the proxy, which runs as another user, has to write to it. That of a live dispatcher is left
/// alone: it would get no answer any more.
fn bind(path: &Path) -> io::Result<UnixDatagram> {
    if UnixDatagram::unbound()?.connect(path).is_ok() {
        let text = "another process listens there; stop it first or choose another --runtime-dir";
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    socket.set_read_timeout(Some(TURN))?;
    // A proxy that does not read holds up nobody but the dialogs that wait for it.
    socket.set_write_timeout(Some(ANSWER_LIMIT))?;
    Ok(socket)
}

/// The request for a dialog; none where its id has not the form that the proxy gives.
fn request(proxy: Proxy, number: u64, dialog_id: &DialogId) -> Option<String> {
    let text = std::str::from_utf8(dialog_id.0.as_bytes()).ok()?;
    let id = number.to_string();
    let (method, params) = match proxy {
        Proxy::OpenSips => ("dlg_end_dlg", json!([text])),
        Proxy::Kamailio => {
            let (entry, id) = text.split_once(':')?;
            let (entry, id): (u64, u64) = (entry.parse().ok()?, id.parse().ok()?);
            ("dlg.end_dlg", json!([entry, id]))
        }
    };
    Some(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string())
}

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Ended,
    /// The proxy does not have it any more.
    Gone,
    Refused(String),
}

/// The number that an answer belongs to, and what it says; none where it is not for us. OpenSIPS may answer an
/// error as plain text, `code message`, which belongs to no number.
fn understand(answer: &[u8]) -> (Option<u64>, Answer) {
    let Ok(value) = serde_json::from_slice::<Value>(answer) else {
        return (None, refusal(answer.trim_ascii()));
    };
    let number = match &value["id"] {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    };
    let Some(error) = value.get("error").filter(|error| !error.is_null()) else {
        return (number, Answer::Ended);
    };
    let answer = match error["code"].as_i64() {
        Some(404) => Answer::Gone,
        _ => Answer::Refused(error.to_string()),
    };
    (number, answer)
}

fn refusal(text: &[u8]) -> Answer {
    match text.starts_with(b"404") {
        true => Answer::Gone,
        false => Answer::Refused(Visible(text).to_string()),
    }
}

/// A request without its answer.
struct Open {
    dialog: Dialog,
    request: String,
    tries: u32,
    deadline: Duration,
}

/// One proxy's thread.
struct Ender {
    proxy: Proxy,
    path: PathBuf,
    socket: UnixDatagram,
    open: HashMap<u64, Open>,
    /// To be asked for again, and when.
    later: VecDeque<(Duration, Dialog)>,
    next: u64,
    odd: Sparse,
    counts: Arc<Dialogs>,
}

impl Ender {
    fn new(proxy: Proxy, path: PathBuf, socket: UnixDatagram, counts: Arc<Dialogs>) -> Self {
        Ender {
            proxy,
            path,
            socket,
            open: HashMap::new(),
            later: VecDeque::new(),
            next: 1,
            odd: Sparse::default(),
            counts,
        }
    }

    /// Until nobody can hand over a dialog any more.
    fn run(&mut self, dialogs: &Receiver<Dialog>) {
        let mut buffer = vec![0; LONGEST];
        loop {
            if self.open.is_empty() {
                match dialogs.recv_timeout(self.rest(clock::mono())) {
                    Ok(dialog) => self.ask(dialog),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            self.ask_again(clock::mono());
            while self.open.len() < WINDOW {
                match dialogs.try_recv() {
                    Ok(dialog) => self.ask(dialog),
                    Err(_) => break,
                }
            }
            if !self.open.is_empty() {
                if let Ok(length) = self.socket.recv(&mut buffer) {
                    self.answered(buffer.get(..length).unwrap_or_default());
                }
                self.look_for_silence(clock::mono());
            }
        }
    }

    /// How long there is nothing to ask for again.
    fn rest(&self, now: Duration) -> Duration {
        let next = self.later.front().map(|(at, _)| at.saturating_sub(now));
        next.unwrap_or(LATER)
    }

    fn ask_again(&mut self, now: Duration) {
        while self.open.len() < WINDOW && self.later.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, dialog)) = self.later.pop_front() {
                self.ask(dialog);
            }
        }
    }

    fn ask(&mut self, dialog: Dialog) {
        let number = self.next;
        let Some(request) = request(self.proxy, number, &dialog.dialog_id) else {
            self.counts.unasked.add(1);
            let why = format!("not a dialog-id of {}", self.proxy);
            let Dialog {
                call_id, dialog_id, ..
            } = &dialog;
            log::warn!("[session {call_id}] dialog {dialog_id} is not ended: {why}");
            return dialog.tell(Outcome::Failed(why));
        };
        self.next += 1;
        let open = Open {
            dialog,
            request,
            tries: 0,
            deadline: Duration::ZERO,
        };
        self.send(number, open);
    }

    /// Sends a request, for the first time or once more.
    fn send(&mut self, number: u64, mut open: Open) {
        open.tries += 1;
        open.deadline = clock::mono() + ANSWER_LIMIT;
        let sent = self.socket.send_to(open.request.as_bytes(), &self.path);
        if let Err(error) = sent {
            let Dialog {
                call_id, dialog_id, ..
            } = &open.dialog;
            log::warn!(
                "[session {call_id}] dialog {dialog_id}: {} at {} cannot be asked to end it: {error}",
                self.proxy,
                self.path.display()
            );
        }
        self.open.insert(number, open);
    }

    fn answered(&mut self, bytes: &[u8]) {
        let (number, answer) = understand(bytes);
        // A plain text is the answer to what was asked first.
        let number = number.or_else(|| self.open.keys().min().copied());
        let Some(open) = number.and_then(|number| self.open.remove(&number)) else {
            if let Some(skipped) = self.odd.due() {
                let shown = Visible(bytes.get(..200).unwrap_or(bytes));
                log::warn!("{}: an answer to nothing: {shown}{skipped}", self.proxy);
            }
            return;
        };
        let (proxy, dialog) = (self.proxy, open.dialog);
        let Dialog {
            call_id, dialog_id, ..
        } = &dialog;
        let counter = match &answer {
            Answer::Ended => &self.counts.ended,
            Answer::Gone => &self.counts.gone,
            Answer::Refused(_) => &self.counts.refused,
        };
        counter.add(1);
        match answer {
            Answer::Ended => {
                log::info!("[session {call_id}] dialog {dialog_id} ended by {proxy}");
                dialog.tell(Outcome::Ended(proxy));
            }
            Answer::Gone => {
                log::info!("[session {call_id}] dialog {dialog_id} is over already, says {proxy}");
                dialog.tell(Outcome::Gone(proxy));
            }
            Answer::Refused(why) => {
                log::warn!("[session {call_id}] dialog {dialog_id} is not ended by {proxy}: {why}");
                dialog.tell(Outcome::Failed(format!("{proxy} refuses: {why}")));
            }
        }
    }

    fn look_for_silence(&mut self, now: Duration) {
        let overdue = self.open.iter().filter(|(_, open)| open.deadline <= now);
        let overdue: Vec<u64> = overdue.map(|(number, _)| *number).collect();
        for number in overdue {
            let Some(open) = self.open.remove(&number) else {
                continue;
            };
            if open.tries < TRIES {
                self.send(number, open);
                continue;
            }
            self.unanswered(open.dialog, now);
        }
    }

    /// Who waits for it hears that at once; the others are asked for again.
    fn unanswered(&mut self, mut dialog: Dialog, now: Duration) {
        self.counts.unanswered.add(1);
        let why = format!("no answer from {} at {}", self.proxy, self.path.display());
        let Dialog {
            call_id, dialog_id, ..
        } = &dialog;
        let is_waited_for = matches!(dialog.told, Told::Asker(_));
        if is_waited_for || now >= dialog.since + LAST || self.later.len() >= WAITING {
            log::error!("[session {call_id}] dialog {dialog_id} is not ended: {why}");
            return dialog.tell(Outcome::Failed(why));
        }
        let seconds = LATER.as_secs();
        let level = match dialog.pending.take() {
            Some(_) => log::Level::Error,
            None => log::Level::Debug,
        };
        let Dialog {
            call_id, dialog_id, ..
        } = &dialog;
        log::log!(
            level,
            "[session {call_id}] dialog {dialog_id} is not ended yet: {why}; it is asked every {seconds} s"
        );
        self.later.push_back((now + LATER, dialog));
    }
}

#[cfg(test)]
#[path = "dialog_tests.rs"]
mod tests;
