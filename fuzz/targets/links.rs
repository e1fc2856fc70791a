//! The relay and its links under any order of what dispatchers and time do: links, workers, engines and spool as they are in
//! the daemon. Two dispatchers keep to the protocol, as old ones and as ours, and are models that count along; the third has
//! a certificate and says anything. After every step and at the end:
//!
//! - every command is answered once, on the connection that asked;
//! - sessions end by their time, by a `remove` that names them, and by nothing else; ports are bound for live ones alone;
//! - every session that has ended is told to its dispatcher, over lost links and restarts where that dispatcher confirms;
//!   no connection hears of it twice, and only who is told can confirm it;
//! - nothing is left once all is over and confirmed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use mediaproxy::proto::SessionId;
use mediaproxy::proto::link::FromRelay;
use mediaproxy::relay::rehearsal::Rehearsal;
use serde_json::Value;

use super::journal::directory;
use super::{Choices, store, visible};

const CALLS: [&str; 2] = ["one", "two"];
const TAGS: [&str; 2] = ["f1", "f2"];
/// The one that says anything.
const ROGUE: usize = 2;
const AGES: [u64; 4] = [1, 30, 61, 3600];
/// Beyond those that the kernel chooses itself.
const PORTS: (u16, u32) = (61_200, 61_212);
const PAIRS: usize = 6;

/// One letter a step, then its choices:
///
/// ```text
///  u dispatcher call tag kind   an update (the caller's, an answer, one without media)
///  r dispatcher call tag        a removal
///  l dispatcher                 a list of sessions          s dispatcher   a summary
///  e dispatcher call            an explanation              h dispatcher   it reads what there is for it
///  c dispatcher kind            it is connected (as an old one, as one that confirms nothing, as one of ours)
///  d dispatcher                 its link is lost            b dispatcher   the same while it is written to
///  o dispatcher                 it confirms all that it has heard of
///  t age                        time passes                 k              another relay starts after this one
///  x line...                    the third dispatcher says something
/// ```
pub fn run(data: &[u8]) {
    let mut play = Play::new();
    let mut choices = Choices::new(data);
    while let Some(step) = choices.byte() {
        play.step(step, &mut choices);
    }
    play.end();
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Old,
    /// Ours, without accounting.
    Plain,
    Confirming,
}

#[derive(Default)]
struct Dispatcher {
    sequence: u64,
    has_said_hello: bool,
    /// As the relay saw it last.
    confirms: bool,
    /// Commands that are to be answered on this connection, and whether they are removals.
    asked: BTreeMap<u64, bool>,
    /// Sessions that this connection has told as ended.
    told: BTreeSet<String>,
    unconfirmed: BTreeSet<String>,
}

/// A session that the relay has.
#[derive(Clone)]
struct Session {
    name: (String, String),
    is_answered: bool,
    /// Who may have it, as whoever had an update of it taken last.
    dispatchers: BTreeSet<usize>,
}

/// The recorded end of a call.
struct Ended {
    session: Session,
    /// By a removal.
    is_removed: bool,
    /// It is on disk until it is confirmed; none where that depends on which dispatcher has it.
    is_kept: Option<bool>,
    times: usize,
    /// A relay, or the connection that had to hear of it, was gone before it was told.
    may_be_lost: bool,
}

struct Play {
    relay: Option<Rehearsal>,
    directory: PathBuf,
    dispatchers: [Dispatcher; 3],
    live: BTreeMap<String, Session>,
    ended: BTreeMap<String, Ended>,
    numbers: u128,
}

fn address(dispatcher: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1 + dispatcher as u8], 25060))
}

impl Play {
    fn new() -> Play {
        let directory = directory();
        fs::create_dir(&directory).expect("a directory");
        let mut play = Play {
            relay: None,
            directory,
            dispatchers: Default::default(),
            live: BTreeMap::new(),
            ended: BTreeMap::new(),
            numbers: 0,
        };
        play.start();
        play
    }

    fn relay(&mut self) -> &mut Rehearsal {
        self.relay.as_mut().expect("it runs")
    }

    fn start(&mut self) {
        let addresses = [0, 1, 2].map(address);
        let relay = Rehearsal::new(&self.directory, PORTS, &addresses, store());
        self.relay = Some(relay.unwrap_or_else(|error| panic!("{error:?}")));
        for dispatcher in &mut self.dispatchers {
            dispatcher.confirms = false;
        }
        (0..3).for_each(|dispatcher| self.connect(dispatcher, Kind::Confirming));
    }

