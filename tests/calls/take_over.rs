//! A relay takes over the calls of the one before it: after a crash, after a hand-over, and where that cannot be. Media in user
//! space; what the kernel forwards is in `src/relay/kernel/conntrack/tests/` and the lab.

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::relay_bed::*;
use crate::support::relay_process::{Daemon, Site};
use crate::support::shape;
use crate::support::small_disk::SmallDisk;

/// Bytes of a packet on the wire.
const ON_WIRE: u64 = 28 + 172;

/// A call that is up, what each party has sent, and where it sends that to.
struct Call {
    id: String,
    caller: Party,
    callee: Party,
    /// The relay's ports for the callee's media and the caller's.
    ports: [u16; 2],
    sent: [u64; 2],
}

impl Call {
    /// Answered; both parties have been heard.
    fn place(link: &mut FakeLink, id: &str) -> Call {
        let mut call = Call::offered(link, id);
        call.answer(link);
        call.talk(2);
        call
    }

    fn offered(link: &mut FakeLink, id: &str) -> Call {
        let (caller, callee) = (Party::new(), Party::new());
        let ports = offer(id, &caller.audio()).ports(link);
        Call {
            id: id.to_owned(),
            caller,
            callee,
            ports: [ports[0], 0],
            sent: [0; 2],
        }
    }

    fn answer(&mut self, link: &mut FakeLink) {
        let ports = answer(&self.id, &self.callee.audio()).ports(link);
        self.ports[1] = ports[0];
    }

    /// Each sends so many packets, RTP and RTCP, and each must arrive before the next is sent.
    fn talk(&mut self, packets: u16) {
        for number in 0..packets {
            self.speak(number);
            for (from, to, port) in [
                (&self.caller.rtcp, &self.callee.rtcp, self.ports[1]),
                (&self.callee.rtcp, &self.caller.rtcp, self.ports[0]),
            ] {
                send(from, port + 1, &rtcp());
                assert_eq!(receive(to).0, rtcp());
            }
            self.sent = self.sent.map(|sent| sent + 1);
        }
    }

    fn speak(&mut self, number: u16) {
        for (from, to, port) in [
            (&self.caller.rtp, &self.callee.rtp, self.ports[1]),
            (&self.callee.rtp, &self.caller.rtp, self.ports[0]),
        ] {
            send(from, port, &rtp(8, number));
            assert_eq!(receive(to).0, rtp(8, number), "{}", self.id);
        }
        self.sent = self.sent.map(|sent| sent + 1);
    }

    /// The statistics count what was sent, to the packet.
    fn check(&self, statistics: &Value) {
        shape::ended(statistics);
        assert_eq!(statistics["call_id"], self.id);
        let stream = &statistics["streams"][0];
        let packets = ["caller_packets", "callee_packets"].map(|key| stream[key].as_u64().unwrap());
        assert_eq!(packets, self.sent, "{statistics}");
    }
}

fn site() -> Site {
    Site::new("stream_timeout = 60\nstate_dir = state\nlog_level = DEBUG")
}

/// Where the state of calls is.
fn state(site: &Site) -> PathBuf {
    let relay = site.runtime_dir().join(format!("relay-{}", site.ports().0));
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    relay.join(boot.trim_end())
}

/// Waits until the state of these calls, and of no other, is on disk, and is the latest.
fn wait_saved(site: &Site, calls: usize) {
    let read = || {
        let files = fs::read_dir(state(site)).unwrap().flatten();
        let journals = files.filter(|file| file.path().extension().is_some());
        let texts = journals.map(|file| fs::read_to_string(file.path()).unwrap());
        texts.collect::<String>()
    };
    let mut last = None;
    wait_until("the state of all calls is on disk", || {
        let text = read();
        let ids = text.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            words
                .next()
                .filter(|word| *word == "session")
                .and(words.next())
        });
        let ids: std::collections::HashSet<&str> = ids.collect();
        let is_over = |id: &&&str| text.contains(&format!("over {id}"));
        let live = ids.len() - ids.iter().filter(is_over).count();
        // What changed when the last packet came is written some milliseconds later.
        let is_quiet = last.as_ref() == Some(&text);
        last = Some(text.clone());
        std::thread::sleep(std::time::Duration::from_millis(15));
        live == calls && is_quiet
    });
}

fn kill(mut daemon: Daemon) {
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
}

fn listed(link: &mut FakeLink) -> Vec<Value> {
    let all = link.json("sessions");
    all.as_array().unwrap().clone()
}

