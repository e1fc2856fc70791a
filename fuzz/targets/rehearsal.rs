//! The dispatcher as a whole under any order of what the proxy, its relays and time do: conversation, registry and
//! finisher as they are in the daemon. Two relays keep to the protocol and are models that count along; the third has a
//! certificate and says anything. After every step and at the end:
//!
//! - what the third relay says ends, moves and accounts no call of the other two, and ends no dialog but of a call that it
//!   was given (R1 to R3);
//! - every answered call of theirs is recorded once, whatever was lost, restarted, refused or told again;
//! - the dispatcher has no more calls than the proxy has asked for, knows no more sessions from lists than one relay can
//!   have, no queue is without bound, and nothing is left once all calls are over.

use mediaproxy::moment::{Moment, UnixTime};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mediaproxy::dispatcher::ended_call::EndedCall;
use mediaproxy::dispatcher::finisher::Finisher;
use mediaproxy::dispatcher::rehearsal::{Asked, Outcome, Rehearsal, Where, rehearse};
use mediaproxy::moment::Now;
use mediaproxy::proto::CallId;
use mediaproxy::proto::control::{Frame, LINK_LIMITS, PROXY_LIMITS, Remove, Requests};
use mediaproxy::proto::link::{ALONE, FromDispatcher};

use super::{Choices, store};

const CALLS: [&str; 3] = ["one", "two", "three"];
/// The one that says anything.
const ROGUE: usize = 2;
/// So much may wait for one relay: what is in the queue, and one more request or list of confirmations.
const LONGEST_QUEUE: usize = (1 << 20) + (64 << 10);
const NOW: Now = Now {
    mono: Moment::after_start(Duration::ZERO),
    unix: UnixTime::since_epoch(Duration::from_secs(1_000_000)),
};
/// Sessions of which three relays may have told in lists.
const FOUND: usize = 3 * 32_768;
const AGES: [u64; 4] = [1, 6, 100, 8000];

/// One letter a step, then its choices:
///
/// ```text
///  u call answers     the proxy's update           g call     it waits no longer
///  r call             the proxy's remove           o call     another relay is asked, too
///  a relay reply      a relay answers the oldest command (as it should, `error`, `halting`)
///  e relay call       a relay ends a call          w relay    and tells again what is not recorded
///  c relay            a relay connects             l relay    its link is lost
///  k relay            it is killed and comes back without calls
///  p relay            a ping                       t age      time passes
///  f count            so many records are refused
///  x line...          the third relay says something
/// ```
pub fn run(data: &[u8]) {
    let books = Arc::new(Books::default());
    rehearse(store(), Arc::clone(&books) as Arc<dyn Finisher>, |stage| {
        let mut play = Play::new(stage, &books);
        let mut choices = Choices::new(data);
        while let Some(step) = choices.byte() {
            play.step(step, &mut choices);
            play.check();
        }
        play.end();
    });
}

/// Which session a relay tells of.
fn told(one: &EndedCall) -> (String, String) {
    let tag = one.name.caller.as_ref().map(|tag| tag.0.to_string());
    (one.name.call_id.to_string(), tag.unwrap_or_default())
}

/// Records as accounting does: what it has, it takes no second time.
#[derive(Default)]
struct Books(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    /// By session, how often it was written.
    records: BTreeMap<String, usize>,
    /// Told by relays that keep them, and refused.
    refused: BTreeSet<String>,
    /// So many of what relays keep are to be refused.
    refusals: usize,
    /// The address of the relay that is speaking and has no say over others.
    rogue: Option<std::net::IpAddr>,
    /// Calls that others have while it speaks, and the dialogs of all calls.
    others: BTreeSet<(String, String)>,
    dialogs: BTreeSet<String>,
}

