//! `media-relay` as a process: its start, its signals, its end.

use std::fs;
use std::process::Command;

use crate::support::certs::Certs;
use crate::support::relay_bed::*;
use crate::support::relay_process::{PROGRAM, Site, signal};
use crate::support::skip;

const MEDIA: &str = "audio:127.0.0.1:4000:sendrecv:ice=no";

/// The call-ids of the `expired` lines up to the end of the link.
fn expired_until_the_end(link: &mut FakeLink) -> Vec<String> {
    let mut ended = Vec::new();
    while let Some(line) = link.next_line() {
        if let Some(json) = line.strip_prefix("expired ") {
            let json: serde_json::Value = serde_json::from_str(json).unwrap();
            ended.push(json["call_id"].as_str().unwrap().to_owned());
        }
    }
    ended.sort();
    ended
}

#[test]
fn term_reports_every_call_and_ends_with_0() {
    for name in ["-TERM", "-INT"] {
        let site = Site::new("");
        let mut daemon = site.start();
        let mut link = site.dispatcher.link();
        for call_id in ["one", "two"] {
            offer(call_id, MEDIA).ports(&mut link);
        }
        daemon.signal(name);
        assert_eq!(expired_until_the_end(&mut link), ["one", "two"]);
        drop(link);
        assert_eq!(daemon.ends(), Some(0));
        daemon.says("has ended");
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut site = Site::new("");
    let mut daemon = site.start();
    let mut link = site.dispatcher.link();
    offer("one", MEDIA).ports(&mut link);
    // Nobody to report to: the end would wait for that.
    site.dispatcher.down();
    drop(link);
    daemon.says("lost");
    daemon.signal("-TERM");
    daemon.says("ending with 1 calls");
    daemon.signal("-TERM");
    daemon.says("second signal");
    assert_eq!(daemon.ends(), Some(0));
}

#[test]
fn hup_drains_and_ends_with_the_last_call() {
    let site = Site::new("");
    let mut daemon = site.start();
    let mut link = site.dispatcher.link();
    offer("old", MEDIA).ports(&mut link);
    daemon.signal("-HUP");
    daemon.says("no new calls");
    assert_eq!(offer("new", MEDIA).ask(&mut link), "halting");
    assert_eq!(link.json("summary")["status"], "halting");
    assert!(daemon.child.try_wait().unwrap().is_none());
    let statistics = remove(&mut link, "old");
    assert_eq!(statistics["call_id"], "old");
    assert!(expired_until_the_end(&mut link).is_empty());
    assert_eq!(daemon.ends(), Some(0));
}

#[test]
fn usr2_ends_with_the_last_call_and_takes_new_ones_until_then() {
    let site = Site::new("");
    let mut daemon = site.start();
    let mut link = site.dispatcher.link();
    offer("old", MEDIA).ports(&mut link);
    daemon.signal("-USR2");
    daemon.says("as soon as there is no call; at the moment there are 1");
    offer("new", MEDIA).ports(&mut link);
    assert_eq!(link.json("summary")["status"], "active");
    remove(&mut link, "old");
    offer("newer", MEDIA).ports(&mut link);
    remove(&mut link, "new");
    assert!(daemon.child.try_wait().unwrap().is_none());
    remove(&mut link, "newer");
    assert!(expired_until_the_end(&mut link).is_empty());
    assert_eq!(daemon.ends(), Some(0));

    // Without a call it ends at once.
    let mut daemon = site.start();
    drop(site.dispatcher.link());
    daemon.signal("-USR2");
    assert_eq!(daemon.ends(), Some(0));
}

#[test]
fn usr1_switches_debug_lines() {
    let site = Site::new("");
    let mut daemon = site.start();
    drop(site.dispatcher.link());
    daemon.says("lost");
    daemon.signal("-USR1");
    daemon.says("debug lines are on");
    daemon.signal("-USR1");
    daemon.says("debug lines are off");
}

#[test]
fn lines_about_a_call_carry_its_call_id() {
    let site = Site::new("");
    let mut daemon = site.start();
    let mut link = site.dispatcher.link();
    let (caller, callee) = (Party::new(), Party::new());
    offer("a@example", &caller.audio()).ports(&mut link);
    let ports = answer("a@example", &callee.audio()).ports(&mut link);
    send(&caller.rtp, ports[0], &rtp(8, 1));
    receive(&callee.rtp);
    remove(&mut link, "a@example");
    for text in ["request 1 of the caller", "RTP is at", "removed"] {
        let line = daemon.says(text);
        assert!(line.contains("[session a@example]"), "{line}");
    }
}

#[test]
fn the_configuration_is_checked_without_starting() {
    let site = Site::new("");
    let output = site.run(&["--check-config"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!site.runtime_dir().exists());
    let site = Site::new("stream_timeout = soon");
    let output = site.run(&["--check-config"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("config.ini:8: ") && text.contains("soon"),
        "{text}"
    );
}

#[test]
fn the_host_is_checked_without_starting() {
    let site = Site::forwarding("userspace");
    let output = site.run(&["--check"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for (subject, part) in [
        ("configuration", "config.ini"),
        ("certificates", "relay.crt, valid to"),
        ("relay_ip", &*relay_ip().to_string()),
        ("ports", "are free"),
        ("kernel", "not needed"),
        ("dispatcher", "accepts connections"),
    ] {
        let row = |line: &&str| line.split_whitespace().take(2).eq(["ok", subject]);
        let line = text
            .lines()
            .find(row)
            .unwrap_or_else(|| panic!("{subject}: {text}"));
        assert!(line.contains(part), "{line}");
    }
    let end = text.lines().last().unwrap();
    assert!(end.starts_with("no problems, "), "{end}");
    assert!(!site.runtime_dir().exists());

    fs::remove_file(site.certs.file("relay.key")).unwrap();
    let output = site.run(&["--check"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("PROBLEM"));
    assert!(line.unwrap().contains("relay.key"), "{text}");
}

/// What `--check` says in a network namespace of its own after these commands; none without root.
fn checked_alone(site: &Site, commands: &str) -> Option<(i32, String)> {
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "sh",
        "-ec",
        &format!("{commands} \"$@\""),
        "sh",
        PROGRAM,
    ]);
    command
        .args(["--check", "--config-dir"])
        .arg(site.certs.path());
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("unshare failed") {
        return None;
    }
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.is_empty(), "{errors}");
    Some((output.status.code().unwrap(), text))
}

#[test]
fn what_the_kernel_path_lacks_matters_as_much_as_it_is_wanted() {
    let off = "ip link set lo up; sysctl -qw net.ipv4.ip_forward=0;";
    let on = "ip link set lo up; sysctl -qw net.ipv4.ip_forward=1;";
    // Root without the one right that matters.
    let without_right = &format!("{on} setpriv --bounding-set=-net_admin --inh-caps=-net_admin");
    for (forwarding, commands, status, row, end) in [
        (
            "kernel",
            off,
            1,
            "PROBLEM  ip_forward ",
            "the relay will not start",
        ),
        (
            "auto",
            off,
            0,
            "warning  ip_forward ",
            "relayed in user space until",
        ),
        (
            "kernel",
            on,
            0,
            "ok       conntrack ",
            "the kernel can forward media",
        ),
        (
            "kernel",
            without_right,
            1,
            "PROBLEM  CAP_NET_ADMIN ",
            "the relay will not start",
        ),
    ] {
        let site = Site::forwarding(forwarding);
        let Some((code, text)) = checked_alone(&site, commands) else {
            skip::skip("needs root");
            return;
        };
        assert_eq!(code, status, "{text}");
        assert!(
            text.lines().any(|line| line.starts_with(row)),
            "{row}: {text}"
        );
        assert!(text.lines().last().unwrap().contains(end), "{end}: {text}");
    }
}

/// Typed by mistake, in whichever way: the first one's calls do not notice.
#[test]
fn a_second_relay_does_not_start() {
    let site = Site::new("listen_metrics = 127.0.0.1:1");
    let (first, last) = site.ports();
    // Not all of the ports that nobody else has.
    let (start, end) = (first + 8, last - 8);
    let text = site
        .configuration()
        .replace(&format!("{first}:{last}"), &format!("{start}:{end}"))
        .replace("listen_metrics", "; listen_metrics");
    site.certs.write("config.ini", text.as_bytes());
    let first = site.start();
    let mut link = site.dispatcher.link();
    offer("one", MEDIA).ports(&mut link);
    let pid = first.child.id();
    // Its own configuration, and ranges that have ports of it; a port for metrics that cannot be had hides nothing.
    let second = |range: (u16, u32)| {
        let ours = format!("port_range = {start}:{end}");
        let text = text.replace(&ours, &format!("port_range = {}:{}", range.0, range.1));
        let text = text.replace("; listen_metrics", "listen_metrics");
        site.certs.write("config.ini", text.as_bytes());
        let elsewhere = site.certs.file("elsewhere").display().to_string();
        for arguments in [&["--no-fork"][..], &["--runtime-dir", &elsewhere]] {
            let output = site.run(arguments);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(78), "{text}");
            let held = format!("with ports {start} to {}, pid {pid}; not started", end - 1);
            assert!(text.contains(&held), "{text}");
            assert!(text.contains(&format!("kill -HUP {pid}")), "{text}");
        }
    };
    second((start, end));
    second((start, end - 4));
    second((start + 8, end));
    second((start - 8, u32::from(start) + 4));
    second((start - 8, end + 8));
    site.certs.write("config.ini", text.as_bytes());
    // To look is not to start.
    let output = site.run(&["--check"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let there = format!("a relay with ports {start} to {}, pid {pid}, runs", end - 1);
    assert!(said.contains(&there), "{said}");
    assert_eq!(site.run(&["--check-config"]).status.code(), Some(0));
    assert_eq!(link.json("summary")["session_count"], 1);
    assert_eq!(remove(&mut link, "one")["call_id"], "one");
}

/// Both in the background with the same runtime directory.
#[test]
fn a_second_relay_in_the_background_is_told_by_the_pid_file() {
    let site = Site::new("");
    let output = site.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let pid = fs::read_to_string(site.runtime_dir().join("media-relay.pid")).unwrap();
    let pid = pid.trim();
    for arguments in [&[][..], &["--no-fork"]] {
        let output = site.run(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{text}");
        assert!(text.contains(&format!("pid {pid}")), "{text}");
    }
    drop(site.dispatcher.link());
    signal("-TERM", pid.parse().unwrap());
    wait_until("it has ended", || {
        !site.runtime_dir().join("media-relay.pid").exists()
    });
}

/// However a relay ended, the next one starts; and relays of other ports stand beside it with the same state_dir.
#[test]
fn the_next_relay_and_one_beside_it_start() {
    let state = Certs::empty();
    let site = Site::new(&format!("state_dir = {}", state.path().display()));
    // Both share the ports that nobody else has.
    let (start, last) = site.ports();
    let end = last - 8;
    let beside = (end, last);
    let of_ports = |text: &str, (start, end): (u32, u32)| {
        let (first, rest) = text.split_once("port_range = ").unwrap();
        let (_, rest) = rest.split_once('\n').unwrap();
        format!("{first}port_range = {start}:{end}\n{rest}")
    };
    let text = of_ports(&site.configuration(), (start.into(), end));
    site.certs.write("config.ini", text.as_bytes());
    let mut first = site.start();
    drop(site.dispatcher.link());
    let other = of_ports(&text, beside);
    site.certs.write("config.ini", other.as_bytes());
    let mut second = site.start();
    second.says(&format!("ports {} to {}", beside.0, beside.1 - 1));
    assert!(!second.read.iter().any(|line| line.contains("state_dir")));
    site.certs.write("config.ini", text.as_bytes());
    first.signal("-KILL");
    assert_eq!(first.ends(), None);
    let mut next = site.start();
    next.says("relaying on");
    next.signal("-USR2");
    assert_eq!(next.ends(), Some(0));
    let mut successor = site.start();
    successor.says("relaying on");
}

/// A dispatcher that is started anew takes longer than a moment, and is not waited for much longer.
#[test]
fn l4_a_dispatcher_that_comes_back_is_reached_soon() {
    let mut site = Site::new("");
    let text = site.configuration();
    let text = text.replace("reconnect_delay = 1\n", "reconnect_delay = 3600\n");
    site.certs.write("config.ini", text.as_bytes());
    let mut daemon = site.start();
    let link = site.dispatcher.link();
    daemon.says("connected");
    site.dispatcher.down();
    drop(link);
    let line = daemon.says("lost: closed by the dispatcher; again in 0.");
    assert!(line.ends_with("0.2 s") || line.ends_with("0.3 s"), "{line}");
    // By now an attempt has failed: the old way it would wait for all of reconnect_delay.
    daemon.says("retrying, after 3600 s at most");
    site.dispatcher.up();
    drop(site.dispatcher.link());
    // It was not up for long: it is not tried as soon as before.
    let line = daemon.says("lost: closed by the dispatcher; again in ");
    let (_, delay) = line.rsplit_once("again in ").unwrap();
    let delay: f32 = delay.strip_suffix(" s").unwrap().parse().unwrap();
    assert!(delay > 0.3, "{line}");
    site.dispatcher.link();
}

/// By its instance a dispatcher knows its link again, and no other.
#[test]
fn l1_a_relay_is_known_again_and_no_other_taken_for_it() {
    let site = Site::new("");
    let mut daemon = site.start();
    let instance = || {
        let hello = site.dispatcher.accept().next_line().unwrap();
        let json: serde_json::Value = serde_json::from_str(&hello["hello ".len()..]).unwrap();
        json["instance"].as_str().unwrap().to_owned()
    };
    let (one, again) = (instance(), instance());
    assert_eq!(one, again, "two connections of one link");
    daemon.signal("-TERM");
    assert_eq!(daemon.ends(), Some(0));
    let _next = site.start();
    assert_ne!(one, instance(), "another process");
}

#[test]
fn l2_a_relay_that_is_refused_says_why() {
    let site = Site::new("");
    let mut daemon = site.start();
    let mut link = site.dispatcher.accept();
    link.say("hello {\"refused\": \"a relay of that name is there\\u001b\"}");
    daemon.says(r"lost: refused: a relay of that name is there\u{1b}; again in");
    site.dispatcher.link();
}

#[test]
fn only_the_relay_can_check_its_host() {
    let mut dispatcher = Command::new(env!("CARGO_BIN_EXE_media-dispatcher"));
    let output = dispatcher.arg("--check").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("invalid option '--check'"), "{text}");
}

#[test]
fn what_cannot_start_says_why_and_whether_to_try_again() {
    let site = Site::new("");
    fs::remove_file(site.certs.file("relay.key")).unwrap();
    // In the foreground and in the background, where the reason reaches the terminal all the same.
    for arguments in [&["--no-fork"][..], &[]] {
        let output = site.run(arguments);
        assert_eq!(output.status.code(), Some(78));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("relay.key: no such file"), "{text}");
        assert!(text.contains("mediaproxy-make-certs"), "{text}");
    }
    assert_eq!(site.run(&["--dance"]).status.code(), Some(2));
    let site = Site::new("stream_timeout = soon");
    assert_eq!(site.run(&["--no-fork"]).status.code(), Some(78));
    // An address that is not there now may come.
    let site = Site::new("");
    let text = String::from_utf8(site.certs.read("config.ini")).unwrap();
    let ours = format!("relay_ip = {}", relay_ip());
    let text = text.replace(&ours, "relay_ip = 192.0.2.77");
    site.certs.write("config.ini", text.as_bytes());
    for arguments in [&["--no-fork"][..], &[]] {
        assert_eq!(site.run(arguments).status.code(), Some(1));
    }
}
