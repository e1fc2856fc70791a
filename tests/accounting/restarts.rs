//! Answered calls of a dispatcher that is killed (-9), whose relay is lost as well: each is accounted once by the
//! dispatcher after it. With the real daemons and the real file.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use mediaproxy::sys::clock;
use mediaproxy::sys::datagram::undisturbed;
use serde_json::Value;

use crate::support::daemons::{self, Daemon, Daemons};
use crate::support::host_restart;
use crate::support::ports::PortRange;
use crate::support::programs::write_program;
use crate::support::proxy::{Media, Message, Proxy};
use crate::support::scratch::Scratch;
use crate::support::skip;

const PATIENCE: Duration = Duration::from_secs(30);

/// Both daemons, or what is left of them.
struct Host {
    scratch: Scratch,
    dispatcher: Option<Daemon>,
    relay: Option<Daemon>,
}

impl Host {
    fn new() -> Host {
        let scratch = Scratch::new("mediaproxy-live").unwrap();
        let directory = scratch.path();
        daemons::make_certificates(directory).unwrap();
        daemons::write_config(directory, PortRange::find(200).unwrap()).unwrap();
        let lines = directory.join("calls.jsonl");
        let text = format!(
            "accounting = file\ncleanup_dead_relays_after = 3\n[File]\npath = {}\n",
            lines.display()
        );
        daemons::extend_config(directory, &text).unwrap();
        let daemons = Daemons::start(&binaries(), directory).unwrap();
        Host {
            dispatcher: Some(daemons.dispatcher),
            relay: Some(daemons.relay),
            scratch,
        }
    }

    /// Killed, should there be one, and started again.
    fn restart_dispatcher(&mut self) {
        self.dispatcher = None;
        let directory = self.scratch.path();
        self.dispatcher = Some(Daemon::start(&binaries(), "media-dispatcher", directory).unwrap());
        self.wait_for_log("media-dispatcher", "ready: ");
    }

    /// The relay is killed, and what the next one would know of its calls is gone, as when its host starts anew.
    fn lose_relay(&mut self) {
        self.relay = None;
        host_restart::forget_calls(self.scratch.path()).unwrap();
    }

    fn restart_relay(&mut self) {
        self.relay = None;
        let directory = self.scratch.path();
        self.relay = Some(Daemon::start(&binaries(), "media-relay", directory).unwrap());
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.scratch.path().join(format!("{name}.log"))).unwrap()
    }

    fn wait_for_log(&self, name: &str, text: &str) {
        self.wait(text, || self.log(name).contains(text));
    }

    fn wait(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let end = clock::moment() + PATIENCE;
        while !is_so() {
            let log = self.log("media-dispatcher");
            assert!(clock::moment() < end, "{what}: waited in vain\n{log}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What was accounted.
    fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.scratch.path().join("calls.jsonl"));
        let text = text.unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits for so many records; their call-ids, sorted.
    fn recorded(&self, count: usize) -> Vec<String> {
        self.wait("records", || self.records().len() >= count);
        let records = self.records();
        let call_id = |record: &Value| record["call_id"].as_str().unwrap().to_owned();
        let mut found: Vec<String> = records.iter().map(call_id).collect();
        found.sort_unstable();
        found
    }

    fn proxy(&self) -> Proxy {
        Proxy::connect(&self.scratch.path().join("run/dispatcher.sock")).unwrap()
    }

    fn ring(&self, call_id: &str) {
        let media = [Media::audio(CALLER)];
        self.proxy()
            .update(&Message::offer(call_id, &media))
            .unwrap();
    }

    fn answer(&self, call_id: &str) {
        self.proxy().place(call_id, [CALLER, CALLEE]).unwrap();
    }

    fn remove(&self, call_id: &str) -> Result<(), String> {
        self.proxy().hang_up(call_id)
    }
}

fn binaries() -> PathBuf {
    let dispatcher = Path::new(env!("CARGO_BIN_EXE_media-dispatcher"));
    dispatcher.parent().unwrap().to_owned()
}

const CALLER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4000);
const CALLEE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4002);

/// Since 1970-01-01 UTC.
fn now() -> f64 {
    clock::now().unix.elapsed().as_secs_f64()
}