fn session_ids(link: &mut FakeLink) -> Vec<String> {
    let id = |session: &Value| session["session_id"].as_str().unwrap().to_owned();
    let mut ids: Vec<String> = listed(link).iter().map(id).collect();
    ids.sort();
    ids
}

/// What was up goes on: ports, parties, counters, an offer that is not answered yet, a hold; and it is the same session for the
/// dispatcher.
fn goes_on(end: impl Fn(Daemon)) {
    let site = site();
    let mut daemon = site.start();
    let mut link = site.dispatcher.link();
    let mut calls: Vec<Call> = (0..3)
        .map(|number| Call::place(&mut link, &format!("call-{number}")))
        .collect();
    let mut offered = Call::offered(&mut link, "offered");
    let removed = Call::place(&mut link, "removed");
    removed.check(&remove(&mut link, "removed"));
    let ids = session_ids(&mut link);
    for _ in 0..3 {
        calls.iter_mut().for_each(|call| call.talk(5));
        wait_saved(&site, 4);
        drop(link);
        end(daemon);
        daemon = site.start();
        link = site.dispatcher.link();
        daemon.says("took over 4 calls in ");
        assert_eq!(session_ids(&mut link), ids);
        for call in &listed(&mut link) {
            let adopted = call["adopted"].as_u64().expect("when it was adopted");
            assert!(adopted > 1_600_000_000, "{adopted}");
        }
        calls.iter_mut().for_each(|call| call.talk(5));
    }
    offered.answer(&mut link);
    offered.talk(3);
    calls.push(offered);
    let mut new = Call::place(&mut link, "new");
    new.talk(1);
    calls.push(new);
    for call in &calls {
        call.check(&remove(&mut link, &call.id));
    }
    assert_eq!(listed(&mut link), [] as [Value; 0]);
    assert_eq!(link.unasked, [] as [String; 0]);
    daemon.signal("-TERM");
    while link.next_line().is_some() {}
    drop(link);
    assert_eq!(daemon.ends(), Some(0));
    assert!(!state(&site).exists());
}

#[test]
fn a_relay_that_was_killed() {
    goes_on(kill);
}

#[test]
fn a_relay_that_has_handed_over() {
    goes_on(|mut daemon| {
        daemon.signal("-QUIT");
        daemon.says("hands over 4 calls: a relay that starts within 60 s takes them over");
        assert_eq!(daemon.ends(), Some(0));
    });
}

/// What comes in while it hands over is for the next one: the dispatcher asks again.
#[test]
fn nothing_is_answered_after_the_calls_were_saved() {
    let site = site();
    let mut daemon = site.start();
    let mut link = site.dispatcher.link();
    let call = Call::place(&mut link, "one");
    daemon.signal("-QUIT");
    daemon.says("hands over 1 call");
    // Refused nowhere, answered by the next one.
    let mut ended = Vec::new();
    while let Some(line) = link.next_line() {
        ended.push(line);
    }
    let is_no_answer = |line: &String| line == "ping" || line == "leaving 60";
    assert!(ended.iter().all(is_no_answer), "{ended:?}");
    drop(link);
    assert_eq!(daemon.ends(), Some(0));
    let _next = site.start();
    let mut link = site.dispatcher.link();
    call.check(&remove(&mut link, "one"));
}

/// The kernel has stopped forwarding meanwhile: the calls are over, and told with all that was counted.
#[test]
fn nobody_came_in_time() {
    let site = Site::new("adopt_within = 1\nstate_dir = state");
    let mut daemon = site.start();
    let mut link = site.dispatcher.link();
    let mut call = Call::place(&mut link, "one");
    call.talk(7);
    daemon.signal("-QUIT");
    while link.next_line().is_some() {}
    drop(link);
    assert_eq!(daemon.ends(), Some(0));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let mut next = site.start();
    let mut link = site.dispatcher.link();
    call.check(&link.expired());
    next.says("1 call handed over to a relay that was to start within 1 s: too late");
    assert_eq!(listed(&mut link), [] as [Value; 0]);
    drop(link);
    wait_saved(&site, 0);
    kill(next);
    let _third = site.start();
    let mut link = site.dispatcher.link();
    assert_eq!(listed(&mut link), [] as [Value; 0]);
    assert_eq!(link.unasked, [] as [String; 0]);
}

