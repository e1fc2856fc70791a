//! Relays that were drained stay so over restarts of the dispatcher, and whoever drains one is told where that could
//! not be made sure.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::bed::{Bed, LONG, fresh_directory, offer};
use crate::support::daemons::{self, Daemon, Daemons};
use crate::support::management;
use crate::support::ports::PortRange;
use crate::support::proxy;
use crate::support::scratch::Scratch;

/// A directory of a test's own, gone at its end.
struct State(PathBuf);

impl State {
    fn new(name: &str) -> State {
        State(fresh_directory(name))
    }

    fn bed(&self) -> Bed {
        self.bed_in(&self.0)
    }

    fn bed_in(&self, state_dir: &Path) -> Bed {
        Bed::with(|settings| settings.state_dir = state_dir.to_owned())
    }

    fn file(&self) -> String {
        fs::read_to_string(self.0.join("drained")).unwrap_or_default()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The first line of an answer, which has no other.
fn ask(bed: &Bed, command: &str) -> String {
    let mut client = bed.management();
    let mut answer = client.ask(&format!("{command}\r\n"));
    loop {
        match client.answer().as_str() {
            "" => return answer,
            line => answer = answer + "\n" + line,
        }
    }
}

#[test]
fn a_restarted_dispatcher_gives_a_drained_relay_no_calls() {
    let state = State::new("drained-restart");
    let bed = state.bed();
    let relay = bed.relay("a");
    let drained = ask(&bed, "drain a");
    assert!(
        drained.contains("\nwarning: NO RELAY IS LEFT THAT TAKES CALLS"),
        "{drained}"
    );
    assert!(
        state.file().ends_with("\n127.0.0.1 \"a\"\n"),
        "{}",
        state.file()
    );
    drop((relay, bed));
    // It is known before it connects, and can be drained again and resumed.
    let bed = state.bed();
    let mut client = bed.management();
    let away = r#"{"away":true,"ip":"127.0.0.1","name":"a","status":"error","version":"","uptime":0,"session_count":0,"stream_count":{},"bps_relayed":0,"unanswered":0,"drained":true}"#;
    assert_eq!(client.ask("summary\r\n"), away);
    assert_eq!(client.answer(), "");
    assert!(ask(&bed, "drain a").starts_with("drained: relay 127.0.0.1 (a) gets no new calls"));
    assert!(ask(&bed, "drain b").starts_with("error: no relay \"b\"; known: 127.0.0.1 (a)"));
    let _relay = bed.relay("a");
    assert_eq!(bed.proxy().ask(&offer("one")), "error", "nobody takes it");
    let mut other = bed.relay("b");
    let mut proxy = bed.proxy();
    proxy.send(offer("two").as_bytes());
    other.serve("update", "192.0.2.2 40000");
    assert_eq!(proxy.answer(), "192.0.2.2 40000");
    drop(bed);
    let bed = state.bed();
    let resumed = ask(&bed, "resume a");
    assert_eq!(
        resumed,
        "resumed: relay 127.0.0.1 (a) gets new calls, once it is connected"
    );
    drop(bed);
    let bed = state.bed();
    assert_eq!(
        ask(&bed, "resume a"),
        "error: no relay \"a\": none is known"
    );
    let mut relay = bed.relay("a");
    let mut proxy = bed.proxy();
    proxy.send(offer("three").as_bytes());
    relay.serve("update", "192.0.2.1 40000");
    assert_eq!(proxy.answer(), "192.0.2.1 40000");
}

#[test]
fn an_older_relay_may_be_upgraded_meanwhile() {
    let state = State::new("drained-upgrade");
    let bed = state.bed();
    let older = bed.older_relay();
    ask(&bed, "drain 127.0.0.1");
    drop((older, bed));
    let bed = state.bed();
    let _relay = bed.relay("a");
    assert_eq!(bed.proxy().ask(&offer("one")), "error", "nobody takes it");
    // Its new name gets to the file by itself.
    let mut waited = Duration::ZERO;
    while !state.file().ends_with("\n127.0.0.1 \"a\"\n") {
        assert!(waited < LONG, "{}", state.file());
        std::thread::sleep(Duration::from_millis(20));
        waited += Duration::from_millis(20);
    }
}

#[test]
fn what_cannot_be_kept_is_said_and_kept_as_soon_as_it_can_be() {
    let state = State::new("drained-unwritable");
    // Root, too, makes no directory under a file.
    let (blocked, directory) = (state.0.join("file"), state.0.join("file/state"));
    fs::write(&blocked, "").unwrap();
    let bed = state.bed_in(&directory);
    let mut relay = bed.relay("a");
    let path = directory.join("drained");
    let drained = ask(&bed, "drain a");
    let why = format!(
        "A RESTART OF THE DISPATCHER WOULD GIVE IT CALLS AGAIN: {}: cannot be written: ",
        path.display()
    );
    assert!(drained.contains(&why), "{drained}");
    assert_eq!(
        bed.proxy().ask(&offer("one")),
        "error",
        "drained all the same"
    );
    // The upkeep asks whether its last call is over.
    relay.serve("summary", "{\"session_count\": 0}");
    fs::remove_file(&blocked).unwrap();
    let mut waited = Duration::ZERO;
    while !path.exists() {
        assert!(waited < LONG, "it is never written");
        std::thread::sleep(Duration::from_millis(20));
        waited += Duration::from_millis(20);
    }
    assert_eq!(
        state.bed_in(&directory).running.status(),
        "0 relays connected, 0 sessions"
    );
    // The reverse.
    fs::remove_dir_all(&blocked).unwrap();
    fs::write(&blocked, "").unwrap();
    let resumed = ask(&bed, "resume a");
    assert!(
        resumed.contains("; A RESTART OF THE DISPATCHER WOULD DRAIN IT AGAIN: "),
        "{resumed}"
    );
    let mut proxy = bed.proxy();
    proxy.send(offer("two").as_bytes());
    relay.serve("update", "192.0.2.1 40000");
    assert_eq!(proxy.answer(), "192.0.2.1 40000");
}

/// The last part of a log that a daemon has written since it was started.
fn wait_for_log(directory: &Path, part: &str) -> String {
    let mut waited = Duration::ZERO;
    loop {
        let log = fs::read_to_string(directory.join("media-dispatcher.log")).unwrap();
        if log.contains(part) {
            return log;
        }
        assert!(waited < LONG, "never {part:?}:\n{log}");
        std::thread::sleep(Duration::from_millis(20));
        waited += Duration::from_millis(20);
    }
}

#[test]
fn the_daemons_do_so_over_a_crash_and_whatever_the_file_holds() {
    let scratch = Scratch::new("mediaproxy-kept").unwrap();
    let directory = scratch.path();
    daemons::make_certificates(directory).unwrap();
    daemons::write_config(directory, PortRange::find(200).unwrap()).unwrap();
    let binaries = Path::new(env!("CARGO_BIN_EXE_media-dispatcher"))
        .parent()
        .unwrap();
    let Daemons {
        dispatcher, relay, ..
    } = Daemons::start(binaries, directory).unwrap();
    let socket = directory.join("run/management.sock");
    let drained = management::ask(&socket, "drain 127.0.0.1")
        .unwrap()
        .remove(0);
    assert!(drained.starts_with("drained: relay 127.0.0.1"), "{drained}");
    assert!(!drained.contains("RESTART"), "{drained}");
    // Killed, and somebody has edited the file.
    drop(dispatcher);
    let path = directory.join("state/drained");
    let mut text = fs::read(&path).unwrap();
    text.extend_from_slice(b"\xff rubbish\n");
    fs::write(&path, text).unwrap();
    let dispatcher = Daemon::start(binaries, "media-dispatcher", directory).unwrap();
    let log = wait_for_log(directory, ": connected");
    assert!(
        log.contains(&format!("{}:3: \"\\xff rubbish\"", path.display())),
        "{log}"
    );
    assert!(
        log.contains(
            "drained before this start, no new calls until they are resumed: relay 127.0.0.1"
        ),
        "{log}"
    );
    let summary = || management::ask(&socket, "summary").unwrap().join("\n");
    let mut waited = Duration::ZERO;
    while !summary().contains("\"active\"") {
        assert!(waited < LONG, "{}", summary());
        std::thread::sleep(Duration::from_millis(20));
        waited += Duration::from_millis(20);
    }
    assert!(summary().contains("\"drained\":true"), "{}", summary());
    let mut proxy = proxy::Proxy::connect(&directory.join("run/dispatcher.sock")).unwrap();
    assert_eq!(proxy.ask(&offer("one")).unwrap(), "error");
    let resumed = management::ask(&socket, "resume 127.0.0.1")
        .unwrap()
        .remove(0);
    assert!(resumed.starts_with("resumed: relay 127.0.0.1"), "{resumed}");
    assert_ne!(proxy.ask(&offer("two")).unwrap(), "error");
    dispatcher.stop().unwrap();
    let dispatcher = Daemon::start(binaries, "media-dispatcher", directory).unwrap();
    let log = wait_for_log(directory, "ready: ");
    assert!(!log.contains("drained"), "{log}");
    relay.stop().unwrap();
    dispatcher.stop().unwrap();
}
