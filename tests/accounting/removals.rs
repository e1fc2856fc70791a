//! What the proxy's `remove` does to a call, with the real daemons and the real file: by tags that nobody has, nothing;
//! while its relay is cut off, frozen, or while the dispatcher is killed: the call is as long as until then.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use mediaproxy::moment::Moment;
use mediaproxy::sys::clock;
use serde_json::Value;

use crate::support::between::{Between, Side, Stop};
use crate::support::daemons::{self, Daemon, Daemons};
use crate::support::ports::PortRange;
use crate::support::proxy::{Media, Message, Proxy};
use crate::support::scratch::Scratch;

const PATIENCE: Duration = Duration::from_secs(30);

/// Both daemons, and what stands between them.
struct Host {
    scratch: Scratch,
    dispatcher: Option<Daemon>,
    relay: Daemon,
    way: Between,
    /// Of the dispatcher, where relays connect.
    port: u16,
}

impl Host {
    fn new() -> Host {
        Host::with_patience(90)
    }

    /// The relay ends a stream that is silent for so many seconds.
    fn with_patience(seconds: u64) -> Host {
        let scratch = Scratch::new("mediaproxy-removed").unwrap();
        let directory = scratch.path();
        daemons::make_certificates(directory).unwrap();
        daemons::write_config(directory, PortRange::find(200).unwrap()).unwrap();
        let path = directory.join("config.ini");
        let text = fs::read_to_string(&path).unwrap();
        let target = text.split("dispatchers = 127.0.0.1:").nth(1).unwrap();
        let port = target.lines().next().unwrap().parse().unwrap();
        let way = Between::tcp(port);
        let lines = directory.join("calls.jsonl");
        let text = text.replace(
            &format!("dispatchers = 127.0.0.1:{port}"),
            &format!(
                "dispatchers = 127.0.0.1:{}\nstream_timeout = {seconds}",
                way.port()
            ),
        );
        let more = format!(
            "accounting = file\nrelay_timeout = 1\n[File]\npath = {}\n",
            lines.display()
        );
        fs::write(&path, text + &more).unwrap();
        let daemons = Daemons::start(&binaries(), directory).unwrap();
        Host {
            dispatcher: Some(daemons.dispatcher),
            relay: daemons.relay,
            scratch,
            way,
            port,
        }
    }

    /// Killed, and started again.
    fn restart_dispatcher(&mut self) {
        self.dispatcher = None;
        let directory = self.scratch.path();
        self.dispatcher = Some(Daemon::start(&binaries(), "media-dispatcher", directory).unwrap());
        self.wait_for_log("media-dispatcher", "ready: ");
    }

    /// The relay's link ends, and no new one comes about.
    fn cut(&self) {
        self.way.stop_at(Stop::Before(Side::Client, 0));
        self.wait_for_log("media-dispatcher", ": down: ");
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

    fn records(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.scratch.path().join("calls.jsonl"));
        let text = text.unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The one record that there is to be.
    fn record(&self) -> Value {
        self.wait("the record", || !self.records().is_empty());
        let mut records = self.records();
        assert_eq!(records.len(), 1, "{records:?}");
        records.remove(0)
    }

    fn proxy(&self) -> Proxy {
        Proxy::connect(&self.scratch.path().join("run/dispatcher.sock")).unwrap()
    }
}

fn binaries() -> PathBuf {
    let dispatcher = Path::new(env!("CARGO_BIN_EXE_media-dispatcher"));
    dispatcher.parent().unwrap().to_owned()
}

/// An answered call, in which both parties have sent a packet.
struct Call {
    id: &'static str,
    phones: [UdpSocket; 2],
    ports: [u16; 2],
    /// It was answered after the first and before the second.
    answered: [Moment; 2],
}

impl Call {
    fn place(host: &Host, id: &'static str) -> Call {
        let phones = [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let media = phones.each_ref().map(Media::audio_at);
        let begun = clock::moment();
        let ends = media.map(|media| media.address);
        let ports = host.proxy().place(id, ends).unwrap();
        let call = Call {
            id,
            phones,
            ports,
            answered: [begun, clock::moment()],
        };
        call.talk();
        call
    }

    /// Each says something that the other one hears.
    fn talk(&self) {
        let packet = [&[0x80, 0][..], &[7; 170]].concat();
        for (from, to) in [(0, 1), (1, 0)] {
            let relay = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.ports[from]);
            let phone = &self.phones[to];
            phone.set_read_timeout(Some(PATIENCE)).unwrap();
            self.phones[from].send_to(&packet, relay).unwrap();
            assert_eq!(phone.recv(&mut [0; 500]).unwrap(), packet.len());
        }
    }

