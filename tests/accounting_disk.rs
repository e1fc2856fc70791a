//! The disk of `state_dir` is full: calls end as ever, nothing of them is lost, and the log says what is wrong. Both
//! daemons, on a small file system in a mount namespace of the test's own; root only.

#![cfg(feature = "file")]

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use mediaproxy::sys::clock;

#[path = "support/daemons.rs"]
mod daemons;
#[path = "support/management.rs"]
mod management;
#[path = "support/proxy.rs"]
mod proxy;

use daemons::{Daemon, Daemons, PortRange};
use proxy::Proxy;

const INNER: &str = "MEDIAPROXY_TEST_OWN_MOUNTS";
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_full_disk_loses_no_call() {
    if std::env::var_os(INNER).is_some() {
        return in_own_mounts();
    }
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    if !is_root {
        let _ = writeln!(
            std::io::stderr(),
            "SKIP: accounting on a full disk: needs root"
        );
        return;
    }
    let inner = Command::new("unshare")
        .args(["-m", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["a_full_disk_loses_no_call", "--exact", "--nocapture"])
        .env(INNER, "yes")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&inner.stdout).into_owned();
    let errors = String::from_utf8_lossy(&inner.stderr).into_owned();
    assert!(inner.status.success(), "{told}{errors}");
}

fn in_own_mounts() {
    let scratch = daemons::Scratch::new("mediaproxy-disk").unwrap();
    let directory = scratch.path();
    daemons::make_certificates(directory).unwrap();
    daemons::write_config(directory, PortRange::find(200).unwrap()).unwrap();
    let lines = directory.join("calls.jsonl");
    let text = format!("accounting = file\n[File]\npath = {}\n", lines.display());
    daemons::extend_config(directory, &text).unwrap();
    let state = directory.join("state");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "none"])
        .arg(&state)
        .status();
    assert!(mounted.unwrap().success());

    let binaries = Path::new(env!("CARGO_BIN_EXE_media-dispatcher"))
        .parent()
        .unwrap();
    let Daemons {
        dispatcher, relay, ..
    } = Daemons::start(binaries, directory).unwrap();
    call(directory, "before");
    wait("the first call", || recorded(&lines) == ["before"]);
    let ballast = state.join("ballast");
    let full = fs::write(&ballast, vec![0u8; 1 << 20]);
    assert!(full.is_err(), "the disk is full");
    for number in 0..20 {
        call(directory, &format!("full-{number}"));
    }
    let log = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    wait("the log", || {
        log("media-dispatcher.log").contains("the journal refuses records")
    });
    assert!(log("media-dispatcher.log").contains("No space left on device"));
    assert!(log("media-relay.log").contains("ended calls cannot be kept on disk"));
    assert!(recorded(&lines).len() < 21);
    fs::remove_file(&ballast).unwrap();
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

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = clock::mono() + PATIENCE;
    while !is_so() {
        assert!(clock::mono() < end, "{what}: waited in vain");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Call-ids in the file of accounting.
fn recorded(lines: &Path) -> Vec<String> {
    let text = fs::read_to_string(lines).unwrap_or_default();
    let call_id = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        record["call_id"].as_str().unwrap().to_owned()
    };
    text.lines().map(call_id).collect()
}

/// A call that is answered and ended; the proxy has to be answered as ever.
fn call(directory: &Path, call_id: &str) {
    let mut proxy = Proxy::connect(&directory.join("run/dispatcher.sock")).unwrap();
    let ends = [4000, 4002].map(|port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    proxy.place(call_id, ends).unwrap();
    proxy.hang_up(call_id).unwrap();
}
