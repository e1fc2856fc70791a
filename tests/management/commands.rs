//! Commands of the management port that look at one call or change something: who may, and what befalls them.

use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mediaproxy::config::ProxySocket;
use mediaproxy::dispatcher::Enders;
use mediaproxy::dispatcher::finished::Reason;
use mediaproxy::sys::datagram::undisturbed;
use mediaproxy::tls::{Context, HANDSHAKE_LIMIT, Passport, connect};
use serde_json::{Value, json};

use crate::support::bed::{self, Bed, FakeRelay, LONG, answered, fresh_directory, offer, remove};
use crate::support::opensips;

const SHORT: Duration = Duration::from_millis(200);

/// A relay of ours that explains calls.
fn explaining(bed: &Bed, name: &str) -> FakeRelay {
    let mut relay = bed.link();
    relay.say(&format!(
        "hello {{\"name\": \"{name}\", \"commands\": [\"explain\"]}}"
    ));
    relay.list("[]");
    relay
}

/// A call that is answered, on this relay.
fn place(bed: &Bed, relay: &mut FakeRelay, call_id: &str) {
    let mut proxy = bed.proxy();
    for request in [offer(call_id), answered(call_id)] {
        proxy.send(request.as_bytes());
        relay.serve("update", "192.0.2.1 40000");
        assert_eq!(proxy.answer(), "192.0.2.1 40000");
    }
}

const EXPLAINED: &str = "[{\"call_id\": \"one\", \"from_tag\": \"from\", \"answered\": true}]";

#[test]
fn only_the_relay_that_has_a_call_is_asked() {
    let bed = Bed::with(|settings| settings.relay_retry = LONG);
    let (mut first, mut second) = (explaining(&bed, "a"), explaining(&bed, "b"));
    let mut proxy = bed.proxy();
    proxy.send(offer("one").as_bytes());
    // Whichever of the two gets it.
    let asked = first.asked_within(SHORT);
    let (has, other) = match asked {
        Some(asked) => {
            first.reply(&asked, "192.0.2.1 40000");
            (&mut first, &mut second)
        }
        None => {
            second.serve("update", "192.0.2.1 40000");
            (&mut second, &mut first)
        }
    };
    assert_eq!(proxy.answer(), "192.0.2.1 40000");
    let mut client = bed.management();
    client.send(b"explain json one\r\n");
    let asked = has.serve("explain", EXPLAINED);
    assert_eq!(asked.headers["call_id"], "one");
    let object: Value = serde_json::from_str(&client.answer()).unwrap();
    assert_eq!(object["dialog_id"], "4242:77");
    assert_eq!(object["relay_link"], "connected");
    assert_eq!(client.answer(), "");
    client.send(b"sessions call_id=one\r\n");
    has.serve(
        "sessions",
        "[{\"call_id\": \"one\"}, {\"call_id\": \"two\"}]",
    );
    assert_eq!(client.answer(), "{\"call_id\": \"one\"}");
    assert_eq!(client.answer(), "");
    // The other one was asked nothing.
    other.settle();
}

#[test]
fn a_relay_that_does_not_answer_or_goes_away_is_named() {
    let bed = Bed::with(|settings| settings.relay_timeout = SHORT);
    let mut relay = explaining(&bed, "a");
    place(&bed, &mut relay, "one");
    let mut client = bed.management();
    client.send(b"explain one\r\n");
    relay.asked();
    let silent = "error: call one was not found, and no answer came from relay 127.0.0.1 (a)";
    assert_eq!(
        (client.answer(), client.answer()),
        (silent.to_owned(), String::new())
    );
    relay.settle();
    client.send(b"explain one\r\n");
    relay.asked();
    relay.cut();
    assert_eq!(
        (client.answer(), client.answer()),
        (silent.to_owned(), String::new())
    );
    let away = "error: call one is on relay 127.0.0.1 (a), which is not connected: its media may go on there, nothing \
                can be told or changed until the relay is back; look at that host and at its link to this one";
    loop {
        let answer = client.ask("explain one\r\n");
        assert_eq!(client.answer(), "");
        if answer == away {
            break;
        }
    }
    assert_eq!(client.ask("end one\r\n"), away);
}

