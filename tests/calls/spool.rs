//! Ended calls are told until the dispatcher confirms them: over lost links and the relay's own restart.

use std::path::Path;
use std::sync::Arc;

use crate::support::certs;
use crate::support::relay_bed::*;
use mediaproxy::relay::{self, Running};
use mediaproxy::tls::Store;
use serde_json::Value;

const MEDIA: &str = "audio:127.0.0.1:4000:sendrecv:ice=no";

/// A relay with a state directory, and its dispatcher.
struct Spooled {
    certs: certs::Certs,
    dispatcher: FakeDispatcher,
    settings: relay::Settings,
    running: Option<Running>,
}

impl Spooled {
    fn new() -> Spooled {
        let certs = certs::Certs::usual();
        let dispatcher = FakeDispatcher::new(certs.path());
        let mut settings = settings(&[dispatcher.address]);
        settings.state_dir = Some(certs.path().join("state"));
        let mut bed = Spooled {
            certs,
            dispatcher,
            settings,
            running: None,
        };
        bed.start();
        bed
    }

    fn start(&mut self) {
        let store = Arc::new(Store::open(self.certs.path(), "relay").unwrap());
        // Its range stays: it names the directory of what is kept. A child that another test has just forked holds the lock
        // until it runs its program.
        let mut lock = None;
        wait_until("the lock of its range", || {
            lock = relay::lock(&self.settings).ok();
            lock.is_some()
        });
        let lock = lock.unwrap();
        let running = relay::start(self.settings.clone(), store, lock);
        self.running = Some(running.unwrap());
    }

    fn stop(&mut self) {
        self.running.take().unwrap().stop();
    }

    /// The next link, to a dispatcher that confirms.
    fn link(&self) -> FakeLink {
        let mut link = self.dispatcher.accept();
        let hello = link.next_line().unwrap();
        assert!(hello.contains(r#""stored":true"#), "{hello}");
        link.say(r#"hello {"version": "test", "stored": true}"#);
        // The hello has been read when a later command is answered.
        link.json("summary");
        link
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.stop();
        }
    }
}

fn answered_call(link: &mut FakeLink, call_id: &str) {
    offer(call_id, MEDIA).ports(link);
    answer(call_id, MEDIA).ports(link);
}

/// The unasked lines that came before the next answer.
fn told(link: &mut FakeLink) -> Vec<(String, Value)> {
    link.json("sessions");
    let parse = |line: String| {
        let (word, json) = line.split_once(' ').unwrap();
        (word.to_owned(), serde_json::from_str(json).unwrap())
    };
    link.unasked.drain(..).map(parse).collect()
}

fn confirm(link: &mut FakeLink, statistics: &Value) {
    link.say(&format!(
        "stored {}",
        statistics["session_id"].as_str().unwrap()
    ));
    link.json("summary");
}

#[test]
fn a_removed_call_is_told_again_until_it_is_confirmed() {
    let bed = Spooled::new();
    let mut link = bed.link();
    answered_call(&mut link, "kept");
    let removed = remove(&mut link, "kept");
    drop(link);
    for _ in 0..2 {
        let mut link = bed.link();
        assert_eq!(told(&mut link), [("removed".to_owned(), removed.clone())]);
    }
    let mut link = bed.link();
    assert_eq!(told(&mut link).len(), 1);
    confirm(&mut link, &removed);
    drop(link);
    assert!(told(&mut bed.link()).is_empty());
}

#[test]
fn a_call_that_ends_while_the_dispatcher_is_away_outlives_the_relay() {
    let mut bed = Spooled::new();
    let mut link = bed.link();
    answered_call(&mut link, "one");
    answered_call(&mut link, "two");
    offer("ringing", MEDIA).ports(&mut link);
    bed.dispatcher.down();
    drop(link);
    // Its end: all calls expire, and nobody hears of it.
    bed.stop();
    bed.dispatcher.up();
    bed.start();
    let mut link = bed.link();
    let told = told(&mut link);
    let mut calls: Vec<&str> = told
        .iter()
        .map(|(_, s)| s["call_id"].as_str().unwrap())
        .collect();
    calls.sort_unstable();
    assert_eq!(
        calls,
        ["one", "two"],
        "one that was never answered is not accounted"
    );
    assert!(told.iter().all(|(word, _)| word == "expired"));
    confirm(&mut link, &told[0].1);
    drop(link);
    bed.stop();
    bed.start();
    let mut link = bed.link();
    assert_eq!(self::told(&mut link), told[1..]);
}

#[test]
fn a_session_is_called_what_the_dispatcher_calls_it() {
    let bed = Spooled::new();
    let mut link = bed.link();
    let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let headers = [
        ("session_id", id),
        ("type", "request"),
        ("dialog_id", "12:34"),
        ("call_id", "named"),
        ("cseq", "1"),
        ("from_uri", "a@example.com"),
        ("to_uri", "b@example.com"),
        ("from_tag", "from"),
        ("user_agent", "phone"),
        ("media", MEDIA),
    ];
    link.ask("update", &headers);
    let statistics = remove(&mut link, "named");
    assert_eq!(
        (&statistics["session_id"], &statistics["dialog_id"]),
        (&id.into(), &"12:34".into())
    );
}

#[test]
fn a_dispatcher_that_does_not_confirm_is_told_as_before() {
    let bed = Spooled::new();
    let mut link = bed.dispatcher.link();
    answered_call(&mut link, "old");
    remove(&mut link, "old");
    drop(link);
    assert!(told(&mut bed.dispatcher.link()).is_empty());
}

/// Cut at every byte of its last line, as a crash of the machine could leave it.
#[test]
fn a_torn_record_is_given_up_and_the_others_are_told() {
    let mut bed = Spooled::new();
    let mut link = bed.link();
    for call_id in ["one", "two"] {
        answered_call(&mut link, call_id);
        remove(&mut link, call_id);
    }
    drop(link);
    bed.stop();
    let first_port = bed.settings.port_range.0;
    let dir = bed.certs.path().join(format!("state/relay-{first_port}"));
    let path: &Path = &dir.join("0000000001.journal");
    let whole = std::fs::read(path).unwrap();
    let before_last = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n');
    for cut in before_last.unwrap() + 1..whole.len() {
        std::fs::write(path, &whole[..cut]).unwrap();
        bed.start();
        let told = told(&mut bed.link());
        assert_eq!(told.len(), 1, "cut at {cut}");
        assert_eq!(told[0].1["call_id"], "one");
        bed.stop();
    }
}
