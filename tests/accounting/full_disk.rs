//! The disk of `state_dir` is full: calls end as ever, nothing of them is lost, and the log says what is wrong. Both
//! daemons, on a small file system in a mount namespace of the test's own; root only.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use mediaproxy::sys::clock;

use crate::support::daemons::{self, Daemon, Daemons};
use crate::support::host_restart;
use crate::support::inner::{assert_has_passed, this_program};
use crate::support::ports::PortRange;
use crate::support::programs::is_root;
use crate::support::proxy::Proxy;
use crate::support::scratch::Scratch;
use crate::support::skip;

const INNER: &str = "MEDIAPROXY_TEST_OWN_MOUNTS";
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_full_disk_loses_no_call() {
    in_own_mounts("a_full_disk_loses_no_call", calls_on_a_full_disk);
}

#[test]
fn a_relay_killed_on_a_full_disk_tells_what_it_could_keep() {
    in_own_mounts(
        "a_relay_killed_on_a_full_disk_tells_what_it_could_keep",
        || {
            for is_dispatcher_killed in [true, false] {
                calls_of_a_killed_relay(is_dispatcher_killed);
            }
        },
    );
}

/// Runs it in another process that has these mounts for itself, so that they end with it, and its ports: the tests of this
/// process cannot know them.
fn in_own_mounts(test: &str, run: impl FnOnce()) {
    if std::env::var_os(INNER).is_some() {
        return run();
    }
    if !is_root() {
        skip::skip("needs root");
        return;
    }
    let (program, arguments) = this_program(module_path!(), test);
    let inner = Command::new("unshare")
        .args(["-m", "-n", "--propagation", "private"])
        .args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(program)
        .args(arguments)
        .env(INNER, "yes")
        .output()
        .unwrap();
    assert_has_passed(&inner);
}

fn mount(path: &Path) {
    fs::create_dir_all(path).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "none"])
        .arg(path)
        .status();
    assert!(mounted.unwrap().success());
}

/// Takes all room on a disk.
fn fill(disk: &Path) {
    let full = fs::write(disk.join("ballast"), vec![0u8; 1 << 20]);
    assert!(full.is_err(), "the disk is full");
}

fn free(disk: &Path) {
    fs::remove_file(disk.join("ballast")).unwrap();
}

/// Writes what both daemons need; accounts to the file whose path it returns.
fn configure(directory: &Path, more: &str) -> PathBuf {
    daemons::make_certificates(directory).unwrap();
    daemons::write_config(directory, PortRange::find(200).unwrap()).unwrap();
    let lines = directory.join("calls.jsonl");
    let path = lines.display();
    let text = format!("accounting = file\n{more}[File]\npath = {path}\n");
    daemons::extend_config(directory, &text).unwrap();
    lines
}

fn calls_on_a_full_disk() {
    let scratch = Scratch::new("mediaproxy-disk").unwrap();
    let directory = scratch.path();
    let lines = configure(directory, "");
    let state = directory.join("state");
    mount(&state);

    let binaries = Path::new(env!("CARGO_BIN_EXE_media-dispatcher"))
        .parent()
        .unwrap();
    let Daemons {
        dispatcher, relay, ..
    } = Daemons::start(binaries, directory).unwrap();
    call(directory, "before");
    wait("the first call", || recorded(&lines) == ["before"]);
    fill(&state);
    for number in 0..20 {
        call(directory, &format!("full-{number}"));
    }
    let log = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    wait("the log", || {
        log("media-dispatcher.log").contains("the journal refuses records")
    });
    assert!(log("media-dispatcher.log").contains("No space left on device"));
    // Written by another thread than the one that answers.
    wait("the relay's log", || {
        log("media-relay.log").contains("ended calls cannot be kept on disk")
    });
    assert!(recorded(&lines).len() < 21);
    free(&state);
    call(directory, "after");
    wait("the call after it", || {
        recorded(&lines).contains(&"after".to_owned())
    });
    // On its next link at the latest the relay tells of those that were not confirmed.
    dispatcher.stop().unwrap();
    let dispatcher = Daemon::start(binaries, "media-dispatcher", directory).unwrap();
    wait("all calls", || recorded(&lines).len() == 22);
    let mut names = recorded(&lines);
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 22, "each once");
    relay.stop().unwrap();
    dispatcher.stop().unwrap();
    // What was mounted goes with the namespace; the directory has to be empty before.
    let _ = Command::new("umount").arg(&state).status();
}

