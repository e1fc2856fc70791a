//! `media-admin` as an administrator runs it, against real daemons on loopback with a call that talks.

use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use crate::support::daemons;
use crate::support::proxy::{Media, Message, Proxy};
use crate::support::site::{ADMIN, Call, LONG, STEP, Site, phone};

fn error_of(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A relay with a call hangs, then it is gone: whoever asks for calls or relays hears of it, by the exit status, too.
#[test]
fn a_relay_that_does_not_answer_is_not_passed_over() {
    let mut site = Site::with("admin-lost", |config| {
        config.replace("[Dispatcher]\n", "[Dispatcher]\nrelay_timeout = 1\n")
    });
    let _call = Call::place(&site, "lost@x").unwrap();
    let asked = |site: &Site, arguments: &[&str]| {
        let output = site.admin(arguments);
        let printed = String::from_utf8(output.stdout.clone()).unwrap();
        (output.status.code(), printed, error_of(&output))
    };
    let table = site.prints(&["summary"]);
    let row = table.lines().nth(1).unwrap();
    let name = row.split_whitespace().next().unwrap();
    let relay = site.daemons().relay.pid();
    daemons::signal(relay, "STOP").unwrap();
    let missing =
        format!("media-admin: no answer from relay {name} (1 call): its calls are not listed\n");
    for arguments in [
        &["sessions"][..],
        &["sessions", "--json"],
        &["sessions", "--relay", "127.0.0.1"],
    ] {
        let told = asked(&site, arguments);
        assert_eq!(told, (Some(1), String::new(), missing.clone()));
    }
    let (code, table, _) = asked(&site, &["summary"]);
    assert!(code == Some(1) && table.contains("no answer"), "{table}");
    daemons::signal(relay, "KILL").unwrap();
    let mut waited = Duration::ZERO;
    loop {
        let (code, table, why) = asked(&site, &["summary"]);
        assert_eq!(code, Some(1), "{table}{why}");
        if table.contains("away") {
            break;
        }
        assert!(waited < LONG, "{table}{why}");
        thread::sleep(STEP);
        waited += STEP;
    }
    assert_eq!(asked(&site, &["sessions"]).2, missing);
    let daemons::Daemons {
        dispatcher, relay, ..
    } = site.daemons.take().unwrap();
    drop(relay);
    dispatcher.stop().unwrap();
}

/// As on a full disk.
#[test]
fn what_cannot_be_written_is_an_error() {
    let site = Site::new("admin-full");
    let full = std::fs::File::create("/dev/full").unwrap();
    let mut command = Command::new(ADMIN);
    command
        .arg("--socket")
        .arg(site.daemons().management_socket());
    let output = command.arg("summary").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        error_of(&output).contains("cannot be written"),
        "{output:?}"
    );
}