#[test]
fn a_relay_that_is_busy_has_not_said_that_there_is_no_such_call() {
    let bed = Bed::new();
    let mut relay = explaining(&bed, "a");
    place(&bed, &mut relay, "one");
    let mut client = bed.management();
    client.send(b"explain one\r\n");
    relay.serve("explain", "error: busy");
    assert_eq!(
        client.answer(),
        "error: call one was not found, and no answer came from relay 127.0.0.1 (a) (it said \"error: busy\")"
    );
    assert_eq!(client.answer(), "");
    // An update of it is refused, and the relay goes away: the call may go on there.
    let mut proxy = bed.proxy();
    proxy.send(offer("one").as_bytes());
    relay.serve("update", "error: no ports left");
    assert_eq!(proxy.answer(), "error");
    client.send(b"explain one\r\n");
    relay.serve("explain", "error: busy");
    let answer = client.answer();
    assert!(answer.contains("no answer came from relay"), "{answer}");
    assert_eq!(client.answer(), "");
    relay.cut();
    loop {
        let answer = client.ask("explain one\r\n");
        assert_eq!(client.answer(), "");
        assert!(!answer.contains("was refused"), "{answer}");
        if answer.contains("which is not connected") {
            break;
        }
    }
    let answer = client.ask("end one\r\n");
    assert!(answer.contains("which is not connected"), "{answer}");
}

#[test]
fn a_call_on_one_of_two_older_relays_with_many() {
    let bed = Bed::new();
    let mut relays = [bed.relay("a"), bed.relay("b")];
    let padding = "x".repeat(1000);
    let sessions: Vec<String> = (0..3000)
        .map(|n| {
            format!(
                "{{\"call_id\": \"call {n}\", \"from_tag\": \"t{n}\", \"padding\": \"{padding}\"}}"
            )
        })
        .collect();
    let listing = format!("[{}]", sessions.join(", "));
    let mut client = bed.management();
    client.send(b"explain json \"call 2999\"\r\n");
    std::thread::scope(|scope| {
        let [first, second] = &mut relays;
        scope.spawn(|| first.serve("sessions", "[]"));
        scope.spawn(|| second.serve("sessions", &listing));
        let object: Value = serde_json::from_str(&client.answer()).unwrap();
        assert_eq!(
            (&object["from_tag"], &object["relay"]["name"]),
            (&json!("t2999"), &json!("b"))
        );
        assert_eq!(client.answer(), "");
    });
}

#[test]
fn a_call_without_a_dialog_to_end_is_ended_on_its_relay() {
    let bed = Bed::new();
    let mut relay = explaining(&bed, "a");
    place(&bed, &mut relay, "one");
    let mut client = bed.management();
    client.send(b"end one\r\n");
    relay.serve("explain", EXPLAINED);
    let asked = relay.serve("remove", &bed::statistics("one", "closed"));
    assert_eq!(asked.headers["from_tag"], "from");
    assert_eq!(
        client.answer(),
        "ended: call one, its session on relay 127.0.0.1 (a); no phone is told, for no dialog of it is known"
    );
    assert_eq!(client.answer(), "");
    let ended = &bed.ended.wait_for(1)[0];
    assert_eq!(
        (ended.reason, ended.end_dialog, ended.timed_out),
        (Reason::Ended, false, false)
    );
    assert!(ended.statistics.is_some());
    let over = client.ask("end one\r\n");
    assert!(
        over.starts_with("error: call one ended 0 s ago: an administrator ended it"),
        "{over}"
    );
    assert_eq!(client.answer(), "");
    // The phones hang up: the proxy removes what it had.
    assert_eq!(bed.proxy().ask(&remove("one")), "removed");
    assert_eq!(bed.ended.count(), 1, "accounted once");
    // One that is over on its relay meanwhile.
    place(&bed, &mut relay, "two");
    client.send(b"end two\r\n");
    relay.serve("explain", &EXPLAINED.replace("one", "two"));
    relay.serve("remove", "error");
    let answer = client.answer();
    assert_eq!(
        answer,
        "error: call two: relay 127.0.0.1 (a) has no such call any more"
    );
}