/// Of the calls that end while the dispatcher can confirm none of them, the relay keeps the first ones on its disk, and
/// for the others there is no room. It is killed, with the dispatcher or without.
fn calls_of_a_killed_relay(is_dispatcher_killed: bool) {
    let scratch = Scratch::new("mediaproxy-disk").unwrap();
    let directory = scratch.path();
    let lines = configure(directory, "cleanup_dead_relays_after = 5\n");
    let (ours, relays) = (directory.join("state"), directory.join("relay-state"));
    // The section of the relay comes first.
    let config = directory.join("config.ini");
    let text = fs::read_to_string(&config).unwrap();
    let own = format!("state_dir = {}\n", relays.display());
    let text = text.replacen(&format!("state_dir = {}\n", ours.display()), &own, 1);
    fs::write(&config, text).unwrap();
    mount(&ours);
    mount(&relays);

    let binaries = Path::new(env!("CARGO_BIN_EXE_media-dispatcher"))
        .parent()
        .unwrap();
    let Daemons {
        mut dispatcher,
        mut relay,
        ..
    } = Daemons::start(binaries, directory).unwrap();
    let log = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    let names = |kind: &str| (0..20).map(|n| format!("{kind}-{n}")).collect::<Vec<_>>();
    let (kept, lost) = (names("kept"), names("lost"));
    for call_id in kept.iter().chain(&lost) {
        place(directory, call_id);
    }
    fill(&ours);
    kept.iter().for_each(|call_id| hang_up(directory, call_id));
    wait("the relay's disk to have them", || {
        let on_disk = journals(&relays);
        kept.iter()
            .all(|call_id| on_disk.contains(&format!("\"{call_id}\"")))
    });
    fill(&relays);
    lost.iter().for_each(|call_id| hang_up(directory, call_id));
    wait("the relay's log", || {
        log("media-relay.log").contains("ended calls cannot be kept on disk: ")
    });
    // Killed before it is looked at: it writes until the last moment.
    daemons::signal(relay.pid(), "KILL").unwrap();
    drop(relay);
    let on_disk = journals(&relays);
    let (kept, lost): (Vec<String>, Vec<String>) = [kept, lost]
        .concat()
        .into_iter()
        .partition(|call_id| on_disk.contains(&format!("\"{call_id}\"")));
    assert!(lost.len() > 10, "there was room for all but {lost:?}");
    assert!(recorded(&lines).is_empty());

    // Killed before its disk has room again: it would write what it has in memory.
    if is_dispatcher_killed {
        daemons::signal(dispatcher.pid(), "KILL").unwrap();
    }
    free(&relays);
    free(&ours);
    if is_dispatcher_killed {
        drop(dispatcher);
        dispatcher = Daemon::start(binaries, "media-dispatcher", directory).unwrap();
    }
    // It would take over one whose end was not noted yet.
    host_restart::forget_calls(directory).unwrap();
    relay = Daemon::start(binaries, "media-relay", directory).unwrap();
    wait("all calls", || {
        recorded(&lines).len() >= kept.len() + lost.len()
    });
    dispatcher.stop().unwrap();
    relay.stop().unwrap();
    let text = fs::read_to_string(&lines).unwrap();
    let mut told: Vec<(String, bool)> = text.lines().map(call_and_loss).collect();
    told.sort_unstable();
    let all = kept.into_iter().map(|call_id| (call_id, false));
    let mut all: Vec<_> = all
        .chain(lost.into_iter().map(|c| (c, is_dispatcher_killed)))
        .collect();
    all.sort_unstable();
    assert_eq!(told, all, "each once, with what anybody could keep of it");
    for disk in [ours, relays] {
        let _ = Command::new("umount").arg(disk).status();
    }
}

/// The text of all journals of a relay, without what was cut off while it was written.
fn journals(state: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(state).unwrap() {
        let directory = entry.unwrap().path();
        if !directory.is_dir() {
            continue;
        }
        for journal in fs::read_dir(directory).unwrap() {
            // A temporary one may have got its name meanwhile: the next look finds it.
            let bytes = fs::read(journal.unwrap().path()).unwrap_or_default();
            let whole = bytes.iter().rposition(|&byte| byte == b'\n');
            let whole = &bytes[..whole.map_or(0, |end| end + 1)];
            text += &String::from_utf8_lossy(whole);
        }
    }
    text
}

/// The call-id of a record, and whether its relay was lost.
fn call_and_loss(line: &str) -> (String, bool) {
    let record: serde_json::Value = serde_json::from_str(line).unwrap();
    let call_id = record["call_id"].as_str().unwrap().to_owned();
    (call_id, record["relay_lost"] == true)
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = clock::moment() + PATIENCE;
    while !is_so() {
        assert!(clock::moment() < end, "{what}: waited in vain");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Call-ids in the file of accounting.
fn recorded(lines: &Path) -> Vec<String> {
    let text = fs::read_to_string(lines).unwrap_or_default();
    text.lines().map(|line| call_and_loss(line).0).collect()
}

/// A call that is answered and ended; the proxy has to be answered as ever.
fn call(directory: &Path, call_id: &str) {
    place(directory, call_id);
    hang_up(directory, call_id);
}

fn proxy(directory: &Path) -> Proxy {
    Proxy::connect(&directory.join("run/dispatcher.sock")).unwrap()
}

fn place(directory: &Path, call_id: &str) {
    let ends = [4000, 4002].map(|port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    proxy(directory).place(call_id, ends).unwrap();
}

fn hang_up(directory: &Path, call_id: &str) {
    proxy(directory).hang_up(call_id).unwrap();
}