#[test]
fn nothing_is_handed_over_where_that_is_not_wanted() {
    let site = Site::new("adopt_within = 0");
    let mut daemon = site.start();
    let mut link = site.dispatcher.link();
    let call = Call::place(&mut link, "one");
    daemon.signal("-QUIT");
    call.check(&link.expired());
    while link.next_line().is_some() {}
    drop(link);
    assert_eq!(daemon.ends(), Some(0));
    assert!(!state(&site).exists());
}

/// The others go on; the one whose ports somebody has taken is told as expired, with what was counted.
#[test]
fn a_port_that_is_taken_ends_its_call_alone() {
    let site = site();
    let daemon = site.start();
    let mut link = site.dispatcher.link();
    let mut calls = ["one", "two"].map(|id| Call::place(&mut link, id));
    calls.iter_mut().for_each(|call| call.talk(4));
    wait_saved(&site, 2);
    drop(link);
    kill(daemon);
    let taken = UdpSocket::bind((relay_ip(), calls[0].ports[0] + 1)).unwrap();
    let mut next = site.start();
    let mut link = site.dispatcher.link();
    calls[0].check(&link.expired());
    next.says("took over 1 call (1 could not be) in ");
    calls[1].talk(4);
    calls[1].check(&remove(&mut link, "two"));
    assert_eq!(
        link.ask("remove", &[("call_id", "one"), ("from_tag", "from")]),
        "error"
    );
    drop(taken);
}

/// A relay whose calls no disk takes relays all the same, and is taken over from once there is room.
#[test]
fn a_disk_that_is_full() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let site = site();
    let run = site.runtime_dir();
    std::os::unix::fs::symlink(disk.path(), &run).unwrap();
    let mut daemon = site.start();
    let mut link = site.dispatcher.link();
    let mut first = Call::place(&mut link, "first");
    wait_saved(&site, 1);
    let filled = fs::write(run.join("ballast"), vec![1; 1 << 20]);
    assert!(filled.is_err());
    let mut calls: Vec<Call> = (0..4)
        .map(|number| Call::place(&mut link, &format!("call-{number}")))
        .collect();
    daemon.says("the state of calls cannot be written: ");
    remove(&mut link, "call-3");
    calls.pop();
    first.talk(3);
    fs::remove_file(run.join("ballast")).unwrap();
    disk.enlarge();
    daemon.says("the state of all calls is on disk again");
    wait_saved(&site, 4);
    drop(link);
    kill(daemon);
    let mut next = site.start();
    let mut link = site.dispatcher.link();
    next.says("took over 4 calls in ");
    calls.push(first);
    for mut call in calls {
        call.talk(2);
        call.check(&remove(&mut link, &call.id));
    }
    drop(link);
    next.signal("-TERM");
    next.ends();
}

/// A call that ended just before the crash may be told once more, and never goes on.
#[test]
fn a_call_whose_end_was_not_saved() {
    let site = site();
    let daemon = site.start();
    let mut link = site.dispatcher.link();
    let mut calls = ["one", "two"].map(|id| Call::place(&mut link, id));
    calls.iter_mut().for_each(|call| call.talk(4));
    wait_saved(&site, 2);
    let before: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(state(&site))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    calls[0].check(&remove(&mut link, "one"));
    let third = Call::place(&mut link, "three");
    drop(link);
    kill(daemon);
    // As if that had been within the last milliseconds.
    for (path, bytes) in before {
        fs::write(path, bytes).unwrap();
    }
    let _next = site.start();
    let mut link = site.dispatcher.link();
    calls[0].check(&link.expired());
    let left = listed(&mut link);
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["call_id"], "two");
    calls[1].talk(2);
    calls[1].check(&remove(&mut link, "two"));
    drop(third);
}

/// What an earlier process was told to do and what a later one counts add up.
#[test]
fn bytes_add_up() {
    let site = site();
    let daemon = site.start();
    let mut link = site.dispatcher.link();
    let mut call = Call::place(&mut link, "one");
    wait_saved(&site, 1);
    (0..9).for_each(|number| call.speak(number));
    drop(link);
    kill(daemon);
    let _next = site.start();
    let mut link = site.dispatcher.link();
    (9..20).for_each(|number| call.speak(number));
    let statistics = remove(&mut link, "one");
    call.check(&statistics);
    let reports = 2 * (28 + rtcp().len() as u64);
    let bytes = statistics["streams"][0]["caller_bytes"].as_u64();
    assert_eq!(bytes, Some(22 * ON_WIRE + reports), "{statistics}");
}