impl Finisher for Books {
    fn finish(&self, ended: Vec<EndedCall>) -> Vec<bool> {
        let mut pages = self.0.lock().unwrap();
        let mut results = Vec::new();
        for one in ended {
            let _ = one.to_string();
            if let Some(rogue) = pages.rogue {
                assert_eq!(one.relay_ip, rogue, "another relay's call: {one}");
                assert!(
                    one.known.is_some() || !pages.others.contains(&told(&one)),
                    "accounted for another relay's call: {one}"
                );
                let dialog = one.dialog_id.as_ref().filter(|_| one.end_dialog);
                assert!(
                    dialog.is_none_or(
                        |id| one.known.is_some() || !pages.dialogs.contains(&id.to_string())
                    ),
                    "another call's dialog: {one}"
                );
            }
            let Some(record) = one.record(NOW, 7) else {
                results.push(true);
                continue;
            };
            let record: serde_json::Value = serde_json::from_str(&record.text).expect("a record");
            let id = record["session_id"].as_str().expect("its id").to_owned();
            if pages.records.contains_key(&id) {
                results.push(true);
            } else if one.is_kept && pages.refusals > 0 {
                pages.refusals -= 1;
                pages.refused.insert(id);
                results.push(false);
            } else {
                pages.refused.remove(&id);
                *pages.records.entry(id).or_default() += 1;
                results.push(true);
            }
        }
        results
    }

    fn records(&self) -> bool {
        true
    }

    fn has(&self, session_id: &str) -> bool {
        self.0.lock().unwrap().records.contains_key(session_id)
    }

    fn is_refused(&self, session_id: &str) -> bool {
        self.0.lock().unwrap().refused.contains(session_id)
    }
}

/// A session on a relay that keeps to the protocol.
#[derive(Clone)]
struct Session {
    call: String,
    id: String,
    from_tag: String,
    to_tag: Option<String>,
    is_answered: bool,
}

impl Session {
    fn json(&self) -> String {
        let start = if self.is_answered { "1.5" } else { "null" };
        let to_tag = match &self.to_tag {
            Some(tag) => format!("\"{tag}\""),
            None => "null".to_owned(),
        };
        format!(
            "{{\"call_id\":\"{}\",\"session_id\":\"{}\",\"from_tag\":\"{}\",\"to_tag\":{to_tag},\"start_time\":{start},\
             \"duration\":3,\"dialog_id\":null,\"streams\":[]}}",
            self.call, self.id, self.from_tag
        )
    }
}

#[derive(Default)]
struct Relay {
    line: Option<usize>,
    /// Its process, of which a relay that is killed has another.
    process: usize,
    sessions: Vec<Session>,
    /// Over, not known to be recorded; with the word that tells it.
    spool: Vec<(&'static str, Session)>,
    /// Commands that came and were not answered.
    commands: Vec<String>,
}

/// What the proxy does with one call.
#[derive(Default)]
struct Call {
    /// The tag that opened it; none where there is no such call.
    from_tag: Option<String>,
    under_way: Option<(Asked, String)>,
}

struct Play<'s, 'a> {
    stage: &'s mut Rehearsal<'a>,
    books: &'s Books,
    relays: [Relay; 3],
    calls: BTreeMap<&'static str, Call>,
    numbers: u128,
    /// Sessions that were answered on a relay that keeps to the protocol.
    owed: BTreeSet<String>,
    updates: usize,
}

fn address(relay: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1 + relay as u8], 5000))
}

fn with_frame<R>(text: &str, act: impl FnOnce(&Frame) -> R) -> R {
    let mut requests = Requests::new(PROXY_LIMITS, &[]);
    requests.extend(text.as_bytes());
    match requests.next_request() {
        Ok(Some(Ok(frame))) => act(frame),
        other => panic!("{text:?}: {other:?}"),
    }
}

impl<'s, 'a> Play<'s, 'a> {
    fn new(stage: &'s mut Rehearsal<'a>, books: &'s Books) -> Self {
        let calls = CALLS.map(|name| (name, Call::default()));
        let mut play = Play {
            stage,
            books,
            relays: Default::default(),
            calls: calls.into_iter().collect(),
            numbers: 0,
            owed: BTreeSet::new(),
            updates: 0,
        };
        (0..3).for_each(|relay| play.connect(relay));
        (0..3).for_each(|relay| play.answer(relay, 0));
        play
    }