#[test]
fn why_a_relay_refused_is_told_for_a_while() {
    let bed = Bed::new();
    let mut relay = explaining(&bed, "a");
    place(&bed, &mut relay, "one");
    let (mut proxy, mut client) = (bed.proxy(), bed.management());
    // An update of a call that goes on, and a new call.
    for call_id in ["one", "two"] {
        proxy.send(offer(call_id).as_bytes());
        relay.serve("update", "error: no ports left");
        assert_eq!(proxy.answer(), "error", "the proxy knows no other");
    }
    client.send(b"explain one\r\n");
    relay.serve("explain", EXPLAINED);
    let mut lines = Vec::new();
    loop {
        match client.answer() {
            line if line.is_empty() => break,
            line => lines.push(line),
        }
    }
    let refused = "s ago: relay 127.0.0.1 (a) answered error: no ports left";
    let last = lines
        .iter()
        .find(|line| line.contains("an update of it was refused: "));
    assert!(last.unwrap().ends_with(refused), "{lines:?}");
    // Of a call that no relay has.
    client.send(b"explain two\r\n");
    relay.serve("explain", "error");
    let answer = client.answer();
    assert!(
        answer.starts_with("call two was refused ")
            && answer.contains(&format!("{refused}; no relay takes this call")),
        "{answer}"
    );
    assert_eq!(client.answer(), "");
    client.send(b"explain json two\r\n");
    relay.serve("explain", "error");
    let object: Value = serde_json::from_str(&client.answer()).unwrap();
    assert_eq!(object["call_id"], "two");
    assert!(object["past"].as_str().unwrap().starts_with("was refused "));
    assert_eq!(client.answer(), "");
    // One that says no more than an older relay does.
    proxy.send(offer("three").as_bytes());
    relay.serve("update", "error");
    assert_eq!(proxy.answer(), "error");
    client.send(b"explain three\r\n");
    relay.serve("explain", "error");
    assert!(
        client
            .answer()
            .contains("relay 127.0.0.1 (a) answered error; no relay takes this call")
    );
}

fn set(path: &Path) -> ProxySocket {
    ProxySocket {
        paths: vec![path.to_owned()],
        is_set: true,
    }
}

/// A SIP proxy's management interface, and what the dispatcher answers meanwhile.
struct Proxy {
    socket: UnixDatagram,
}

impl Proxy {
    fn new(bed: &Bed, name: &str) -> Proxy {
        let directory = fresh_directory(name);
        let path = directory.join("kamailio");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        let none = set(&directory.join("none"));
        let enders = Enders::start(&none, &set(&path), &directory, (0o600, None)).unwrap();
        bed.running.set_enders(Arc::new(enders));
        Proxy { socket }
    }

    /// Waits to be asked, lets `meanwhile` happen, and answers.
    fn answer(&self, meanwhile: impl FnOnce(), answer: Value) {
        let mut buffer = [0; 1000];
        let (length, from) = undisturbed(|| self.socket.recv_from(&mut buffer)).unwrap();
        let request: Value = serde_json::from_slice(&buffer[..length]).unwrap();
        assert_eq!(
            (&request["method"], &request["params"]),
            (&json!("dlg.end_dlg"), &json!([4242, 77]))
        );
        meanwhile();
        let mut answer = answer;
        answer["id"] = request["id"].clone();
        let to = from.as_pathname().unwrap();
        self.socket
            .send_to(answer.to_string().as_bytes(), to)
            .unwrap();
    }
}

