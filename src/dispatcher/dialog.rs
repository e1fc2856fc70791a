//! Ends dialogs whose media has died, so that both phones get a BYE, over the SIP proxy's datagram socket
//! (docs/protocol.md section 7). The form of the dialog-id tells which proxy it comes from; what is asked stands in
//! `question`.
//!
//! One thread for each proxy that sends and waits by itself: while Kamailio handles the request, it asks this
//! daemon for `remove` and waits for the answer.

mod answers;
pub(super) mod question;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, SendError, Sender, unbounded};

use self::answers::{Answers, Askers, Came, bind, listen};
use self::question::{Answer, Form, Next, Questions, To};
use super::counts::DialogCounts;
use super::ended_call::DIALOG_AGE;
use super::ledger::{Due, Ledger};
use super::settings::Group;
use super::threads::spawn;
use crate::config::ProxySocket;
use crate::logging::sparse::Sparse;
use crate::moment::Moment;
use crate::proto::{CallId, DialogId};
use crate::sys::clock;
use crate::sys::datagram::{first_there, is_there, receive, undisturbed};
use crate::sys::sync::lock;
use crate::sys::thread::run_tenaciously;

/// How long an answer may take; then the request is sent once more.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How often a request is sent.
const TRIES: u32 = 2;
/// Requests that wait for an answer at a time. The proxy handles one after the other, and loses an answer for which there is
/// no room in our socket: the kernel's default is 10 (net.unix.max_dgram_qlen).
const WINDOW: usize = 8;
/// DialogCounts that wait to be asked for; those beyond are only logged.
const MAX_WAITING: usize = 10_000;
/// When a proxy that has not answered is asked again, and for how long: it may just be starting.
const LATER: Duration = Duration::from_secs(60);
const LAST: Duration = DIALOG_AGE;
/// Between two looks at what nothing wakes for.
const TURN: Duration = Duration::from_millis(50);

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
#[derive(Clone)]
struct Dialog {
    call_id: CallId,
    dialog_id: DialogId,
    told: Told,
    /// Since when it is to be ended.
    since: Moment,
    /// Held until it is known what became of it, or that this may take long.
    pending: Option<Arc<()>>,
}

/// Who hears what became of a dialog.
#[derive(Clone)]
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
    kamailio: Queue,
    counts: Arc<DialogCounts>,
    pending: Arc<()>,
    askers: Askers,
}

/// DialogCounts that a proxy is to be asked for.
struct Queue {
    sender: Sender<Dialog>,
    /// To take back those that it was not asked for yet.
    left: Receiver<Dialog>,
    socket: ProxySocket,
    /// Its socket was there once, so it comes back.
    was_there: AtomicBool,
}

impl Queue {
    fn is_there(&self) -> bool {
        let is_there = self.socket.paths.iter().any(|path| is_there(path));
        self.was_there.fetch_or(is_there, Ordering::Relaxed) || is_there
    }
}

impl Enders {
    /// Starts the threads. Answers come to sockets of our own in the runtime directory, with the mode and group of the one
    /// where the proxy asks.
    ///
    /// # Errors
    /// A socket of our own cannot be made, or a thread.
    pub fn start(
        opensips: &ProxySocket,
        kamailio: &ProxySocket,
        runtime_dir: &Path,
        (mode, group): (u32, Option<Group>),
    ) -> Result<Enders, String> {
        let counts = Arc::new(DialogCounts::default());
        let askers = Askers::default();
        let begin = |proxy: Proxy, at: &ProxySocket, own: &str| {
            let own = runtime_dir.join(own);
            let socket =
                bind(&own, mode, group).map_err(|error| format!("{}: {error}", own.display()))?;
            // A bounded one would take the room for all at once.
            let (sender, dialogs) = unbounded();
            let answers = listen(proxy, &at.paths, &askers, &socket).map_err(|e| e.to_string())?;
            let mut ender = Ender::new(
                proxy,
                at.paths.clone(),
                socket,
                answers,
                Arc::clone(&counts),
            );
            let left = dialogs.clone();
            spawn("dialogs", move || {
                run_tenaciously("dialogs", || ender.run(&dialogs));
            })
            .map_err(|e| e.to_string())?;
            Ok::<_, String>(Queue {
                sender,
                left,
                socket: at.clone(),
                was_there: AtomicBool::new(false),
            })
        };
        Ok(Enders {
            opensips: begin(Proxy::OpenSips, opensips, OPENSIPS_SOCKET)?,
            kamailio: begin(Proxy::Kamailio, kamailio, KAMAILIO_SOCKET)?,
            counts,
            pending: Arc::default(),
            askers,
        })
    }