    fn step(&mut self, step: u8, choices: &mut Choices<'_>) {
        match step {
            b'u' => {
                let call = *choices.pick(&CALLS);
                let answers = choices.yes();
                self.update(call, answers);
            }
            b'g' => self.give_up(choices.pick::<&'static str>(&CALLS)),
            b'o' => self.try_another(choices.pick::<&'static str>(&CALLS)),
            b'r' => self.remove(choices.pick::<&'static str>(&CALLS)),
            b'a' => {
                let relay = choices.below(3);
                let reply = choices.below(3);
                self.answer(relay, reply);
            }
            b'e' => {
                let relay = choices.below(2);
                let index = choices.below(3);
                self.expire(relay, index);
            }
            b'w' => self.tell_again(choices.below(2)),
            b'c' => self.connect(choices.below(3)),
            b'l' => self.lose(choices.below(3)),
            b'k' => self.kill(choices.below(2)),
            b'p' => {
                let relay = choices.below(3);
                self.say(relay, "ping\r\n");
            }
            b't' => {
                let age = Duration::from_secs(*choices.pick(&AGES));
                self.stage.pass(age);
            }
            b'f' => self.books.0.lock().unwrap().refusals = choices.below(4),
            b'x' => {
                let line = self.rogue_line(choices);
                self.rogue(&line);
            }
            _ => {}
        }
        self.read_all();
        self.look();
    }

    fn number(&mut self) -> u128 {
        self.numbers += 1;
        self.numbers
    }

    fn say(&mut self, relay: usize, text: &str) {
        if relay == ROGUE {
            self.rogue(text.as_bytes());
        } else if let Some(line) = self.relays[relay].line {
            self.stage.hear(line, text.as_bytes());
        }
    }

    /// The third relay speaks: the calls of the others stay where they are.
    fn rogue(&mut self, text: &[u8]) {
        let Some(line) = self.relays[ROGUE].line else {
            return;
        };
        let before = self.places();
        let lines = [self.relays[0].line, self.relays[1].line];
        let is_others = |place: &Where| match place {
            Where::On(line) => lines.contains(&Some(*line)),
            Where::Away(relay) => relay.contains("honest"),
            Where::Unknown | Where::Expired => false,
        };
        let others = before.iter().filter(|(_, place)| is_others(place));
        let others = others.filter_map(|(call, _)| {
            let name = call.to_string();
            let tag = self.calls.get(name.as_str())?.from_tag.clone()?;
            Some((name, tag))
        });
        let others: BTreeSet<_> = others.collect();
        let dialogs = self.stage.dialogs();
        {
            let mut pages = self.books.0.lock().unwrap();
            pages.rogue = Some(address(ROGUE).ip());
            (pages.others, pages.dialogs) = (others, dialogs.clone());
        }
        self.stage.hear(line, text);
        if self.relays[ROGUE]
            .line
            .is_some_and(|line| !self.stage.is_up(line))
        {
            self.relays[ROGUE].line = None;
        }
        assert!(self.stage.found() <= FOUND, "{} found", self.stage.found());
        self.books.0.lock().unwrap().rogue = None;
        for (call, place) in before {
            if is_others(&place) {
                assert_eq!(self.stage.place(&call), place, "{call:?} of another relay");
            }
        }
    }

    fn places(&self) -> Vec<(CallId, Where)> {
        let ids = CALLS.map(|name| CallId(name.into()));
        let mut places = Vec::new();
        for id in ids {
            let place = self.stage.place(&id);
            places.push((id, place));
        }
        places
    }

    fn rogue_line(&self, choices: &mut Choices<'_>) -> Vec<u8> {
        let call = *choices.pick(&CALLS);
        let tag = self.calls[call].from_tag.clone().unwrap_or_default();
        let sequence = choices.below(8);
        let stolen = "00000000-0000-4000-8000-00000000000";
        let json = format!(
            "{{\"call_id\":\"{call}\",\"from_tag\":\"{tag}\",\"to_tag\":\"t\",\"start_time\":2,\"duration\":1,\"streams\":[],\
             \"dialog_id\":\"{call}:1\",\"session_id\":\"{stolen}{sequence}\"}}"
        );
        match choices.below(13) {
            0 => format!("expired {json}\r\n"),
            1 => format!("removed {json}\r\n"),
            2 => format!("{sequence} {json}\r\n"),
            3 => format!("{sequence} [{json}]\r\n"),
            4 => format!("{sequence} []\r\n"),
            5 => format!("{sequence} error\r\n"),
            6 => format!("{sequence} halting\r\n"),
            7 => format!("{sequence} 192.0.2.3 4000\r\n"),
            8 => {
                let name = ["", "rogue", "honest0", "honest1"][choices.below(4)];
                let hello = format!("{{\"name\":\"{name}\",\"version\":\"1\",\"stored\":true}}");
                format!("hello {hello}\r\n")
            }
            // Invented, with another call's dialog.
            10 => format!("expired {json}\r\n")
                .replace(&format!("\"{call}\""), &format!("\"x{sequence}\"")),
            11 => {
                let invented: Vec<String> = (0..300 << sequence)
                    .map(|n| format!("{{\"call_id\":\"x{n}\"}}"))
                    .collect();
                format!("{sequence} [{}]\r\n", invented.join(","))
            }
            12 => format!(
                "expired {{\"call_id\":\"{}\"}}\r\n",
                "x".repeat(8000 + 100 * sequence)
            ),
            _ => {
                let bytes = choices.bytes;
                let end = bytes.iter().position(|b| *b == b'\n');
                let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
                choices.bytes = rest;
                return [line, b"\r\n"].concat();
            }
        }
        .into_bytes()
    }

    fn connect(&mut self, relay: usize) {
        if relay == ROGUE {
            self.lose(ROGUE);
        }
        let Some(line) = self.stage.connect(address(relay)) else {
            return;
        };
        self.relays[relay].line = Some(line);
        self.relays[relay].commands.clear();
        let process = self.relays[relay].process;
        let name = match relay {
            ROGUE => "rogue".to_owned(),
            honest => format!("honest{honest}"),
        };
        let hello = format!(
            "hello {{\"name\":\"{name}\",\"version\":\"1\",\"stored\":true,\"commands\":[\"explain\"],\"instance\":\
             \"{process}-1\"}}\r\n"
        );
        self.say(relay, &hello);
        if relay != ROGUE {
            self.tell_again(relay);
        }
    }

    fn lose(&mut self, relay: usize) {
        if let Some(line) = self.relays[relay].line.take() {
            self.stage.lose(line);
        }
        self.relays[relay].commands.clear();
    }

    /// What was over is on its disk, the rest is gone.
    fn kill(&mut self, relay: usize) {
        self.lose(relay);
        self.relays[relay].sessions.clear();
        self.relays[relay].process += 1;
        self.connect(relay);
    }

    fn update(&mut self, name: &'static str, answers: bool) {
        if self.calls[name].under_way.is_some() {
            return;
        }
        let tag = match &self.calls[name].from_tag {
            Some(tag) => tag.clone(),
            None => format!("f{}", self.number()),
        };
        let (kind, to_tag) = if answers {
            ("reply", "to_tag: t\r\n")
        } else {
            ("request", "")
        };
        let text = format!(
            "update\r\ntype: {kind}\r\ncall_id: {name}\r\ncseq: 1\r\nfrom_uri: a@b\r\nto_uri: c@d\r\nfrom_tag: {tag}\r\n{to_tag}\
             user_agent: x\r\ndialog_id: {name}:1\r\nmedia: audio:192.0.2.9:4000:sendrecv:ice=no\r\n\r\n"
        );
        let number = self.number();
        let asked = with_frame(&text, |frame| self.stage.update(frame, number));
        let call = self.calls.get_mut(name).unwrap();
        call.from_tag = Some(tag);
        call.under_way = asked.map(|asked| (asked, text));
        self.updates += 1;
    }

    fn try_another(&mut self, name: &'static str) {
        if let Some((asked, text)) = &mut self.calls.get_mut(name).unwrap().under_way {
            with_frame(text, |frame| self.stage.try_another(frame, asked));
        }
    }

    fn give_up(&mut self, name: &'static str) {
        if let Some((asked, text)) = self.calls.get_mut(name).unwrap().under_way.take() {
            if let Outcome::Answered(line) = self.stage.give_up(&asked) {
                self.answered(line, name, &text);
            }
        }
    }

    fn remove(&mut self, name: &'static str) {
        self.give_up(name);
        if let Some(tag) = self.calls.get_mut(name).unwrap().from_tag.take() {
            let text = format!("remove\r\ncall_id: {name}\r\nfrom_tag: {tag}\r\n\r\n");
            let remove = with_frame(&text, |frame| Remove::parse(frame).expect("a removal"));
            self.stage.remove(remove);
        }
    }

    /// The proxy hears what has become of its updates.
    fn look(&mut self) {
        for name in CALLS {
            let Some((asked, text)) = &self.calls[name].under_way else {
                continue;
            };
            match self.stage.outcome(asked) {
                Outcome::Waiting => {}
                Outcome::Failed => {
                    self.calls.get_mut(name).unwrap().under_way = None;
                }
                Outcome::Answered(line) => {
                    let text = text.clone();
                    self.calls.get_mut(name).unwrap().under_way = None;
                    self.answered(line, name, &text);
                }
            }
        }
    }

    /// An answer that the proxy has got makes a call that is to be accounted, where its relay has it still.
    fn answered(&mut self, line: usize, name: &str, text: &str) {
        let relay = self.relays[..ROGUE]
            .iter()
            .find(|relay| relay.line == Some(line));
        let mut sessions = relay.into_iter().flat_map(|relay| &relay.sessions);
        let is_it = |session: &&Session| {
            session.call == name && text.contains(&format!("from_tag: {}\r\n", session.from_tag))
        };
        if let (true, Some(session)) = (text.contains("type: reply"), sessions.find(is_it)) {
            if session.is_answered {
                self.owed.insert(session.id.clone());
            }
        }
    }

    /// All relays read what is queued for them.
    fn read_all(&mut self) {
        for index in 0..self.relays.len() {
            let Some(line) = self.relays[index].line else {
                continue;
            };
            let sent = self.stage.sent(line);
            assert!(sent.len() <= LONGEST_QUEUE);
            if !self.stage.is_up(line) {
                self.relays[index].line = None;
                continue;
            }
            let mut requests = Requests::new(LINK_LIMITS, ALONE);
            requests.extend(&sent);
            let mut texts = Vec::new();
            while let Ok(Some(incoming)) = requests.next_request() {
                let mut text = match &incoming {
                    Ok(frame) => frame.command().to_vec(),
                    Err(bad) => panic!(
                        "a relay cannot read {:?}",
                        String::from_utf8_lossy(bad.command)
                    ),
                };
                if let Ok(frame) = &incoming {
                    for (name, value) in frame.headers() {
                        text.extend_from_slice(&[b"\n", name, b": ", value].concat());
                    }
                }
                if let FromDispatcher::Stored(id) = FromDispatcher::parse(incoming) {
                    let id = id.to_string();
                    assert!(
                        index == ROGUE
                            || self.books.has(&id)
                            || !self.is_to_be_recorded(index, &id)
                    );
                    self.relays[index]
                        .spool
                        .retain(|(_, session)| session.id != id);
                    continue;
                }
                texts.push(String::from_utf8(text).expect("text"));
            }
            let is_command =
                |text: &String| !text.starts_with("pong") && !text.starts_with("hello");
            self.relays[index]
                .commands
                .extend(texts.into_iter().filter(is_command));
        }
    }

    fn is_to_be_recorded(&self, relay: usize, id: &str) -> bool {
        let mut spool = self.relays[relay].spool.iter();
        spool.any(|(_, session)| session.id == id && session.is_answered) && self.owed.contains(id)
    }

    /// A relay answers its oldest command.
    fn answer(&mut self, relay: usize, reply: usize) {
        self.read_all();
        if self.relays[relay].commands.is_empty() || self.relays[relay].line.is_none() {
            return;
        }
        let command = self.relays[relay].commands.remove(0);
        let mut lines = command.lines();
        let head = lines.next().unwrap_or_default();
        let (word, sequence) = head.split_once(' ').unwrap_or((head, "0"));
        let sequence = sequence.split(' ').next().unwrap_or_default();
        let headers: BTreeMap<&str, &str> = lines.filter_map(|l| l.split_once(": ")).collect();
        let header = |name: &str| headers.get(name).map(|value| (*value).to_owned());
        let call = header("call_id").unwrap_or_default();
        let from_tag = header("from_tag").unwrap_or_default();
        let owner = &mut self.relays[relay];
        let text = match (word, reply) {
            ("update", 1) => "error".to_owned(),
            ("update", 2) if header("session_id").is_some() => "halting".to_owned(),
            ("update", _) => {
                let is_it =
                    |session: &&mut Session| session.call == call && session.from_tag == from_tag;
                let session = match owner.sessions.iter_mut().position(|s| is_it(&s)) {
                    Some(index) => &mut owner.sessions[index],
                    None => {
                        self.numbers += 1;
                        let fresh = format!("00000000-0000-4000-9000-{:012}", self.numbers);
                        owner.sessions.push(Session {
                            call,
                            id: header("session_id").unwrap_or(fresh),
                            from_tag,
                            to_tag: None,
                            is_answered: false,
                        });
                        owner.sessions.last_mut().unwrap()
                    }
                };
                if header("type").as_deref() == Some("reply") {
                    session.is_answered = true;
                    session.to_tag = header("to_tag").or(session.to_tag.take());
                }
                "192.0.2.1 4000".to_owned()
            }
            ("remove", _) => {
                let is_it =
                    |session: &Session| session.call == call && session.from_tag == from_tag;
                match owner.sessions.iter().position(is_it) {
                    Some(index) => {
                        let session = owner.sessions.remove(index);
                        let json = session.json();
                        owner.spool.push(("removed", session));
                        json
                    }
                    None => "error".to_owned(),
                }
            }
            ("sessions", _) => {
                let all: Vec<String> = owner.sessions.iter().map(Session::json).collect();
                format!("[{}]", all.join(","))
            }
            ("explain", _) => {
                let here = owner.sessions.iter().filter(|session| session.call == call);
                let here: Vec<String> = here.map(Session::json).collect();
                if here.is_empty() {
                    "error".to_owned()
                } else {
                    format!("[{}]", here.join(","))
                }
            }
            _ => "{}".to_owned(),
        };
        self.say(relay, &format!("{sequence} {text}\r\n"));
    }

    /// A relay ends a session by itself, whether it is connected or not.
    fn expire(&mut self, relay: usize, index: usize) {
        if index < self.relays[relay].sessions.len() {
            let session = self.relays[relay].sessions.remove(index);
            let line = format!("expired {}\r\n", session.json());
            self.relays[relay].spool.push(("expired", session));
            self.say(relay, &line);
        }
    }

    fn tell_again(&mut self, relay: usize) {
        let spool = &self.relays[relay].spool;
        let lines = spool
            .iter()
            .map(|(word, session)| format!("{word} {}\r\n", session.json()));
        let text: String = lines.collect();
        self.say(relay, &text);
    }

    fn check(&mut self) {
        let (_, live) = self.stage.counts();
        assert!(live <= self.updates.min(CALLS.len()), "{live} calls");
        let pages = self.books.0.lock().unwrap();
        assert!(pages.records.values().all(|times| *times == 1));
    }

    /// Everybody is well again and all calls end.
    fn end(&mut self) {
        self.books.0.lock().unwrap().refusals = 0;
        self.lose(ROGUE);
        for name in CALLS {
            self.remove(name);
        }
        for relay in 0..ROGUE {
            self.connect(relay);
        }
        for _ in 0..4 {
            for relay in 0..ROGUE {
                self.read_all();
                while !self.relays[relay].commands.is_empty() {
                    self.answer(relay, 0);
                    self.read_all();
                }
            }
            self.stage.pass(Duration::from_secs(70));
            self.read_all();
        }
        for relay in 0..ROGUE {
            while !self.relays[relay].sessions.is_empty() {
                self.expire(relay, 0);
            }
            self.tell_again(relay);
            self.tell_again(relay);
            self.lose(relay);
        }
        self.stage.pass(Duration::from_secs(8000));
        self.check();
        let pages = self.books.0.lock().unwrap();
        let missing: Vec<&String> = self
            .owed
            .iter()
            .filter(|id| !pages.records.contains_key(*id))
            .collect();
        assert!(missing.is_empty(), "answered and not recorded: {missing:?}");
        drop(pages);
        assert_eq!(self.stage.counts(), (0, 0), "what is left");
    }
}