#[test]
fn a_dialog_is_ended_at_the_proxy_which_then_removes_the_call() {
    let bed = Bed::new();
    let proxy = Proxy::new(&bed, "end-dialog");
    let mut relay = explaining(&bed, "a");
    place(&bed, &mut relay, "one");
    let mut client = bed.management();
    client.send(b"end one\r\n");
    // As Kamailio does: it asks for the removal before it answers.
    let removes = || {
        let mut worker = bed.proxy();
        worker.send(remove("one").as_bytes());
        relay.serve("remove", &bed::statistics("one", "closed"));
        assert_eq!(worker.answer(), "removed");
    };
    proxy.answer(removes, json!({"result": {}}));
    assert_eq!(
        client.answer(),
        "ended: call one, dialog 4242:77 by Kamailio"
    );
    assert_eq!(client.answer(), "");
    let ended = &bed.ended.wait_for(1)[0];
    assert_eq!((ended.reason, ended.end_dialog), (Reason::Ended, false));
}

#[test]
fn a_dialog_that_only_the_relay_knows_of_is_ended_too() {
    let bed = Bed::new();
    let proxy = Proxy::new(&bed, "found-dialog");
    let mut relay = bed.link();
    relay.say("hello {\"name\": \"a\", \"commands\": [\"explain\"]}");
    // From before this dispatcher's start.
    relay.list("[{\"call_id\": \"one\"}]");
    let mut client = bed.management();
    client.send(b"end one\r\n");
    let known = EXPLAINED.replace("\"answered\"", "\"dialog_id\": \"4242:77\", \"answered\"");
    relay.serve("explain", &known);
    proxy.answer(|| (), json!({"result": {}}));
    assert_eq!(
        client.answer(),
        "ended: call one, dialog 4242:77 by Kamailio"
    );
    assert_eq!(client.answer(), "");
    client.send(b"explain json one\r\n");
    relay.serve("explain", &known);
    let object: Value = serde_json::from_str(&client.answer()).unwrap();
    assert_eq!(object["dialog_id"], "4242:77");
}

#[test]
fn a_proxy_that_refuses_is_quoted_and_one_that_has_no_such_dialog_is_passed_over() {
    let bed = Bed::new();
    let proxy = Proxy::new(&bed, "refused-dialog");
    let mut relay = explaining(&bed, "a");
    place(&bed, &mut relay, "one");
    let mut client = bed.management();
    client.send(b"end one\r\n");
    proxy.answer(|| (), json!({"error": {"code": 500, "message": "no"}}));
    let answer = client.answer();
    assert!(
        answer.starts_with("error: dialog 4242:77 of call one is not ended: Kamailio refuses: ")
            && answer.ends_with("end media would end its media alone"),
        "{answer}"
    );
    assert_eq!(client.answer(), "");
    // The proxy has lost it, and the phones talk.
    client.send(b"end one\r\n");
    proxy.answer(|| (), json!({"error": {"code": 404, "message": "gone"}}));
    let talking = EXPLAINED.replace(
        "true}",
        "true, \"streams\": [{\"caller\": {\"last_media\": 0.02}, \"callee\": {\"last_media\": null}}]}",
    );
    relay.serve("explain", &talking);
    let answer = client.answer();
    assert!(
        answer.starts_with("error: Kamailio does not have the dialog of call one any more")
            && answer.ends_with("they still talk; end media would end its media alone"),
        "{answer}"
    );
    assert_eq!(client.answer(), "");
    client.send(b"end one\r\n");
    proxy.answer(|| (), json!({"error": {"code": 404, "message": "gone"}}));
    relay.serve("explain", EXPLAINED);
    relay.serve("remove", &bed::statistics("one", "closed"));
    assert_eq!(
        client.answer(),
        "ended: call one, its session on relay 127.0.0.1 (a); no phone is told, for its dialog is over already at the SIP proxy"
    );
    assert_eq!(client.answer(), "");
    // With "media" the proxy is not asked at all.
    place(&bed, &mut relay, "two");
    client.send(b"end media two\r\n");
    relay.serve("explain", &EXPLAINED.replace("one", "two"));
    relay.serve("remove", &bed::statistics("two", "closed"));
    assert_eq!(
        client.answer(),
        "ended: call two, its session on relay 127.0.0.1 (a); no phone is told"
    );
}

