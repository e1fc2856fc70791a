//! `media-admin doctor` where everything is installed and no call works: daemons that are stopped, a relay without room, a
//! socket that is not for the SIP proxy, an address that nobody reaches. And that its own looks leave no alarm in the logs.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::support::daemons::{self, make_certificates, signal, write_config};
use crate::support::doctor::{chmod, doctor, found, program_on_host, run};
use crate::support::ports::PortRange;
use crate::support::programs::is_root;
use crate::support::scratch::Scratch;
use crate::support::site::{self, Call, LONG, STEP, Site};
use crate::support::skip;
use serde_json::Value;

fn log(directory: &Path, daemon: &str) -> String {
    fs::read_to_string(directory.join(format!("{daemon}.log"))).unwrap()
}

/// Waits until a log has this, and says how often.
fn logged(directory: &Path, daemon: &str, part: &str) -> usize {
    let mut waited = std::time::Duration::ZERO;
    loop {
        let text = log(directory, daemon);
        if text.contains(part) {
            return text.matches(part).count();
        }
        assert!(waited < LONG, "never {part:?}: {text}");
        thread::sleep(STEP);
        waited += STEP;
    }
}

/// A configuration with another line for a key.
fn with_key(config: &str, key: &str, value: &str) -> String {
    let set = config.lines().map(|line| match line.split_once(" = ") {
        Some((name, _)) if name == key => format!("{key} = {value}\n"),
        _ => format!("{line}\n"),
    });
    set.collect()
}

#[test]
fn a_relay_without_ports_is_told_of_everywhere() {
    let range = PortRange::find(200).unwrap();
    let ports = format!("{}:{}", range.start, range.start + 8);
    let site = Site::with("admin-full", |config| {
        with_key(&config, "port_range", &ports)
    });
    let directory = site.scratch.path();
    logged(directory, "media-relay", "room for 2 streams");
    let summary = || -> Value {
        let text = site.prints(&["summary", "--json"]);
        serde_json::from_str(text.trim()).unwrap()
    };
    let empty = summary();
    let room = |summary: &Value| {
        ["streams_left", "streams_fit", "refused_for_ports"].map(|key| summary[key].as_u64())
    };
    assert_eq!(room(&empty), [Some(2), Some(2), Some(0)]);
    let (findings, _) = doctor(directory);
    let streams = found(&findings, "relay", "streams", "ok");
    assert_eq!(streams, "2 of 2 that fit are left");
    let _calls = ["one", "two"].map(|call_id| Call::place(&site, call_id).unwrap());
    for call_id in ["three", "four"] {
        assert!(Call::place(&site, call_id).is_err(), "no room");
    }
    assert_eq!(room(&summary()), [Some(0), Some(2), Some(2)]);
    let table = site.prints(&["summary"]);
    assert!(table.contains("full"), "{table}");
    let want = "it refuses calls for want of ports: 0 of 2 streams are left there";
    assert_eq!(
        logged(directory, "media-dispatcher", want),
        1,
        "once a minute"
    );
    let (findings, status) = doctor(directory);
    assert_eq!(status, Some(1));
    for (area, subject) in [("relay", "streams"), ("dispatcher", "relay")] {
        let text = found(&findings, area, subject, "problem");
        assert!(
            text.contains("port_range") && text.contains("add a relay"),
            "{text}"
        );
    }
}

#[test]
fn daemons_that_are_stopped_are_told_from_those_that_run() {
    let site = Site::with("admin-stopped", |config| {
        config.replace("[Dispatcher]\n", "[Dispatcher]\nrelay_timeout = 1\n")
    });
    let directory = site.scratch.path();
    let (relay, dispatcher) = (site.daemons().relay.pid(), site.daemons().dispatcher.pid());
    signal(relay, "STOP").unwrap();
    let (findings, status) = doctor(directory);
    signal(relay, "CONT").unwrap();
    assert_eq!(status, Some(1));
    let daemon = found(&findings, "relay", "daemon", "problem");
    assert!(daemon.contains(&format!("kill -CONT {relay}")), "{daemon}");
    let silent = found(&findings, "dispatcher", "relay", "problem");
    assert!(
        silent.contains("is connected and does not answer"),
        "{silent}"
    );
    site.prints_at_last(&["summary"], "active");
    signal(dispatcher, "STOP").unwrap();
    let (findings, status) = doctor(directory);
    signal(dispatcher, "CONT").unwrap();
    assert_eq!(status, Some(1));
    let daemon = found(&findings, "dispatcher", "daemon", "problem");
    assert!(
        daemon.contains(&format!("kill -CONT {dispatcher}")),
        "{daemon}"
    );
}

/// A user of this name and number on the host that a command will see.
fn add_user(scratch: &Path, name: &str, number: u32) {
    for (file, line) in [
        (
            "passwd",
            format!("{name}:x:{number}:{number}::/:/usr/sbin/nologin"),
        ),
        ("group", format!("{name}:x:{number}:")),
    ] {
        let file = OpenOptions::new().append(true).open(scratch.join(file));
        writeln!(file.unwrap(), "\n{line}").unwrap();
    }
}