#[test]
fn both_daemons_are_killed_and_no_answered_call_is_lost() {
    let began = now();
    let mut host = Host::new();
    host.answer("one");
    host.answer("two");
    host.answer("over");
    host.remove("over").unwrap();
    host.ring("ringing");
    host.lose_relay();
    host.restart_dispatcher();
    assert_eq!(host.recorded(3), ["one", "over", "two"]);
    for record in host.records() {
        let is_lost = record["call_id"] != "over";
        assert_eq!(record["relay_lost"] == true, is_lost, "{record}");
        let started = record["start_time"].as_f64().unwrap();
        assert!(started >= began && started <= now(), "{record}");
        assert_eq!(record["to_tag"], "to");
        assert_eq!(record["caller_ua"], "phone");
        assert_eq!(record["callee_ua"], "other phone");
        assert!(record["duration"].as_u64().unwrap() <= 1, "{record}");
    }
    // The next one knows that they are over.
    host.restart_dispatcher();
    assert!(
        !host
            .log("media-dispatcher")
            .contains("known from before this start")
    );
    host.restart_relay();
    host.wait_for_log("media-dispatcher", "reports 0 sessions");
    assert_eq!(host.recorded(3).len(), 3);
}

#[test]
fn a_call_outlives_a_dispatcher_and_is_lost_with_its_relay_later() {
    let mut host = Host::new();
    host.answer("goes on");
    host.answer("is lost");
    host.restart_dispatcher();
    host.wait_for_log("media-dispatcher", "2 answered calls known");
    host.wait_for_log(
        "media-dispatcher",
        "reports 2 sessions; none that we had there is missing",
    );
    host.remove("goes on").unwrap();
    assert_eq!(host.recorded(1), ["goes on"]);
    assert!(host.records()[0].get("relay_lost").is_none());
    host.lose_relay();
    host.restart_relay();
    assert_eq!(host.recorded(2), ["goes on", "is lost"]);
    assert_eq!(host.records()[1]["relay_lost"], true);
}

/// Both sides of a back-to-back agent. The dispatcher is killed, one is hung up, and then their relay is lost.
#[test]
fn two_dialogs_of_one_call_id_outlive_a_dispatcher_and_end_each_by_itself() {
    let mut host = Host::new();
    let caller = [Media::audio(CALLER)];
    let callee = [Media::audio(CALLEE)];
    let tags = [("fa", "ta"), ("fb", "tb")];
    fn with<'a>(message: Message<'a>, from_tag: &'a str, to_tag: &'a str) -> Message<'a> {
        Message {
            from: (message.from.0, from_tag),
            to: (message.to.0, to_tag),
            ..message
        }
    }
    let mut proxy = host.proxy();
    for (from_tag, _) in tags {
        let offer = Message::offer("same", &caller);
        proxy.update(&with(offer, from_tag, "")).unwrap();
    }
    for (from_tag, to_tag) in tags {
        let answer = Message::answer("same", &callee);
        proxy.update(&with(answer, from_tag, to_tag)).unwrap();
    }
    host.restart_dispatcher();
    host.wait_for_log("media-dispatcher", "2 answered calls known");
    host.wait_for_log(
        "media-dispatcher",
        "reports 2 sessions; none that we had there is missing",
    );
    let mut proxy = host.proxy();
    let end = |from_tag, to_tag| with(Message::answer("same", &[]), from_tag, to_tag);
    assert!(proxy.remove(&end("fa", "another")).is_err());
    proxy.remove(&end("tb", "fb")).unwrap();
    assert!(proxy.remove(&end("fb", "tb")).is_err(), "it is over");
    host.recorded(1);
    host.relay = None;
    host.recorded(2);
    let tags = |record: &Value| (record["from_tag"].clone(), record["to_tag"].clone());
    let records = host.records();
    assert_eq!(tags(&records[0]), ("fb".into(), "tb".into()));
    assert_eq!(tags(&records[1]), ("fa".into(), "ta".into()));
    assert!(records[0].get("relay_lost").is_none());
    assert_eq!(records[1]["relay_lost"], true);
}

#[test]
fn a_removal_while_the_relay_was_away_is_remembered_by_the_next_dispatcher() {
    let mut host = Host::new();
    host.answer("removed");
    host.lose_relay();
    host.wait_for_log("media-dispatcher", "down");
    host.remove("removed").unwrap();
    host.restart_dispatcher();
    host.restart_relay();
    assert_eq!(host.recorded(1), ["removed"]);
    let record = &host.records()[0];
    assert_eq!(record["relay_lost"], true);
    assert_eq!(record["timed_out"], false, "the proxy ended it");
    assert!(!host.log("media-dispatcher").contains("dialog to be ended"));
}