    /// The shortest and the longest that it can have lasted if it ends now.
    fn length(&self) -> [Duration; 2] {
        let now = clock::moment();
        [now - self.answered[1], now - self.answered[0]]
    }

    /// Lasts this long from its answer.
    fn last(&self, length: Duration) {
        let left = (self.answered[0] + length).since(clock::moment());
        thread::sleep(left);
    }

    /// The caller's second INVITE, with what it had before.
    fn update_again(&self, host: &Host, cseq: u32) -> Vec<u16> {
        let media = [Media::audio_at(&self.phones[0])];
        let message = Message {
            cseq,
            to: ("bob@example.com", "to"),
            ..Message::offer(self.id, &media)
        };
        host.proxy().update(&message).unwrap()
    }
}

/// What is recorded is the call until it was removed, which took this long, and its media.
#[track_caller]
fn check(record: &Value, [least, most]: [Duration; 2]) {
    let duration = record["duration"].as_u64().unwrap();
    let range = least.as_secs()..=most.as_secs();
    assert!(range.contains(&duration), "{range:?}: {record}");
    assert_eq!(record["timed_out"], false, "{record}");
    assert!(record.get("relay_lost").is_none(), "{record}");
    let stream = &record["streams"][0];
    assert_eq!(stream["end_time"], duration, "{record}");
    assert_eq!(
        (&stream["status"], &stream["timeout_wait"]),
        (&"closed".into(), &0.into())
    );
    for party in ["caller_packets", "callee_packets"] {
        assert!(stream[party].as_u64().unwrap() >= 1, "{record}");
    }
}

/// Two relays: the call stays on the one that has it.
#[test]
fn whoever_knows_a_call_id_ends_no_call_by_it() {
    let host = Host::new();
    let second = host.scratch.path().join("second");
    fs::create_dir(&second).unwrap();
    std::os::unix::fs::symlink(host.scratch.path().join("tls"), second.join("tls")).unwrap();
    daemons::write_config(&second, PortRange::find(200).unwrap()).unwrap();
    let text = fs::read_to_string(second.join("config.ini")).unwrap();
    let (before, after) = text.split_once("dispatchers = 127.0.0.1:").unwrap();
    let (_, after) = after.split_once('\n').unwrap();
    let text = format!("{before}dispatchers = 127.0.0.1:{}\n{after}", host.port);
    fs::write(second.join("config.ini"), text).unwrap();
    let call = Call::place(&host, "one");
    let other = Daemon::start(&binaries(), "media-relay", &second).unwrap();
    let ups = || {
        host.log("media-dispatcher")
            .matches(": up, from port")
            .count()
    };
    host.wait("the second relay", || ups() == 2);
    let media = [Media::audio_at(&call.phones[1])];
    for (from, to) in [("x", "y"), ("x", ""), ("x", "to")] {
        let wrong = Message {
            from: ("mallory@example.com", from),
            to: ("bob@example.com", to),
            ..Message::answer("one", &media)
        };
        assert_eq!(host.proxy().ask(&wrong.remove()).unwrap(), "error");
    }
    let ports = call.update_again(&host, 2);
    for cseq in 3..22 {
        assert_eq!(call.update_again(&host, cseq), ports);
    }
    call.talk();
    assert!(host.records().is_empty());
    let removed = call.length();
    host.proxy().hang_up("one").unwrap();
    check(&host.record(), [removed[0], call.length()[1]]);
    drop(other);
}

#[test]
fn a_call_that_is_removed_while_its_relay_is_cut_off_is_as_long_as_until_then() {
    let host = Host::new();
    let call = Call::place(&host, "one");
    host.cut();
    call.last(Duration::from_millis(500));
    let least = call.length()[0];
    host.proxy().hang_up("one").unwrap();
    let most = call.length()[1];
    call.last(Duration::from_millis(1800));
    // What its relay says adds packets.
    call.talk();
    host.way.go_on();
    check(&host.record(), [least, most]);
    // The relay ends it by that, not by the silence.
    assert!(!host.log("media-relay").contains("conntrack timeout"));
    assert!(host.log("media-dispatcher").contains("removed there now"));
}

/// Longer than a stream may be silent.
#[test]
fn a_call_that_its_relay_ended_for_the_silence_after_its_removal_was_not_timed_out() {
    let host = Host::with_patience(2);
    let call = Call::place(&host, "one");
    host.cut();
    let least = call.length()[0];
    host.proxy().hang_up("one").unwrap();
    let most = call.length()[1];
    host.wait_for_log("media-relay", "conntrack timeout after 2 s");
    host.way.go_on();
    check(&host.record(), [least, most]);
}

#[test]
fn a_dispatcher_that_is_killed_has_told_the_next_one_when_a_call_was_removed() {
    let mut host = Host::with_patience(2);
    let call = Call::place(&host, "one");
    host.cut();
    let least = call.length()[0];
    host.proxy().hang_up("one").unwrap();
    let most = call.length()[1];
    host.restart_dispatcher();
    host.wait_for_log("media-relay", "conntrack timeout after 2 s");
    host.way.go_on();
    check(&host.record(), [least, most]);
}

/// As MediaProxy's, which keeps no ledger: the new one does not know the call when the proxy removes it.
#[test]
fn a_call_that_is_not_known_yet_is_removed_where_it_is_found() {
    let mut host = Host::new();
    let call = Call::place(&host, "one");
    host.cut();
    host.dispatcher = None;
    fs::remove_dir_all(host.scratch.path().join("state/accounting/calls")).unwrap();
    host.restart_dispatcher();
    let least = call.length()[0];
    host.proxy().hang_up("one").unwrap_err();
    let most = call.length()[1];
    call.last(most + Duration::from_millis(1200));
    host.way.go_on();
    check(&host.record(), [least, most]);
    assert!(host.log("media-dispatcher").contains("removed there now"));
}

/// Its link stays: the relay answers when it has long been given up.
#[test]
fn a_frozen_relay_adds_no_time_to_a_call() {
    let host = Host::new();
    let call = Call::place(&host, "one");
    daemons::signal(host.relay.pid(), "STOP").unwrap();
    let least = call.length()[0];
    host.proxy().hang_up("one").unwrap_err();
    // The dispatcher has waited for a second; so has the call's media.
    call.last(Duration::from_millis(1700));
    daemons::signal(host.relay.pid(), "CONT").unwrap();
    check(&host.record(), [least, least + Duration::from_millis(500)]);
}

/// The proxy may name a relay that is not there.
#[test]
fn a_wanted_relay_that_is_not_there_is_a_line_in_the_log() {
    let host = Host::new();
    let media = [Media::audio(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4000))];
    let offer = Message::offer("one", &media).update();
    let wanted = |address: &str| {
        let header = format!("media_relay: {address}\r\n");
        let answer = host
            .proxy()
            .ask(&offer.replace("media_relay: \r\n", &header));
        assert!(answer.unwrap().starts_with("127.0.0.1 "));
    };
    wanted("127.0.0.1");
    host.proxy().hang_up("one").unwrap();
    assert!(!host.log("media-dispatcher").contains("media_relay"));
    wanted("192.0.2.77");
    let line = "[session one] media_relay 192.0.2.77 is not connected: another relay is asked";
    host.wait_for_log("media-dispatcher", line);
}