/// docs/protocol.md D3: phones that were not told keep their media.
#[test]
fn d3_a_call_that_opensips_does_not_find_and_may_have_keeps_its_media() {
    let bed = Bed::new();
    let directory = fresh_directory("unclear-dialog");
    let path = directory.join("opensips");
    let stand_in = opensips::OpenSips::listen(&path, opensips::Version::V3_1);
    let none = set(&directory.join("none"));
    let enders = Enders::start(&set(&path), &none, &directory, (0o600, None)).unwrap();
    bed.running.set_enders(Arc::new(enders));
    let dialog = opensips::Dialog::new(0xb2e, 0x46ca_a32d, "one");
    let mut relay = explaining(&bed, "a");
    let mut proxy = bed.proxy();
    for request in [offer("one"), answered("one")] {
        proxy.send(request.replace("4242:77", &dialog.number()).as_bytes());
        relay.serve("update", "192.0.2.1 40000");
        assert_eq!(proxy.answer(), "192.0.2.1 40000");
    }
    stand_in.with(|state| {
        state.dialogs.push(dialog.clone());
        state.finds_nothing = true;
    });
    let mut client = bed.management();
    let answer = client.ask("end one\r\n");
    assert!(
        answer.starts_with(
            "error: dialog 12293384086317 of call one is not ended: OpenSIPS lists it as e2b.d23aac64"
        ),
        "{answer}"
    );
    assert_eq!(client.answer(), "");
    relay.settle();
    stand_in.with(|state| state.finds_nothing = false);
    assert_eq!(
        client.ask("end one\r\n"),
        "ended: call one, dialog 12293384086317 by OpenSIPS"
    );
    assert_eq!(client.answer(), "");
    // The phones have answered their BYE.
    let mut worker = bed.proxy();
    worker.send(remove("one").as_bytes());
    relay.serve("remove", &bed::statistics("one", "closed"));
    assert_eq!(worker.answer(), "removed");
    assert_eq!(bed.ended.wait_for(1)[0].reason, Reason::Ended);
}

/// An operator may have any of these, and says the same to each.
#[test]
fn a_dialog_is_ended_at_opensips_of_every_version() {
    use opensips::Version::{Later, V2_2, V2_4, V3_0, V3_1};
    for (number, version) in [V2_2, V2_4, V3_0, V3_1, Later].into_iter().enumerate() {
        let bed = Bed::new();
        let directory = fresh_directory(&format!("opensips-{number}"));
        let path = directory.join("opensips");
        let stand_in = opensips::OpenSips::listen(&path, version);
        let none = ProxySocket {
            is_set: false,
            ..set(&directory.join("none"))
        };
        let enders = Enders::start(&set(&path), &none, &directory, (0o600, None)).unwrap();
        bed.running.set_enders(Arc::new(enders));
        let dialog = opensips::Dialog::new(0xb2e, 0x46ca_a32d, "one");
        stand_in.with(|state| state.dialogs.push(dialog.clone()));
        // As the module of that version names it.
        let name = match version {
            V2_2 | V2_4 => format!("{}:{}", dialog.entry, dialog.id),
            _ => dialog.number(),
        };
        let mut relay = explaining(&bed, "a");
        let mut proxy = bed.proxy();
        for request in [offer("one"), answered("one")] {
            proxy.send(request.replace("4242:77", &name).as_bytes());
            relay.serve("update", "192.0.2.1 40000");
            assert_eq!(proxy.answer(), "192.0.2.1 40000");
        }
        let mut client = bed.management();
        assert_eq!(
            client.ask("end one\r\n"),
            format!("ended: call one, dialog {name} by OpenSIPS"),
            "{version:?}"
        );
        assert_eq!(client.answer(), "");
        assert!(!stand_in.asked().is_empty(), "{version:?}");
        assert_eq!(stand_in.with(|state| state.dialogs.len()), 0, "{version:?}");
        std::fs::remove_dir_all(directory).unwrap();
    }
}

