//! Dialogs that are ended at stand-ins for SIP proxies.

use super::*;
use crate::metrics::Counter;

fn id(text: &str) -> DialogId {
    DialogId(text.into())
}

#[test]
fn each_proxy_is_asked_in_its_own_way() {
    let opensips: Value =
        serde_json::from_str(&request(Proxy::OpenSips, 7, &id("123456789012")).unwrap()).unwrap();
    assert_eq!(
        opensips,
        json!({"jsonrpc": "2.0", "id": "7", "method": "dlg_end_dlg", "params": ["123456789012"]})
    );
    let kamailio: Value =
        serde_json::from_str(&request(Proxy::Kamailio, 8, &id("4087:10127")).unwrap()).unwrap();
    assert_eq!(
        kamailio,
        json!({"jsonrpc": "2.0", "id": "8", "method": "dlg.end_dlg", "params": [4087, 10127]})
    );
    assert_eq!(proxy_of(&id("4087:10127")), Proxy::Kamailio);
    assert_eq!(proxy_of(&id("99")), Proxy::OpenSips);
    for bad in ["a:1", "1:b", ":", "1:2:3", "1:-2"] {
        assert_eq!(request(Proxy::Kamailio, 1, &id(bad)), None, "{bad}");
    }
}

#[test]
fn answers_are_understood() {
    let ended = br#"{"jsonrpc":"2.0","result":{},"id":"12"}"#;
    assert_eq!(understand(ended), (Some(12), Answer::Ended));
    let gone = br#"{"jsonrpc":"2.0","error":{"code":404,"message":"Dialog not found"},"id":12}"#;
    assert_eq!(understand(gone), (Some(12), Answer::Gone));
    let refused =
        br#"{"jsonrpc":"2.0","error":{"code":500,"message":"Method Not Found"},"id":"3"}"#;
    let (number, answer) = understand(refused);
    assert_eq!(number, Some(3));
    assert!(matches!(answer, Answer::Refused(why) if why.contains("Method Not Found")));
    assert_eq!(understand(b"404 Dialog not found\n"), (None, Answer::Gone));
    let plain = understand(b"500 no\x1b");
    assert_eq!(plain, (None, Answer::Refused("500 no\\u{1b}".into())));
    for odd in [&b"[]"[..], b"{}", b"7", b"\xff", b""] {
        assert_eq!(understand(odd).0, None, "{odd:?}");
    }
}

/// A proxy that answers what it is told to, or nothing.
fn stand_in(name: &str) -> (PathBuf, UnixDatagram) {
    let unique = format!("mediaproxy-dialog-{}-{name}", std::process::id());
    let dir = std::env::temp_dir().join(unique);
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("proxy.sock");
    let _ = fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    (dir, socket)
}

fn asked(proxy: &UnixDatagram) -> (Value, std::os::unix::net::SocketAddr) {
    let mut buffer = [0; 1000];
    let (length, from) = proxy.recv_from(&mut buffer).unwrap();
    (serde_json::from_slice(&buffer[..length]).unwrap(), from)
}

#[test]
fn the_socket_of_a_live_dispatcher_is_left_alone() {
    let (dir, proxy) = stand_in("second");
    let own = dir.join("opensips.sock");
    let live = bind(&own).unwrap();
    let refused = Enders::start(&dir.join("proxy.sock"), None, &dir);
    let error = refused.map(|_| ()).unwrap_err();
    assert!(error.contains("another process listens there"), "{error}");
    proxy.send_to(b"answer", &own).unwrap();
    assert_eq!(live.recv(&mut [0; 10]).unwrap(), 6, "it still gets answers");
    drop(live);
    assert!(own.exists(), "left by a crash");
    drop(bind(&own).unwrap());
    fs::remove_dir_all(dir).unwrap();
}

/// More dialogs than are asked for at a time.
#[test]
fn what_waits_at_the_end_is_named() {
    let (dir, proxy) = stand_in("end");
    let enders = Enders::start(&dir.join("proxy.sock"), None, &dir).unwrap();
    let (told, outcome) = crossbeam_channel::unbounded();
    for number in 0..WINDOW + 8 {
        let call_id = CallId(number.to_string().as_str().into());
        enders.end(
            &call_id,
            &id(&number.to_string()),
            Told::Asker(told.clone()),
        );
    }
    for _ in 0..WINDOW {
        asked(&proxy);
    }
    enders.stop(Duration::ZERO);
    let why = "this dispatcher ends".to_owned();
    assert_eq!(
        outcome.try_iter().collect::<Vec<_>>(),
        vec![Outcome::Failed(why); 8]
    );
    assert_eq!(enders.counts().unasked.get(), 8);
    fs::remove_dir_all(dir).unwrap();
}