    fn step(&mut self, step: u8, choices: &mut Choices<'_>) {
        match step {
            b'u' => {
                let (dispatcher, name) = (choices.below(3), name(choices));
                let kind = choices.below(3);
                self.update(dispatcher, &name, kind);
            }
            b'r' => {
                let (dispatcher, name) = (choices.below(3), name(choices));
                self.remove(dispatcher, &name);
            }
            b'l' => self.ask(choices.below(3), "sessions", ""),
            b's' => self.ask(choices.below(3), "summary", ""),
            b'e' => {
                let dispatcher = choices.below(3);
                let header = format!("call_id: {}\r\n", choices.pick(&CALLS));
                self.ask(dispatcher, "explain", &header);
            }
            b'h' => self.read(choices.below(3)),
            b'c' => {
                let dispatcher = choices.below(3);
                let kind = *choices.pick(&[Kind::Old, Kind::Plain, Kind::Confirming]);
                self.lose(dispatcher);
                self.connect(dispatcher, kind);
            }
            b'd' => self.lose(choices.below(3)),
            b'b' => {
                let dispatcher = choices.below(3);
                self.relay().break_off(dispatcher);
                self.lose(dispatcher);
            }
            b'o' => self.confirm(choices.below(3)),
            b't' => {
                let age = Duration::from_secs(*choices.pick(&AGES));
                self.relay().pass(age);
                self.look(None);
            }
            b'k' => self.start_again(),
            b'x' => self.rogue(choices),
            _ => {}
        }
        let bound = self.relay().bound();
        assert!(bound <= PAIRS, "{bound} pairs");
        assert!(self.live.len() * 2 <= bound, "a call without ports");
    }

    fn connect(&mut self, dispatcher: usize, kind: Kind) {
        let said = self.relay().connect(dispatcher).expect("the disk is there");
        let it = &mut self.dispatchers[dispatcher];
        it.has_said_hello = false;
        it.asked.clear();
        it.told.clear();
        self.understand(dispatcher, &said);
        if kind != Kind::Old {
            let stored = kind == Kind::Confirming;
            let hello = format!("hello {{\"version\":\"1\",\"stored\":{stored}}}\r\n");
            self.dispatchers[dispatcher].has_said_hello = true;
            self.dispatchers[dispatcher].confirms = stored;
            self.say(dispatcher, &hello);
        }
    }

    fn say(&mut self, dispatcher: usize, text: &str) {
        self.relay().hear(dispatcher, text.as_bytes());
        if dispatcher != ROGUE {
            let is_up = self.relay().is_up(dispatcher);
            assert!(is_up, "closed by {text:?}");
        }
    }

    /// What it had not heard yet and is not kept, it will not hear: answers go to who asked.
    fn lose(&mut self, dispatcher: usize) {
        self.relay().lose(dispatcher);
        let it = &mut self.dispatchers[dispatcher];
        it.asked.clear();
        it.told.clear();
        for ended in self.ended.values_mut() {
            let is_its = ended.session.dispatchers.contains(&dispatcher);
            ended.may_be_lost |= ended.is_removed && is_its && ended.times == 0;
        }
    }

    fn ask(&mut self, dispatcher: usize, word: &str, headers: &str) {
        if !self.relay().is_up(dispatcher) {
            return;
        }
        let it = &mut self.dispatchers[dispatcher];
        it.sequence += 1;
        it.asked.insert(it.sequence, word == "remove");
        let text = format!("{word} {}\r\n{headers}\r\n", it.sequence);
        self.say(dispatcher, &text);
    }

    fn asks_of_a_call(&mut self, dispatcher: usize) -> bool {
        let is_up = self.relay().is_up(dispatcher);
        let it = &mut self.dispatchers[dispatcher];
        it.confirms &= it.has_said_hello || !is_up;
        is_up
    }