#[test]
fn a_drained_relay_stays_drained_over_lost_links_and_upgrades() {
    let bed = Bed::new();
    let older = bed.older_relay();
    let mut client = bed.management();
    let drained = client.ask("drain 127.0.0.1\r\n");
    assert!(
        drained.starts_with("drained: relay 127.0.0.1 gets no new calls"),
        "{drained}"
    );
    assert!(client.answer().starts_with("warning: NO RELAY IS LEFT"));
    assert_eq!(client.answer(), "");
    older.cut();
    // It is listed while it is away, too.
    let away = r#"{"away":true,"ip":"127.0.0.1","status":"error","version":"","uptime":0,"session_count":0,"stream_count":{},"bps_relayed":0,"unanswered":0,"drained":true}"#;
    // Until the dispatcher has noticed, it is one that does not answer.
    let silent = away.replace("\"away\":true,", "");
    loop {
        let line = client.ask("summary\r\n");
        assert_eq!(client.answer(), "");
        if line == away {
            break;
        }
        assert_eq!(line, silent);
    }
    let _again = bed.older_relay();
    assert_eq!(bed.proxy().ask(&offer("one")), "error", "nobody takes it");
    let resumed = client.ask("resume 127.0.0.1\r\n");
    assert_eq!(resumed, "resumed: relay 127.0.0.1 gets new calls");
    assert_eq!(client.answer(), "");
}

#[test]
fn calls_go_to_the_others_and_those_that_are_there_go_on() {
    let bed = Bed::new();
    let mut first = explaining(&bed, "192.0.2.1:40000");
    place(&bed, &mut first, "one");
    let mut second = explaining(&bed, "192.0.2.2:40000");
    let mut client = bed.management();
    let several = client.ask("drain 127.0.0.1\r\n");
    assert!(
        several.starts_with("error: \"127.0.0.1\" means several relays, give a name: "),
        "{several}"
    );
    assert_eq!(client.answer(), "");
    let drained = client.ask("drain 192.0.2.1\r\n");
    let want = "drained: relay 127.0.0.1 (192.0.2.1:40000) gets no new calls, 1 call is left there";
    assert_eq!((drained.as_str(), client.answer().as_str()), (want, ""));
    for n in 0..4 {
        let mut proxy = bed.proxy();
        proxy.send(offer(&format!("new {n}")).as_bytes());
        second.serve("update", "192.0.2.2 40000");
        assert_eq!(proxy.answer(), "192.0.2.2 40000");
    }
    // The relay's own word counts: the last call is over when it says that it has none.
    let mut proxy = bed.proxy();
    proxy.send(remove("one").as_bytes());
    first.serve("remove", &bed::statistics("one", "closed"));
    assert_eq!(proxy.answer(), "removed");
    first.serve("summary", "{\"session_count\": 1}");
    first.serve("summary", "{\"session_count\": 0}");
    first.settle();
}