#[test]
fn a_call_is_listed_explained_and_ended() {
    let site = Site::new("admin-call");
    assert_eq!(site.prints(&["sessions"]), "no calls\n");
    let call = Call::place(&site, "first@x").unwrap();
    call.speak(0, 3);
    call.speak(1, 1);
    // A stranger at the callee's port.
    phone().send_to(&[0x80, 8, 0, 0], call.relay[1]).unwrap();
    let other = Call::place(&site, "second@x").unwrap();

    let table = site.prints(&["sessions", "--sort", "packets"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("CALLER") && lines[0].ends_with("CALL-ID"),
        "{table}"
    );
    assert!(
        lines[1].contains("alice@example.com") && lines[1].ends_with("first@x"),
        "{table}"
    );
    assert!(
        lines[1].contains("G711a") && lines[1].contains("3/1"),
        "{table}"
    );
    assert!(lines[2].ends_with("second@x"), "{table}");
    assert!(!table.contains('\x1b'), "no terminal, no colours");

    let callers = call.phones[0].local_addr().unwrap().to_string();
    let one = site.prints(&["sessions", "--json", "--address", &callers, "--user", "BOB"]);
    let json: serde_json::Value = serde_json::from_str(one.trim()).unwrap();
    assert_eq!(
        (&json["call_id"], one.lines().count()),
        (&"first@x".into(), 1)
    );
    assert_eq!(site.prints(&["sessions", "--user", "carol"]), "no calls\n");
    // A word is whatever fits: a user, an address, the beginning of a Call-ID.
    for (word, calls) in [
        ("bob", 2),
        (&*callers, 1),
        ("firs", 1),
        ("carol", 0),
        ("irst", 0),
    ] {
        let listed = site.prints(&["sessions", word, "--json"]);
        let found = listed.lines().filter(|line| line.starts_with('{'));
        assert_eq!(found.count(), calls, "{word}: {listed}");
    }

    let explained = site.prints_at_last(&["explain", "first@x"], "other port");
    assert!(
        explained.starts_with("audio: the callee hears the caller: 3 packets so far, the last ")
            && explained
                .contains("\naudio: the caller hears the callee: 1 packet so far, the last ")
            && explained.contains("\ncall first@x: answered, "),
        "{explained}"
    );
    assert!(
        explained.contains(&format!(
            "caller: it sends from {callers}; it was told to send to "
        )),
        "{explained}"
    );
    assert!(explained.contains("DROPPED: 1 other port"), "{explained}");
    assert!(
        explained.contains("RTP goes by user space: forwarding = userspace\n"),
        "{explained}"
    );
    assert!(
        explained.contains("; others send to its port from 127.0.0.1:"),
        "{explained}"
    );
    // The beginning of a Call-ID is enough.
    let json = site.prints(&["explain", "--json", "first"]);
    let json: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!(json["streams"][0]["callee"]["dropped"]["other port"], 1);

    assert!(
        json["verdict"][0]
            .as_str()
            .unwrap()
            .starts_with("audio: the callee hears"),
        "{json}"
    );
    let ended = site.prints(&["end", "first"]);
    assert!(
        ended.starts_with("ended: call first@x, its session on relay 127.0.0.1"),
        "{ended}"
    );
    let left = site.prints(&["sessions", "--json"]);
    assert!(
        left.contains("second@x") && !left.contains("first@x"),
        "{left}"
    );
    // How it ended is told for a while; twice is once too often.
    let over = site.prints(&["explain", "first"]);
    assert!(
        over.starts_with("call first@x ended ")
            && over.contains("s ago: an administrator ended it (the log says who) after ")
            && over.contains("audio: closed, packets: 3 from the caller (127.0.0.1:"),
        "{over}"
    );
    let again = site.admin(&["end", "first@x"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        error_of(&again).contains("call first@x ended "),
        "{again:?}"
    );
    // The proxy knows nothing of it and removes the call when the phones hang up.
    let mut proxy = Proxy::connect(&site.daemons().control_socket()).unwrap();
    proxy.hang_up("first@x").unwrap();
    let log = std::fs::read_to_string(site.scratch.path().join("media-dispatcher.log")).unwrap();
    assert!(
        log.contains("[session first@x] to be ended by the order of local client (uid "),
        "{log}"
    );
    assert!(
        log.contains("[session first@x] finished: ended by the administrator"),
        "{log}"
    );
    // The statistics stand in the log of one of the two.
    assert!(log.contains("\"caller_packets\":3"), "{log}");
    let log = std::fs::read_to_string(site.scratch.path().join("media-relay.log")).unwrap();
    assert!(
        log.contains("[session first@x] removed (closed) after ")
            && log.contains(" s: 3 packets relayed from the caller, 1 from the callee\n")
            && !log.contains("caller_packets"),
        "{log}"
    );
    drop(other);
}

#[test]
fn calls_whose_identifiers_are_not_utf_8_are_ended_by_what_is_shown() {
    let site = Site::new("admin-bytes");
    let mut proxy = Proxy::connect(&site.daemons().control_socket()).unwrap();
    let media = [Media::audio_at(&phone())];
    for byte in [0xe8, 0xe9] {
        for message in [
            Message::offer("caf#@x", &media),
            Message::answer("caf#@x", &media),
        ] {
            let request = message
                .update()
                .replace("from_tag: from", "from_tag: from#");
            let mut request = request.into_bytes();
            for place in request.iter_mut().filter(|place| **place == b'#') {
                *place = byte;
            }
            let answer = proxy.ask_bytes(&request).unwrap();
            assert!(answer.starts_with("127.0.0.1 "), "{answer}");
        }
    }
    let table = site.prints(&["sessions"]);
    assert!(
        table.contains("caf\\xe8@x") && table.contains("caf\\xe9@x"),
        "{table}"
    );
    let one = site.prints(&["sessions", "--call-id", "caf\\xe9@x", "--json"]);
    assert_eq!(one.lines().count(), 1, "{one}");
    let explained = site.prints(&["explain", "caf\\xe9@x"]);
    assert!(
        explained.contains("\ncall caf\\xe9@x: answered"),
        "{explained}"
    );
    assert!(
        explained.contains("\n  tags from\\xe9 and to\n"),
        "{explained}"
    );
    let ended = site.prints(&["end", "caf\\xe9@x"]);
    assert!(
        ended.starts_with("ended: call caf\\xe9@x, its session on relay"),
        "{ended}"
    );
    let left = site.prints(&["sessions"]);
    assert!(
        left.contains("caf\\xe8@x") && !left.contains("caf\\xe9@x"),
        "{left}"
    );
}

#[test]
fn a_call_that_rings_is_found_by_its_addresses_and_shows_its_relay() {
    let site = Site::new("admin-ringing");
    let mut proxy = Proxy::connect(&site.daemons().control_socket()).unwrap();
    let phone = phone();
    let media = [Media::audio_at(&phone)];
    let offer = Message::offer("ring@x", &media).update();
    let offer = offer.replace("signaling_ip: 127.0.0.1", "signaling_ip: 127.9.9.9");
    let answer = proxy.ask(&offer).unwrap();
    let port = answer.split(' ').nth(1).unwrap();
    let sdp = media[0].address.to_string();
    // The SDP's, the relay's, that of the caller's SIP messages.
    for address in [&sdp, &format!("127.0.0.1:{port}"), "127.9.9.9", "127.0.0.1"] {
        let table = site.prints(&["sessions", "--address", address]);
        let row = table.lines().nth(1).unwrap_or_default();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[2], "ringing", "{address}: {table}");
        assert_eq!(words[4], "audio", "{table}");
        assert_eq!(words[words.len() - 2..], ["127.0.0.1", "ring@x"], "{table}");
    }
    assert_eq!(
        site.prints(&["sessions", "--address", "127.9.9.8"]),
        "no calls\n"
    );
    let json = site.prints(&["sessions", "--json"]);
    let json: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!(
        (&json["offered"][0]["caller_sdp"], &json["streams"]),
        (&sdp.into(), &serde_json::json!([]))
    );
    // Once it is answered it stands where it always did.
    let callee = [Media::audio_at(&phone)];
    proxy.update(&Message::answer("ring@x", &callee)).unwrap();
    let json = site.prints(&["sessions", "--json", "--address", "127.9.9.9"]);
    let json: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
    assert!(json.get("offered").is_none() && json["streams"][0]["status"] == "active");
}

#[test]
fn a_relay_is_drained_and_resumed() {
    let site = Site::new("admin-drain");
    let first = Call::place(&site, "first").unwrap();
    let drained = site.admin(&["drain", "127.0.0.1"]);
    assert_eq!(drained.status.code(), Some(0), "it was done all the same");
    let warned = error_of(&drained);
    assert!(
        warned.starts_with(
            "media-admin: warning: NO RELAY IS LEFT THAT TAKES CALLS, new ones are refused"
        ),
        "{warned}"
    );
    let done = String::from_utf8(drained.stdout).unwrap();
    assert!(
        done.ends_with("gets no new calls, 1 call is left there\n"),
        "{done}"
    );
    let summary = site.admin(&["summary"]);
    assert_eq!(summary.status.code(), Some(1));
    assert_eq!(
        error_of(&summary),
        "media-admin: no relay takes new calls\n"
    );
    let summary = String::from_utf8(summary.stdout).unwrap();
    assert!(
        summary.lines().nth(1).unwrap().contains("drained"),
        "{summary}"
    );
    assert!(Call::place(&site, "second").is_err(), "no new call");
    let refused = site.prints(&["explain", "second"]);
    assert!(
        refused.starts_with("call second was refused ")
            && refused.contains("no relay takes this call: relay 127.0.0.1")
            && refused.contains("is drained (media-admin resume)"),
        "{refused}"
    );
    first.speak(0, 1);
    let mut waiting = Command::new(ADMIN);
    waiting
        .arg("--socket")
        .arg(site.daemons().management_socket())
        .args(["drain", "--wait", "127.0.0.1"]);
    let waiting = waiting
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    site.prints(&["end", "first"]);
    let waited = waiting.wait_with_output().unwrap();
    let said = String::from_utf8(waited.stdout).unwrap();
    assert!(
        waited.status.success() && said.ends_with("drained: it has no calls left\n"),
        "{said}"
    );
    let log = site.scratch.path().join("media-dispatcher.log");
    let mut waited = Duration::ZERO;
    while !std::fs::read_to_string(&log)
        .unwrap()
        .contains("drained, it has no calls left")
    {
        assert!(waited < LONG, "it is never said");
        thread::sleep(STEP);
        waited += STEP;
    }
    let resumed = site.prints(&["resume", "127.0.0.1"]);
    assert!(resumed.starts_with("resumed: relay 127.0.0.1"), "{resumed}");
    Call::place(&site, "third").unwrap();
}

#[test]
fn exit_statuses() {
    let site = Site::new("admin-status");
    let status = |arguments: &[&str]| site.admin(arguments).status.code();
    assert_eq!(status(&["version"]), Some(0));
    assert_eq!(status(&["explain", "nothing"]), Some(1));
    assert_eq!(status(&["drain", "nobody"]), Some(1));
    assert_eq!(status(&["dance"]), Some(2));
    let refused = site.admin(&["end", "no\x1b[2J"]);
    let why = error_of(&refused);
    assert!(
        why.starts_with("media-admin: no active call no\\u{1b}[2J; it may be over ("),
        "{why}"
    );
    let nowhere = Command::new(ADMIN)
        .args(["--socket", "/nonexistent", "summary"])
        .output()
        .unwrap();
    // What makes no sense is said before anybody is asked.
    let senseless = Command::new(ADMIN)
        .args(["--socket", "/nonexistent", "sessions", "--address", "foo"])
        .output()
        .unwrap();
    assert_eq!(senseless.status.code(), Some(2));
    let why = error_of(&senseless);
    assert!(
        why.starts_with("media-admin: --address foo: allowed: IP or IP:PORT"),
        "{why}"
    );
    assert_eq!(nowhere.status.code(), Some(3));
    assert!(error_of(&nowhere).contains("is media-dispatcher running on this host?"));
    // Over TCP without TLS everybody may look and nobody may change anything.
    let config = std::fs::read_to_string(site.scratch.path().join("config.ini")).unwrap();
    let address = config
        .lines()
        .find_map(|line| line.strip_prefix("listen_management = "))
        .unwrap();
    let over_tcp = |arguments: &[&str]| {
        let mut command = Command::new(ADMIN);
        command
            .args(["--connect", address])
            .args(arguments)
            .output()
            .unwrap()
    };
    assert_eq!(over_tcp(&["summary"]).status.code(), Some(0));
    let refused = over_tcp(&["drain", "127.0.0.1"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        error_of(&refused).contains("needs the management socket"),
        "{refused:?}"
    );
}

#[test]
fn over_tls_with_a_certificate_that_the_passport_allows() {
    let tls = |config: String| {
        config.replace(
            "management_use_tls = no",
            "management_use_tls = yes\nmanagement_passport = CN:dispatcher",
        )
    };
    let site = Site::with("admin-tls", tls);
    let config = std::fs::read_to_string(site.scratch.path().join("config.ini")).unwrap();
    let mut lines = config.lines();
    let address = lines
        .find_map(|line| line.strip_prefix("listen_management = "))
        .unwrap();
    let certs = site.scratch.path().join("tls");
    let file = |name: &str| certs.join(name).display().to_string();
    let admin = |options: &[&str]| {
        let mut command = Command::new(ADMIN);
        let command = command.args(["--connect", address, "--timeout", "10"]);
        command.args(options).output().unwrap()
    };
    let directory = certs.display().to_string();
    let drained = admin(&["--certs", &directory, "drain", "127.0.0.1"]);
    assert_eq!(drained.status.code(), Some(0), "{drained:?}");
    let json = site.admin(&["summary", "--json"]);
    let json = String::from_utf8(json.stdout).unwrap();
    assert!(json.contains("\"drained\":true"), "{json}");
    // Another certificate of the same CA.
    let (cert, key) = (file("relay.crt"), file("relay.key"));
    let own = [
        "--certs", &directory, "--cert", &cert, "--key", &key, "summary",
    ];
    let refused = admin(&own);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(
        error_of(&refused).contains("management_passport"),
        "{refused:?}"
    );
    let plain = admin(&["summary"]);
    assert_eq!(plain.status.code(), Some(3), "no TLS: {plain:?}");
    let none = admin(&["--certs", "/nonexistent", "summary"]);
    assert_eq!(none.status.code(), Some(3));
    assert!(error_of(&none).contains("/nonexistent/"), "{none:?}");
}