    fn update(&mut self, dispatcher: usize, (call, tag): &(String, String), kind: usize) {
        if !self.asks_of_a_call(dispatcher) {
            return;
        }
        self.numbers += 1;
        let mut headers = format!(
            "type: {}\r\ncall_id: {call}\r\ncseq: 1\r\nfrom_uri: a@b\r\nto_uri: c@d\r\nfrom_tag: {tag}\r\nuser_agent: x\r\n",
            if kind == 1 { "reply" } else { "request" }
        );
        if kind == 1 {
            headers += "to_tag: t\r\n";
        }
        if kind != 2 {
            headers += "media: audio:192.0.2.9:4000:sendrecv:ice=no\r\n";
        }
        if self.dispatchers[dispatcher].has_said_hello {
            headers += &format!("session_id: {}\r\n", SessionId::from_random(self.numbers));
        }
        self.ask(dispatcher, "update", &headers);
        for session in self.live.values_mut() {
            if session.name.0 == *call && session.name.1 == *tag {
                session.dispatchers.insert(dispatcher);
            }
        }
        self.look(Some((dispatcher, None)));
    }

    fn remove(&mut self, dispatcher: usize, name: &(String, String)) {
        if self.asks_of_a_call(dispatcher) {
            let (call, tag) = name;
            let headers = format!("call_id: {call}\r\nfrom_tag: {tag}\r\n");
            self.ask(dispatcher, "remove", &headers);
            self.look(Some((dispatcher, Some(name))));
        }
    }

    /// Which sessions the relay has now, where somebody has asked for a new one, or for one to go.
    fn look(&mut self, asker: Option<(usize, Option<&(String, String)>)>) {
        let listed = self.relay().sessions();
        let listed: Vec<Value> = serde_json::from_slice(&listed).expect("a list");
        let removed = asker.and_then(|(by, name)| Some((by, name?)));
        let mut before = std::mem::take(&mut self.live);
        for one in listed {
            let text = |key: &str| one[key].as_str().expect(key).to_owned();
            let id = text("session_id");
            let session = before.remove(&id).unwrap_or_else(|| {
                let (dispatcher, name) = asker.expect("nobody has asked for a session");
                assert!(name.is_none(), "a removal makes a session");
                Session {
                    name: (text("call_id"), text("from_tag")),
                    is_answered: false,
                    dispatchers: [dispatcher].into(),
                }
            });
            let is_answered = !one["start_time"].is_null();
            let session = Session {
                is_answered,
                ..session
            };
            self.live.insert(id, session);
        }
        for (id, mut session) in before {
            let remover = removed.filter(|(_, name)| **name == session.name);
            if let Some((by, _)) = remover {
                session.dispatchers = [by].into();
            } else {
                assert!(asker.is_none(), "{:?} of {asker:?}", session.name);
            }
            let confirming = |confirms: bool| {
                let mut all = session.dispatchers.iter();
                session.is_answered && all.all(|n| self.dispatchers[*n].confirms == confirms)
            };
            let is_kept = match session.is_answered {
                true if confirming(true) => Some(true),
                true if !confirming(false) => None,
                _ => Some(false),
            };
            let ended = Ended {
                session,
                is_removed: remover.is_some(),
                is_kept,
                times: 0,
                may_be_lost: false,
            };
            assert!(self.ended.insert(id, ended).is_none(), "it ends twice");
        }
    }

    fn read(&mut self, dispatcher: usize) {
        let read = self.relay().read(dispatcher);
        let is_up = self.relay().is_up(dispatcher);
        self.understand(dispatcher, &read);
        let it = &self.dispatchers[dispatcher];
        if is_up && dispatcher != ROGUE {
            assert!(it.asked.is_empty(), "not answered: {:?}", it.asked);
        }
    }

    fn understand(&mut self, dispatcher: usize, said: &[u8]) {
        assert!(said.is_empty() || said.ends_with(b"\r\n"), "half a line");
        let lines = String::from_utf8_lossy(said);
        for line in lines.split_terminator("\r\n") {
            visible(line);
            match FromRelay::parse(line.as_bytes()) {
                FromRelay::Expired(json) | FromRelay::Removed(json) => self.told(dispatcher, json),
                FromRelay::Reply(sequence, result) => {
                    let asked = self.dispatchers[dispatcher].asked.remove(&sequence.0);
                    assert!(asked.is_some() || dispatcher == ROGUE, "asked by nobody");
                    if asked == Some(true) && !result.starts_with(b"error") {
                        self.told(dispatcher, result);
                    }
                }
                FromRelay::Hello(_) | FromRelay::Ping | FromRelay::Leaving(_) => {}
                FromRelay::Unknown(_) => panic!("{line:?}"),
            }
        }
    }