/// What a TLS client with a relay's certificate is answered.
fn over_tls(bed: &Bed, command: &str) -> String {
    let socket = TcpStream::connect(bed.running.management_address).unwrap();
    let context = Context::load(bed.certs.path(), "relay").unwrap().0;
    let (mut reader, mut writer, _) = connect(socket, &context, None, HANDSHAKE_LIMIT).unwrap();
    reader.set_timeout(Some(LONG)).unwrap();
    writer
        .write_all(format!("{command}\r\nquit\r\n").as_bytes())
        .unwrap();
    let mut text = Vec::new();
    let mut buffer = [0; 1000];
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        text.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn who_may_change_something() {
    let needs = "needs the management socket on the dispatcher's host, or TLS with a certificate that \
                 management_passport allows";
    let bed = Bed::new();
    let _relay = bed.relay("a");
    for word in ["drain", "resume", "end"] {
        let answer = over_tls(&bed, &format!("{word} a"));
        assert!(
            answer.starts_with(&format!("error: {word} {needs}")),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\n"));
    }
    assert!(
        over_tls(&bed, "explain a").starts_with("error: "),
        "anybody may look"
    );
    let bed = Bed::with(|settings| {
        settings.management_passport = Passport::parse("CN:relay").unwrap();
    });
    let _relay = bed.relay("a");
    assert!(over_tls(&bed, "drain a").starts_with("drained: relay 127.0.0.1 (a)"));
    let bed = Bed::with(|settings| {
        settings.management_use_tls = false;
        settings.management_passport = Passport::parse("CN:relay").unwrap();
    });
    let mut socket = TcpStream::connect(bed.running.management_address).unwrap();
    std::io::Write::write_all(&mut socket, b"drain a\r\nquit\r\n").unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut socket, &mut text).unwrap();
    assert!(
        text.starts_with("error: drain needs"),
        "without TLS a passport is worth nothing: {text}"
    );
}

#[test]
fn a_call_whose_identifiers_are_not_utf_8_is_explained_and_ended_by_what_is_shown() {
    let bed = Bed::new();
    let mut relay = bed.link();
    relay.say("hello {\"name\": \"a\", \"commands\": [\"explain\"]}");
    // From before this dispatcher's start; another one looks like it.
    relay.list("[{\"call_id\": \"caf\u{fffd}\"}]");
    let session = |byte: &str| {
        format!(
            "{{\"call_id\": \"caf\u{fffd}\", \"from_tag\": \"t\u{fffd}\", \"exact\": {{\"call_id\": \"caf\\\\x{byte}\", \
             \"from_tag\": \"t\\\\xff\", \"to_tag\": null}}}}"
        )
    };
    let (one, other) = (session("e9"), session("e8"));
    let mut client = bed.management();
    client.send(b"sessions call_id=caf\\xe9\r\n");
    relay.serve("sessions", &format!("[{one}, {other}]"));
    assert_eq!(
        (client.answer(), client.answer()),
        (one.clone(), String::new())
    );
    // Typed as it is shown, as a JSON string, or as it is.
    for command in [
        &b"explain caf\\xe9\r\n"[..],
        b"explain \"caf\\\\xe9\"\r\n",
        b"explain caf\xe9\r\n",
    ] {
        client.send(command);
        let asked = relay.asked();
        assert_eq!(
            (asked.word.as_str(), asked.headers["call_id"].as_str()),
            ("explain", "caf\\xe9")
        );
        relay.reply(&asked, &format!("[{one}]"));
        let said = "no stream has been answered: no media is expected yet";
        assert_eq!(client.answer(), said);
        assert_eq!(client.answer(), "call caf\\xe9: ringing");
        while !client.answer().is_empty() {}
    }
    client.send(b"end caf\\xe9\r\n");
    // For its dialog, and for its session.
    for _ in 0..2 {
        relay.serve("explain", &format!("[{one}]"));
    }
    let asked = relay.asked();
    assert_eq!(asked.word, "remove");
    assert_eq!(
        (
            asked.headers["call_id"].as_str(),
            asked.headers["from_tag"].as_str()
        ),
        ("caf\\xe9", "t\\xff")
    );
    relay.reply(&asked, &bed::statistics("caf\u{fffd}", "closed"));
    assert_eq!(
        client.answer(),
        "ended: call caf\\xe9, its session on relay 127.0.0.1 (a); no phone is told, for no dialog of it is known"
    );
}