#[test]
fn a_socket_that_is_not_for_the_proxy_is_a_problem() {
    const OURS: &str = "mediaproxy:x:64123:64123::/nonexistent:/usr/sbin/nologin";
    const PROXY: u32 = 64_200;
    if !is_root() {
        return skip::skip("needs root");
    }
    let mut site = Site::new("admin-group");
    let directory = site.scratch.path().to_owned();
    let look = || {
        let mut command = program_on_host(&directory, OURS);
        add_user(&directory, "kamailio", PROXY);
        run(&mut command, &directory)
    };
    let told = |verdict: &str| found(&look().0, "dispatcher", "socket_group", verdict);
    // As it is.
    let socket = directory.join("run/dispatcher.sock");
    for way in [&directory, &directory.join("run")] {
        chmod(way, 0o755);
    }
    chown(&socket, None, Some(0)).unwrap();
    let refused = told("problem");
    let want = "usermod -aG kamailio root && systemctl restart mediaproxy-dispatcher";
    assert!(
        refused.contains("Permission denied") && refused.ends_with(want),
        "{refused}"
    );
    chown(&socket, None, Some(PROXY)).unwrap();
    assert!(told("ok").ends_with("lets kamailio in"));
    chmod(&socket, 0o600);
    assert!(told("problem").contains("set socket_mode = 0660"));
    chmod(&socket, 0o660);
    chmod(&directory.join("run"), 0o700);
    let way = told("problem");
    assert!(
        way.ends_with(&format!("chmod o+x {}", directory.join("run").display())),
        "{way}"
    );
    chmod(&directory.join("run"), 0o755);
    fs::remove_file(&socket).unwrap();
    assert!(told("problem").contains("although media-dispatcher runs"));
    // As it will be.
    site.daemons.take().unwrap().stop().unwrap();
    let (findings, status) = look();
    assert_eq!(status, Some(1));
    let text = found(&findings, "dispatcher", "socket_group", "problem");
    let want = "usermod -aG kamailio mediaproxy && systemctl restart mediaproxy-dispatcher";
    assert!(
        text.contains("mediaproxy is not in that group") && text.ends_with(want),
        "{text}"
    );
}

#[test]
fn an_address_that_nobody_reaches_is_a_problem_and_a_warning_at_the_start() {
    let scratch = Scratch::new("admin-cloud").unwrap();
    let directory = scratch.path();
    make_certificates(directory).unwrap();
    write_config(directory, PortRange::find(200).unwrap()).unwrap();
    let path = directory.join("config.ini");
    // Nobody has that address, and who tries is told at once.
    let elsewhere = with_key(
        &fs::read_to_string(&path).unwrap(),
        "dispatchers",
        "255.255.255.255",
    );
    fs::write(&path, &elsewhere).unwrap();
    let (findings, status) = doctor(directory);
    assert_eq!(status, Some(1));
    let text = found(&findings, "relay", "relay_ip", "problem");
    assert!(text.contains("set [Relay] relay_ip"), "{text}");
    let unreached = found(&findings, "relay", "dispatcher", "problem");
    assert!(unreached.contains("cannot be reached"), "{unreached}");
    let said = |config: &str| {
        fs::write(&path, config).unwrap();
        let relay = daemons::Daemon::start(site::binaries(), "media-relay", directory).unwrap();
        logged(directory, "media-relay", "no connection");
        relay.stop().unwrap();
        log(directory, "media-relay")
            .matches("WARNING relay_ip: parties are told 127.0.0.1")
            .count()
    };
    assert_eq!(said(&elsewhere), 1);
    let told = elsewhere.replace(
        "relay_ip = 127.0.0.1",
        "relay_ip = 127.0.0.1\nadvertised_ip = 127.0.0.1",
    );
    assert_eq!(said(&told), 0, "that is what the administrator wants");
    let (findings, _) = doctor(directory);
    found(&findings, "relay", "relay_ip", "ok");
    assert!(!format!("{findings:?}").contains("parties are told"));
}

#[test]
fn looking_leaves_no_alarm_in_the_logs() {
    let mut site = Site::new("admin-quiet");
    let directory = site.scratch.path().to_owned();
    let before = ["media-dispatcher", "media-relay"].map(|daemon| log(&directory, daemon).len());
    doctor(&directory);
    // Without the relay's own link it tries its certificate.
    let daemons = site.daemons.take().unwrap();
    daemons.relay.stop().unwrap();
    doctor(&directory);
    let output = Command::new(site::ADMIN)
        .arg("--socket")
        .arg(directory.join("run/management.sock"))
        .arg("version")
        .output();
    assert!(output.unwrap().status.success());
    daemons.dispatcher.stop().unwrap();
    for (daemon, start) in ["media-dispatcher", "media-relay"].into_iter().zip(before) {
        let text = log(&directory, daemon);
        let new = &text[start..];
        println!("{new}");
        let alarms = |line: &&str| {
            [
                "WARNING",
                "ERROR",
                "no connection",
                "error",
                "an unused link",
            ]
            .iter()
            .any(|word| line.contains(word))
        };
        // That the relay went is one.
        let alarms: Vec<&str> = new
            .lines()
            .filter(alarms)
            .filter(|line| !line.contains(": down: "))
            .collect();
        assert_eq!(alarms, [""; 0]);
    }
}

#[test]
fn a_dispatchers_certificate_beside_a_relays_keys_is_no_dispatcher_that_is_down() {
    let scratch = Scratch::new("admin-copied").unwrap();
    let directory = scratch.path();
    make_certificates(directory).unwrap();
    write_config(directory, PortRange::find(200).unwrap()).unwrap();
    let path = directory.join("config.ini");
    let text = fs::read_to_string(&path).unwrap();
    let daemon = |verdict: &str| found(&doctor(directory).0, "dispatcher", "daemon", verdict);
    assert!(daemon("problem").contains("systemctl start mediaproxy-dispatcher"));
    fs::write(&path, text.split("[Dispatcher]").next().unwrap()).unwrap();
    assert!(daemon("warning").contains("only came with the relay's"));
}