/// It starts with the host, and a little later than this.
#[test]
fn a_proxy_that_is_not_there_yet_is_asked_every_minute_for_an_hour() {
    let (dir, proxy) = stand_in("later");
    let ledger = Arc::new(
        Ledger::open(&dir.join("calls"), Duration::ZERO, |_| false)
            .unwrap()
            .0,
    );
    let due = ledger.due(&CallId("a".into()), &id("7"), Duration::ZERO, 1);
    let socket = bind(&dir.join("own.sock")).unwrap();
    let counts = Arc::new(Dialogs::default());
    let mut ender = Ender::new(Proxy::OpenSips, dir.join("proxy.sock"), socket, counts);
    let at = |seconds: u64| Duration::from_secs(10_000 + seconds);
    let pending = Arc::new(());
    let dialog = Dialog {
        call_id: due.call_id.clone(),
        dialog_id: due.dialog_id.clone(),
        told: Told::Ledger(Arc::clone(&ledger), due),
        since: at(0),
        pending: Some(Arc::clone(&pending)),
    };
    ender.unanswered(dialog, at(6));
    assert_eq!(
        Arc::strong_count(&pending),
        1,
        "nobody waits for it at the end"
    );
    assert_eq!(ender.rest(at(6)), LATER);
    ender.ask_again(at(65));
    assert!(ender.open.is_empty());
    ender.ask_again(at(66));
    assert_eq!(asked(&proxy).0["params"], json!(["7"]));
    let open = ender.open.drain().next().unwrap().1;
    ender.unanswered(open.dialog, at(3599));
    ender.ask_again(at(3659));
    let open = ender.open.drain().next().unwrap().1;
    ender.unanswered(open.dialog, at(3665));
    assert!(ender.later.is_empty(), "its id may be another one's");
    drop(ledger);
    let left = Ledger::open(&dir.join("calls"), Duration::ZERO, |_| false)
        .unwrap()
        .1;
    assert_eq!(left.dialogs, []);
    fs::remove_dir_all(dir).unwrap();
}

/// The one that the proxy has answered for is over; the others wait for the next start, and are no error.
#[test]
fn what_the_ledger_has_is_settled_by_an_answer_alone() {
    let (dir, proxy) = stand_in("ledger");
    let open = || Ledger::open(&dir.join("calls"), Duration::ZERO, |_| false).unwrap();
    let ledger = Arc::new(open().0);
    let enders = Enders::start(&dir.join("proxy.sock"), None, &dir).unwrap();
    for number in 0..WINDOW + 8 {
        let call_id = CallId(number.to_string().as_str().into());
        let dialog_id = id(&number.to_string());
        let due = ledger.due(&call_id, &dialog_id, Duration::ZERO, number as u128);
        enders.end(&call_id, &dialog_id, Told::Ledger(Arc::clone(&ledger), due));
    }
    let (request, from) = asked(&proxy);
    let answer = json!({"jsonrpc": "2.0", "id": request["id"], "result": {}});
    proxy
        .send_to_addr(answer.to_string().as_bytes(), &from)
        .unwrap();
    // One more is asked for in its place.
    for _ in 0..WINDOW {
        asked(&proxy);
    }
    enders.stop(Duration::ZERO);
    assert_eq!(enders.counts().unasked.get(), 0);
    let left = open().1.dialogs;
    assert_eq!(left.len(), WINDOW + 7);
    assert!(left.iter().all(|due| due.dialog_id != id("0")));
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_proxy_that_does_not_answer_is_asked_once_more_and_holds_up_no_other_dialog() {
    let (dir, proxy) = stand_in("silent");
    let enders = Enders::start(&dir.join("proxy.sock"), None, &dir).unwrap();
    let (told, outcome) = crossbeam_channel::unbounded();
    enders.end(&CallId("a".into()), &id("1"), Told::Asker(told.clone()));
    enders.end(&CallId("b".into()), &id("2"), Told::Asker(told.clone()));
    enders.end(&CallId("k".into()), &id("1:2"), Told::Asker(told));
    let why = "[Kamailio] socket_path is not set".to_owned();
    assert_eq!(outcome.recv(), Ok(Outcome::Failed(why)));
    let (first, from) = asked(&proxy);
    let (second, _) = asked(&proxy);
    assert_eq!(
        (&first["params"][0], &second["params"][0]),
        (&json!("1"), &json!("2"))
    );
    let path = from.as_pathname().unwrap();
    assert_eq!(path, dir.join("opensips.sock"));
    assert_eq!(
        fs::metadata(path).unwrap().permissions().mode() & 0o777,
        0o666
    );
    proxy.send_to(b"nonsense", path).unwrap();
    let answer = json!({"jsonrpc": "2.0", "result": "OK", "id": second["id"]}).to_string();
    proxy.send_to(answer.as_bytes(), path).unwrap();
    let refused = outcome.recv().unwrap();
    assert!(matches!(refused, Outcome::Failed(why) if why == "OpenSIPS refuses: nonsense"));
    assert_eq!(outcome.recv(), Ok(Outcome::Ended(Proxy::OpenSips)));
    enders.end(&CallId("c".into()), &id("3"), Told::Nobody);
    let (third, _) = asked(&proxy);
    assert_eq!(
        third["params"][0], "3",
        "the first was refused by nonsense, the second answered"
    );
    let counts = enders.counts();
    let counts = [&counts.refused, &counts.ended, &counts.unasked].map(Counter::get);
    assert_eq!(counts, [1, 1, 1]);
    let (again, _) = asked(&proxy);
    assert_eq!(again, third, "once more after {ANSWER_LIMIT:?}");
    fs::remove_dir_all(dir).unwrap();
}