/// The proxy's socket; it answers nothing by itself.
fn stand_in(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The dialog that is to be ended, and where the answer goes.
fn asked(socket: &UnixDatagram) -> (Value, std::os::unix::net::SocketAddr) {
    let mut buffer = [0; 1000];
    let (length, from) = undisturbed(|| socket.recv_from(&mut buffer)).unwrap();
    (serde_json::from_slice(&buffer[..length]).unwrap(), from)
}

#[test]
fn a_dialog_is_ended_by_the_dispatcher_after_a_killed_one() {
    let mut host = Host::new();
    let sip = stand_in(&host.scratch.path().join("opensips"));
    let section = format!(
        "[OpenSIPS]\nsocket_path = {}\n",
        host.scratch.path().join("opensips").display()
    );
    daemons::extend_config(host.scratch.path(), &section).unwrap();
    host.restart_dispatcher();
    host.wait_for_log("media-dispatcher", "up, from port");
    let (offer, answer) = ([Media::audio(CALLER)], [Media::audio(CALLEE)]);
    for message in [
        Message::offer("one", &offer),
        Message::answer("one", &answer),
    ] {
        let request = message.update().replace("dialog_id: ", "dialog_id: 7788");
        host.proxy().ask(&request).unwrap();
    }
    // The relay ends, and its calls with it. The proxy does not answer before the dispatcher is killed.
    host.relay.take().unwrap().stop().unwrap();
    let (request, _) = asked(&sip);
    assert_eq!(request["params"], serde_json::json!(["0.c6e1"]));
    assert_eq!(host.recorded(1), ["one"]);
    host.restart_dispatcher();
    host.wait_for_log("media-dispatcher", "1 dialog from before this start");
    let (request, from) = asked(&sip);
    assert_eq!(request["params"], serde_json::json!(["0.c6e1"]));
    // While the proxy ends it, it removes the call.
    host.remove("one").unwrap();
    let answer = serde_json::json!({"jsonrpc": "2.0", "id": request["id"], "result": {}});
    sip.send_to_addr(answer.to_string().as_bytes(), &from)
        .unwrap();
    host.wait_for_log("media-dispatcher", "dialog 7788 ended by OpenSIPS");
    host.restart_dispatcher();
    assert!(
        !host
            .log("media-dispatcher")
            .contains("from before this start to be ended")
    );
    assert_eq!(host.recorded(1), ["one"]);
}

/// A program of this name that runs the daemon, whose syncs of one file fail.
fn with_failing_syncs(directory: &Path, name: &str, file: &Path) -> PathBuf {
    let bin = directory.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\nexec strace -D -f -qq -o {0}/strace.log -P {1} -e trace=fdatasync -e inject=fdatasync:error=EIO {2}/{name} \"$@\"\n",
        directory.display(),
        file.display(),
        binaries().display(),
    );
    write_program(&bin.join(name), &script);
    bin
}

/// What is only in the page cache is no record yet: its relay keeps it.
#[test]
fn a_session_is_confirmed_when_the_disk_has_it() {
    if skip::missing(&["strace"]).is_some() {
        skip::skip("strace is not installed");
        return;
    }
    let mut host = Host::new();
    let directory = host.scratch.path().to_owned();
    let journal = directory.join("state/accounting/journal/0000000001.journal");
    let bin = with_failing_syncs(&directory, "media-dispatcher", &journal);
    host.dispatcher = None;
    host.dispatcher = Some(Daemon::start(&bin, "media-dispatcher", &directory).unwrap());
    host.wait_for_log("media-dispatcher", "up, from port");
    host.answer("one");
    host.remove("one").unwrap();
    let failures = || {
        let text = fs::read_to_string(directory.join("strace.log")).unwrap();
        text.matches("EIO").count()
    };
    let before = failures();
    host.wait("failures", || failures() > before + 3);
    let log = host.log("media-dispatcher");
    assert!(log.contains("the journal cannot be synced"), "{log}");
    let confirmed = || {
        let spools = fs::read_dir(directory.join("state")).unwrap();
        let spools = spools.map(|entry| entry.unwrap().path());
        let spool = spools.filter(|path| path.to_string_lossy().contains("relay-"));
        let journals = spool.map(|path| fs::read(path.join("0000000001.journal")).unwrap());
        let all: Vec<u8> = journals.flatten().collect();
        String::from_utf8_lossy(&all).matches(" stored ").count()
    };
    assert_eq!(confirmed(), 0);
    host.restart_dispatcher();
    host.wait("confirmation", || confirmed() == 1);
    assert_eq!(host.recorded(1), ["one"]);
}

/// What the relay tells of the call when it is back is worth more than what the dispatcher could record when it ends.
#[test]
fn a_dispatcher_that_is_stopped_leaves_a_removal_to_the_next_one() {
    let mut host = Host::new();
    host.answer("removed");
    host.relay = None;
    host.wait_for_log("media-dispatcher", "down");
    host.remove("removed").unwrap();
    let dispatcher = host.dispatcher.take().unwrap();
    dispatcher.stop().unwrap();
    assert!(host.records().is_empty(), "{:?}", host.records());
    host.restart_dispatcher();
    host.wait_for_log("media-dispatcher", "1 answered call known");
    host.restart_relay();
    assert_eq!(host.recorded(1), ["removed"]);
    assert_eq!(host.records()[0]["timed_out"], false, "the proxy ended it");
}
