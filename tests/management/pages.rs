//! The JSON that CDRTool, MediaProxy's own pages and scripts read, of the real daemons: `sessions`, `summary` and what
//! accounting stores, for calls in every state, with a relay and without.

use std::fs;
use std::net::SocketAddrV4;
use std::path::Path;
use std::thread;
use std::time::Duration;

use mediaproxy::sys::clock;
use serde_json::Value;

use crate::support::daemons::{self, Daemon, Daemons};
use crate::support::management;
use crate::support::ports::PortRange;
use crate::support::proxy::{Media, Message, Proxy};
use crate::support::scratch::Scratch;
use crate::support::shape;

const PATIENCE: Duration = Duration::from_secs(30);

fn at(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new([127, 0, 0, 1].into(), port)
}

fn line(kind: &'static str, port: u16, direction: &'static str) -> Media {
    let address = at(port);
    Media {
        kind,
        address,
        direction,
    }
}

struct Host {
    scratch: Scratch,
    dispatcher: Daemon,
    relay: Option<Daemon>,
}

impl Host {
    /// With `management_format = array`, which CDRTool needs.
    fn new() -> Host {
        let scratch = Scratch::new("mediaproxy-shape").unwrap();
        let directory = scratch.path();
        daemons::make_certificates(directory).unwrap();
        daemons::write_config(directory, PortRange::find(200).unwrap()).unwrap();
        let text = format!(
            "management_format = array\naccounting = file\ncleanup_dead_relays_after = 3\n[File]\npath = {}\n",
            directory.join("calls.jsonl").display()
        );
        daemons::extend_config(directory, &text).unwrap();
        let daemons = Daemons::start(binaries(), directory).unwrap();
        Host {
            dispatcher: daemons.dispatcher,
            relay: Some(daemons.relay),
            scratch,
        }
    }

    fn proxy(&self) -> Proxy {
        Proxy::connect(&self.scratch.path().join("run/dispatcher.sock")).unwrap()
    }

    fn place(&self, call_id: &str, offer: &[Media], answer: &[Media]) {
        let mut proxy = self.proxy();
        proxy.update(&Message::offer(call_id, offer)).unwrap();
        proxy.update(&Message::answer(call_id, answer)).unwrap();
    }

    /// The array that a page reads: one line.
    fn ask(&self, command: &str) -> Vec<Value> {
        let socket = self.scratch.path().join("run/management.sock");
        let lines = management::ask(&socket, command).unwrap();
        assert_eq!(lines.len(), 1, "{lines:?}");
        serde_json::from_str(&lines[0]).unwrap()
    }

    fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.scratch.path().join("calls.jsonl"));
        let text = text.unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn wait(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let end = clock::moment() + PATIENCE;
        while !is_so() {
            assert!(clock::moment() < end, "{what}: waited in vain");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn binaries() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_media-relay"))
        .parent()
        .unwrap()
}

fn statuses(session: &Value) -> Vec<&str> {
    let streams = session["streams"].as_array().unwrap().iter();
    streams.map(|s| s["status"].as_str().unwrap()).collect()
}

#[test]
fn what_pages_read_has_the_keys_and_types_of_mediaproxy() {
    let mut host = Host::new();
    let (audio, other) = ([Media::audio(at(4000))], [Media::audio(at(5000))]);
    host.proxy()
        .update(&Message::offer("ringing", &audio))
        .unwrap();
    host.place("live", &audio, &other);
    host.place("on hold", &[line("audio", 4000, "sendonly")], &other);
    host.place("rejected", &audio, &[Media::audio(at(0))]);
    host.place(
        "closed only",
        &[Media::audio(at(0))],
        &[Media::audio(at(0))],
    );
    host.place(
        "video off",
        &[line("video", 0, "sendrecv"), audio[0].clone()],
        &[line("video", 0, "sendrecv"), other[0].clone()],
    );
    let listed = host.ask("sessions");
    listed.iter().for_each(shape::listed);
    let mut all: Vec<(&str, Vec<&str>)> = listed
        .iter()
        .map(|session| (session["call_id"].as_str().unwrap(), statuses(session)))
        .collect();
    all.sort();
    assert_eq!(
        all,
        [
            ("closed only", vec!["closed"]),
            ("live", vec!["active"]),
            ("on hold", vec!["on hold"]),
            ("rejected", vec!["rejected"]),
            ("ringing", vec![]),
            ("video off", vec!["closed", "active"]),
        ]
    );
    let summaries = host.ask("summary");
    assert_eq!(summaries.len(), 1);
    shape::summary(&summaries[0]);
    assert_eq!(
        summaries[0]["stream_count"],
        serde_json::json!({"audio": 4})
    );

    for call_id in ["closed only", "video off"] {
        host.proxy().hang_up(call_id).unwrap();
    }
    // Ends the others but for the one that rings, which nobody is to pay for; they are told when it ends.
    host.relay.take().unwrap().stop().unwrap();
    host.wait("records of a relay that has ended", || {
        host.records().len() == 5
    });
    let records = host.records();
    records.iter().for_each(shape::recorded);
    let timed_out = |call_id: &str| {
        let mut records = records.iter();
        let record = records.find(|record| record["call_id"] == call_id);
        record.unwrap()["timed_out"].clone()
    };
    assert_eq!(
        (timed_out("live"), timed_out("closed only")),
        (true.into(), false.into())
    );
}

/// The relay is killed with a call on it: the summary goes on to list it, and its call is recorded when it stays away.
#[test]
fn a_relay_that_is_away_has_all_keys_and_so_has_its_call() {
    let mut host = Host::new();
    host.place("lost", &[Media::audio(at(4000))], &[Media::audio(at(5000))]);
    host.relay = None;
    host.wait("a relay that is away", || {
        host.ask("summary").iter().any(|one| one["away"] == true)
    });
    let summaries = host.ask("summary");
    assert_eq!(summaries.len(), 1);
    shape::summary(&summaries[0]);
    assert_eq!(
        (&summaries[0]["status"], &summaries[0]["session_count"]),
        (&"error".into(), &1.into())
    );
    host.wait("the record of a relay that stays away", || {
        host.records().len() == 1
    });
    let records = host.records();
    shape::recorded(&records[0]);
    assert_eq!(records[0]["relay_lost"], true);
    host.dispatcher.check().unwrap();
}