    fn told(&mut self, dispatcher: usize, json: &[u8]) {
        let statistics: Value = serde_json::from_slice(json).expect("statistics");
        let id = statistics["session_id"]
            .as_str()
            .expect("its id")
            .to_owned();
        let ended = self.ended.get_mut(&id).expect("it has ended");
        let dispatchers = &ended.session.dispatchers;
        assert!(dispatchers.contains(&dispatcher), "another one's");
        ended.times += 1;
        let it = &mut self.dispatchers[dispatcher];
        assert!(it.told.insert(id.clone()), "told twice: {id}");
        it.unconfirmed.insert(id);
    }

    fn confirm(&mut self, dispatcher: usize) {
        if self.relay().is_up(dispatcher) {
            let unconfirmed = std::mem::take(&mut self.dispatchers[dispatcher].unconfirmed);
            let lines = unconfirmed.iter().map(|id| format!("stored {id}\r\n"));
            let text: String = lines.collect();
            self.say(dispatcher, &text);
        }
    }

    /// A relay that is killed: its calls are gone, and what was in memory.
    fn start_again(&mut self) {
        self.relay = None;
        self.live.clear();
        for ended in self.ended.values_mut() {
            ended.may_be_lost |= ended.times == 0 && ended.is_kept != Some(true);
        }
        self.start();
    }

    /// The third dispatcher speaks. What it does not name by call-id and tag stays.
    fn rogue(&mut self, choices: &mut Choices<'_>) {
        let known = self.live.keys().chain(self.ended.keys());
        let known: Vec<&String> = known.collect();
        let number = choices.below(8);
        let id = if known.is_empty() {
            String::new()
        } else {
            known[number % known.len()].clone()
        };
        let line = match choices.below(6) {
            0 => format!("stored {id}\r\n"),
            1 => format!("remove {number}\r\ncall_id: {id}\r\nfrom_tag: f1\r\n\r\n"),
            2 => format!("update {number}\r\ncall_id: one\r\n\r\n"),
            3 => format!("hello {{\"stored\":{}}}\r\n", number < 4),
            4 => "hello {\"refused\":\"x\"}\r\n".to_owned(),
            _ => {
                let bytes = choices.bytes;
                let end = bytes.iter().position(|b| *b == b'\n');
                let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
                choices.bytes = rest;
                // It ends whatever has been begun.
                let line = [line, b"\r\n\r\n"].concat();
                self.relay().hear(ROGUE, &line);
                return self.after_rogue();
            }
        };
        self.relay().hear(ROGUE, line.as_bytes());
        self.after_rogue();
    }

    fn after_rogue(&mut self) {
        let before: Vec<String> = self.live.keys().cloned().collect();
        self.look(None);
        assert!(self.live.keys().eq(&before), "another one's call");
        // It may have said that it confirms, or not: its own calls are its own affair.
        let rogues = self.live.values_mut();
        rogues.for_each(|session| {
            if session.dispatchers.contains(&ROGUE) {
                session.dispatchers.extend([0, 1, 2]);
            }
        });
    }

    /// Everybody is well again, all calls end and are confirmed.
    fn end(&mut self) {
        for dispatcher in 0..3 {
            self.lose(dispatcher);
            self.connect(dispatcher, Kind::Confirming);
        }
        self.relay().pass(Duration::from_secs(3600));
        self.look(None);
        assert!(self.live.is_empty());
        for _ in 0..2 {
            for dispatcher in 0..3 {
                self.read(dispatcher);
                self.confirm(dispatcher);
                self.lose(dispatcher);
                self.connect(dispatcher, Kind::Confirming);
            }
        }
        for (id, ended) in &self.ended {
            if !ended.session.dispatchers.contains(&ROGUE) {
                let is_told = ended.times > 0;
                let must = ended.is_kept == Some(true) || !ended.may_be_lost;
                assert!(is_told || !must, "{id} was told to nobody");
                let once = ended.is_kept == Some(false);
                assert!(ended.times <= 1 || !once, "{id} was told again");
            }
        }
        assert_eq!(self.relay().kept(), 0, "what is left");
        assert_eq!(self.relay().bound(), 0, "what is bound");
        self.relay = None;
        fs::remove_dir_all(&self.directory).expect("it goes");
    }
}

fn name(choices: &mut Choices<'_>) -> (String, String) {
    let call = *choices.pick(&CALLS);
    let tag = *choices.pick(&TAGS);
    (call.to_owned(), tag.to_owned())
}