    /// A user asks for relays, as a SIP proxy does. What it answers counts without a number, too.
    pub fn is_asked_by(&self, user: u32) {
        lock(&self.askers).insert(user);
    }

    /// Tells the log which proxy dialogs are ended at, as it stands now.
    pub fn tell(&self) {
        let proxies = [
            (Proxy::Kamailio, &self.kamailio),
            (Proxy::OpenSips, &self.opensips),
        ];
        let there = proxies.iter().filter(|(_, queue)| queue.is_there());
        let there: Vec<String> = there
            .map(|(proxy, queue)| {
                format!("{proxy} at {}", first_there(&queue.socket.paths).display())
            })
            .collect();
        match &there[..] {
            [] => log::info!(
                "neither Kamailio listens at {} nor OpenSIPS at {}: until one does, dead calls get no BYE",
                self.kamailio.socket,
                self.opensips.socket
            ),
            there => log::info!("dialogs of dead calls are ended by {}", there.join(" and ")),
        }
    }

    /// Waits until the proxies have answered for all dialogs, but not longer than this; names those in the log that
    /// they have not been asked for by then and that nobody will ask for.
    pub fn stop(&self, limit: Duration) {
        let end = clock::moment() + limit;
        while Arc::strong_count(&self.pending) > 1 && clock::moment() < end {
            std::thread::sleep(TURN / 5);
        }
        let queues = [&self.opensips, &self.kamailio];
        for dialog in queues.into_iter().flat_map(|queue| queue.left.try_iter()) {
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
    pub fn counts(&self) -> &DialogCounts {
        &self.counts
    }

    /// Has a dialog ended, soon; never waits. `told` hears what became of it, 6 s later at most where it is that one's
    /// turn.
    pub fn end(&self, call_id: &CallId, dialog_id: &DialogId, told: Told) {
        let dialog = Dialog {
            call_id: call_id.clone(),
            dialog_id: dialog_id.clone(),
            told,
            since: clock::moment(),
            pending: Some(Arc::clone(&self.pending)),
        };
        let queue = match self.queue(dialog_id) {
            Ok(queue) => queue,
            Err(why) => return self.give_up(&dialog, &why),
        };
        let refused = if queue.sender.len() < MAX_WAITING {
            queue.sender.send(dialog).err().map(SendError::into_inner)
        } else {
            Some(dialog)
        };
        if let Some(dialog) = refused {
            self.give_up(&dialog, "too many wait for it");
        }
    }

    /// OpenSIPS' dialog-ids are one number, since 3.0.1; before, and with Kamailio, they are `h_entry:h_id`.
    fn queue(&self, dialog_id: &DialogId) -> Result<&Queue, String> {
        let is_one_number = !dialog_id.0.as_bytes().contains(&b':');
        if is_one_number {
            return Ok(&self.opensips);
        }
        if self.kamailio.socket.is_set || self.kamailio.is_there() {
            return Ok(&self.kamailio);
        }
        if self.opensips.is_there() {
            return Ok(&self.opensips);
        }
        Err(format!(
            "Kamailio has no socket at {}: load jsonrpcs.so there, or set [Kamailio] socket_path to its dgram_socket",
            self.kamailio.socket
        ))
    }
}

/// Removes the sockets' files at the daemon's end.
pub(super) fn remove_sockets(runtime_dir: &Path) {
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

/// A request without its answer.
struct Open {
    dialog: Dialog,
    questions: Questions,
    tries: u32,
    deadline: Moment,
}

/// One proxy's thread.
struct Ender {
    proxy: Proxy,
    /// Where it may listen.
    paths: Vec<PathBuf>,
    /// Where it was asked last.
    at: PathBuf,
    /// How OpenSIPS takes a dialog.
    learned: Option<Form>,
    socket: UnixDatagram,
    answers: Answers,
    open: HashMap<u128, Open>,
    /// To be asked for again, and when.
    later: VecDeque<(Moment, Dialog)>,
    next: u64,
    odd: Sparse,
    counts: Arc<DialogCounts>,
}

impl Drop for Ender {
    /// Ends the thread that reads the answers.
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Ender {
    fn new(
        proxy: Proxy,
        paths: Vec<PathBuf>,
        socket: UnixDatagram,
        answers: Answers,
        counts: Arc<DialogCounts>,
    ) -> Self {
        Ender {
            proxy,
            paths,
            at: PathBuf::new(),
            learned: None,
            socket,
            answers,
            open: HashMap::new(),
            later: VecDeque::new(),
            next: 1,
            odd: Sparse::default(),
            counts,
        }
    }

    /// Until nobody can hand over a dialog any more.
    fn run(&mut self, dialogs: &Receiver<Dialog>) {
        let never = crossbeam_channel::never();
        loop {
            let is_full = self.open.len() >= WINDOW;
            let next = if is_full { &never } else { dialogs };
            crossbeam_channel::select! {
                recv(next) -> dialog => match dialog {
                    Ok(dialog) => self.ask(dialog),
                    // What is open still gets its answers.
                    Err(_) if self.open.is_empty() => return,
                    Err(_) => self.wait(),
                },
                recv(self.answers.came) -> came => match came {
                    Ok(came) => self.answered(came),
                    Err(_) => self.wait(),
                },
                default(self.rest(clock::moment())) => {}
            }
            self.ask_again(clock::moment());
            self.look_for_silence(clock::moment());
        }
    }

    /// One of the channels has ended.
    fn wait(&mut self) {
        match self.answers.came.recv_timeout(TURN) {
            Ok(came) => self.answered(came),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(TURN),
        }
    }

    /// How long nothing is due: a request to be sent again, or an answer.
    fn rest(&self, now: Moment) -> Duration {
        let later = self.later.front().map(|(at, _)| *at);
        let later = later.filter(|_| self.open.len() < WINDOW);
        let deadlines = self.open.values().map(|open| open.deadline);
        let next = deadlines.chain(later).min();
        next.map_or(LATER, |at| at.since(now))
    }

    fn ask_again(&mut self, now: Moment) {
        while self.open.len() < WINDOW && self.later.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, dialog)) = self.later.pop_front() {
                self.ask(dialog);
            }
        }
    }

    fn ask(&mut self, dialog: Dialog) {
        let Dialog {
            call_id, dialog_id, ..
        } = &dialog;
        let Some(questions) = Questions::new(self.proxy, call_id, dialog_id, self.learned) else {
            self.counts.unasked.add(1);
            let why = format!("not a dialog-id of {}", self.proxy);
            log::warn!("[session {call_id}] dialog {dialog_id} is not ended: {why}");
            return dialog.tell(Outcome::Failed(why));
        };
        self.send_first(dialog, questions);
    }

    /// What is there before anything is asked answers nothing.
    fn empty(&self) {
        let mut buffer = [0; 1];
        // As many as the kernel ever lets wait: a stranger that sends on holds up nobody.
        for _ in 0..4096 {
            if receive(&self.socket, &mut buffer).is_err() {
                break;
            }
        }
        self.answers.emptied.fetch_add(1, Ordering::SeqCst);
    }

    /// Each question has a number of its own: an answer may come late.
    fn send_first(&mut self, dialog: Dialog, questions: Questions) {
        if self.open.is_empty() {
            self.empty();
        }
        // Nobody who does not read what the proxy is sent knows the secret half.
        let number = u128::from(self.next) << 64 | u128::from(self.answers.secret);
        self.next += 1;
        let open = Open {
            dialog,
            questions,
            tries: 0,
            deadline: Moment::START,
        };
        self.send(number, open);
    }

    /// Sends a request, for the first time or once more.
    fn send(&mut self, number: u128, mut open: Open) {
        open.tries += 1;
        open.deadline = clock::moment() + ANSWER_LIMIT;
        let path = first_there(&self.paths);
        if self.at != path {
            self.at = path.to_owned();
            log::info!(
                "{} is asked at {} to end dialogs",
                self.proxy,
                path.display()
            );
        }
        let request = open.questions.request(number);
        let sent = undisturbed(|| self.socket.send_to(request.as_bytes(), &self.at));
        if let Err(error) = sent {
            let Dialog {
                call_id, dialog_id, ..
            } = &open.dialog;
            log::warn!(
                "[session {call_id}] dialog {dialog_id}: {} at {} cannot be asked to end it: {error}",
                self.proxy,
                self.at.display()
            );
        }
        self.open.insert(number, open);
    }

    fn answered(&mut self, (to, answer, emptied): Came) {
        let is_late = emptied < self.answers.emptied.load(Ordering::SeqCst);
        let number = match to {
            To::Number(number) => Some(number),
            // It was there before anything was asked.
            To::First if is_late => None,
            To::First => self.open.keys().min().copied(),
            To::Nothing => None,
        };
        let Some(open) = number.and_then(|number| self.open.remove(&number)) else {
            if let Some(skipped) = self.odd.due() {
                log::warn!(
                    "{}: an answer to nothing: {answer:.200?}{skipped}",
                    self.proxy
                );
            }
            return;
        };
        self.go_on(open, answer);
    }

    fn go_on(&mut self, mut open: Open, answer: Answer) {
        let next = open.questions.answered(answer, self.learned);
        let (proxy, dialog) = (self.proxy, open.dialog);
        let Dialog {
            call_id, dialog_id, ..
        } = &dialog;
        match next {
            Next::Ask => self.send_first(dialog, open.questions),
            Next::Ended(form) => {
                self.counts.ended.add(1);
                // Noted before it is said: who reads the line may count on it, over a crash too.
                dialog.tell(Outcome::Ended(proxy));
                log::info!("[session {call_id}] dialog {dialog_id} ended by {proxy}");
                self.learn(form);
            }
            Next::Gone => {
                self.counts.gone.add(1);
                dialog.tell(Outcome::Gone(proxy));
                log::info!("[session {call_id}] dialog {dialog_id} is over already, says {proxy}");
            }
            Next::Refused(why) => {
                self.counts.refused.add(1);
                // It may be another version.
                self.learned = None;
                log::warn!("[session {call_id}] dialog {dialog_id} is not ended by {proxy}: {why}");
                dialog.tell(Outcome::Failed(format!("{proxy} refuses: {why}")));
            }
            Next::Unclear(why) => {
                self.counts.refused.add(1);
                log::warn!(
                    "[session {call_id}] dialog {dialog_id} is not ended: {why}; if opensips-cli -x mi dlg_list shows the \
                     call, end it there: opensips-cli -x mi dlg_end_dlg ID"
                );
                dialog.tell(Outcome::Failed(why));
            }
        }
    }

    /// Remembers how OpenSIPS takes a dialog.
    fn learn(&mut self, form: Option<Form>) {
        if form.is_some() && form != self.learned {
            if let Some(form) = form {
                log::info!("{} takes a dialog by {form}", self.proxy);
            }
            self.learned = form;
        }
    }

    fn look_for_silence(&mut self, now: Moment) {
        let overdue = self.open.iter().filter(|(_, open)| open.deadline <= now);
        let overdue: Vec<u128> = overdue.map(|(number, _)| *number).collect();
        for number in overdue {
            let Some(open) = self.open.remove(&number) else {
                continue;
            };
            match () {
                // It answers others.
                () if open.questions.may_fail() => self.go_on(open, Answer::silence()),
                () if open.tries < TRIES => self.send(number, open),
                () => self.unanswered(open.dialog, now),
            }
        }
    }

    /// Who waits for it hears that at once; the others are asked for again.
    fn unanswered(&mut self, mut dialog: Dialog, now: Moment) {
        self.counts.unanswered.add(1);
        let why = format!("no answer from {} at {}", self.proxy, self.at.display());
        let Dialog {
            call_id, dialog_id, ..
        } = &dialog;
        let is_waited_for = matches!(dialog.told, Told::Asker(_));
        if is_waited_for || now >= dialog.since + LAST || self.later.len() >= MAX_WAITING {
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
mod tests;
