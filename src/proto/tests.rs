//! Requests and the link's lines, whole and broken.

use super::control::*;
use super::link::*;
use super::*;

const UPDATE: &str = "update\r\ntype: request\r\ndialog_id: 4242:77\r\ncall_id: 84b4c76e66710\r\ncseq: 2\r\n\
    from_uri: alice@example.com\r\nto_uri: bob@example.com\r\nfrom_tag: 9fxced76sl\r\nto_tag: \r\n\
    user_agent: some agent\r\nsignaling_ip: 192.0.2.4\r\nmedia_relay: \r\n\
    media: audio:10.0.0.5:4000:sendrecv:ice=no\r\n\r\n";

/// What each request in the input comes to: its command line, or what is wrong.
fn requests(input: &[u8]) -> (Vec<String>, Option<Broken>) {
    let mut reader = Requests::new(PROXY_LIMITS, &[]);
    let mut found = Vec::new();
    for piece in input.chunks(1000) {
        reader.extend(piece);
        loop {
            match reader.next_request() {
                Ok(Some(Ok(frame))) => found.push(Visible(frame.command()).to_string()),
                Ok(Some(Err(bad))) => found.push(bad.why.to_string()),
                Ok(None) => break,
                Err(broken) => return (found, Some(broken)),
            }
        }
    }
    (found, None)
}

fn update(text: &str) -> Result<Update, BadRequest> {
    let mut reader = Requests::new(PROXY_LIMITS, &[]);
    reader.extend(text.as_bytes());
    Update::parse(reader.next_request().unwrap().unwrap().unwrap())
}

#[test]
fn what_a_peer_says_is_shown_in_part_with_its_length() {
    let shown = |text: &str| Text::from(text).to_string();
    let (fits, long) = ("a".repeat(200), "a".repeat(8192));
    assert_eq!(shown(&fits), fits);
    assert_eq!(shown(&long), format!("{fits}... (8192 bytes)"));
    let odd = format!("\n{}", "ä".repeat(200));
    assert_eq!(shown(&odd), format!("\\n{}... (401 bytes)", "ä".repeat(99)));
    let bytes = [0xe9; 201];
    let told = Excerpt(&bytes).to_string();
    assert_eq!(told, format!("{}... (201 bytes)", "\\xe9".repeat(200)));
    assert_eq!(Visible(&bytes).to_string().len(), 804);
}

#[test]
fn an_update_becomes_types() {
    let update = update(UPDATE).unwrap();
    assert_eq!(update.kind, MessageKind::Request);
    assert_eq!(update.cseq, CSeq(2));
    assert_eq!(update.to_tag, None, "an empty header is absent");
    assert_eq!(update.signaling.source, Some("192.0.2.4".parse().unwrap()));
    assert_eq!(update.media.unwrap().len(), 1);
}

#[test]
fn what_a_header_may_hold() {
    let odd = UPDATE.replace("some agent", "T\u{e9}l: v1\r\n \t folded");
    assert_eq!(
        update(&odd).unwrap().user_agent,
        "T\u{e9}l: v1 folded".into()
    );
    let json =
        r#"{"signaling_ip": "192.0.2.4", "destination_ip": "192.0.2.9", "username": "alice"}"#;
    let with_json = update(&UPDATE.replace("192.0.2.4", json)).unwrap();
    assert_eq!(
        with_json.signaling.destination,
        Some("192.0.2.9".parse().unwrap())
    );
    assert_eq!(with_json.signaling.username, Some("alice".into()));
    let pair = update(&UPDATE.replace("192.0.2.4", "192.0.2.4_192.0.2.9")).unwrap();
    assert_eq!(
        pair.signaling.destination,
        Some("192.0.2.9".parse().unwrap())
    );
    let none = update(&UPDATE.replace("signaling_ip: 192.0.2.4\r\n", "")).unwrap();
    assert_eq!(none.signaling, Signaling::default());
    let empty = r#"{"signaling_ip": "192.0.2.4", "destination_ip": "", "username": ""}"#;
    let empty = update(&UPDATE.replace("192.0.2.4", empty)).unwrap();
    assert_eq!(empty.signaling, update(UPDATE).unwrap().signaling);
    let bad = r#"{"destination_ip": "there"}"#;
    let bad = update(&UPDATE.replace("192.0.2.4", bad)).unwrap_err();
    assert_eq!(
        bad.to_string(),
        "bad signaling_ip: \"there\" is not an address"
    );
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let cases = [
        ("call_id: 84b4c76e66710\r\n", "", "no call_id"),
        ("from_tag: 9fxced76sl\r\n", "from_tag: \r\n", "no from_tag"),
        ("user_agent: some agent\r\n", "", "no user_agent"),
        (
            "type: request",
            "type: ack",
            "bad type: \"ack\" is not request or reply",
        ),
        (
            "cseq: 2",
            "cseq: 4294967296",
            "bad cseq: \"4294967296\" is not a number of 32 bits",
        ),
        (
            "cseq: 2",
            "cseq: +2",
            "bad cseq: \"+2\" is not a number of 32 bits",
        ),
        ("192.0.2.4", "{\"signaling_ip\": 4}", "bad signaling_ip: "),
        (
            "192.0.2.4",
            "here",
            "bad signaling_ip: \"here\" is not an address",
        ),
        (":sendrecv", ":both", "bad media: not a direction"),
    ];
    for (old, new, want) in cases {
        let error = update(&UPDATE.replace(old, new)).unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }
}

#[test]
fn a_bad_request_is_read_to_its_end() {
    let (found, broken) = requests(b"update\r\nno colon\r\na: b\r\n\r\nremove\r\nx: y\r\n\r\n");
    assert_eq!(
        found,
        ["header line without \": \": \"no colon\"", "remove"]
    );
    assert_eq!(broken, None);
    let (found, _) = requests(b"update\r\n folded\r\n\r\nremove\n\n\r\n");
    assert_eq!(
        found,
        ["header line without \": \": \" folded\"", "remove", ""]
    );
    let many = format!("update\r\n{}\r\nremove\r\n\r\n", "a: b\r\n".repeat(65));
    assert_eq!(requests(many.as_bytes()).0, ["over 64 headers", "remove"]);
    let (found, _) = requests(b"update\r\na: \0\r\n\r\n");
    assert_eq!(found, ["header line with a NUL or CR in it: \"a: \\u{0}\""]);
    let (found, _) = requests(b"update\r\na: x\rb\r\n\r\n");
    assert_eq!(found, ["header line with a NUL or CR in it: \"a: x\\rb\""]);
}

#[test]
fn over_long_input_breaks_the_connection() {
    let line = format!("update\r\na: {}\r\n\r\n", "x".repeat(PROXY_LIMITS.line));
    assert!(matches!(requests(line.as_bytes()).1, Some(Broken::Line(_))));
    let folds = format!("update\r\na: b\r\n{}\r\n", " x\r\n".repeat(30_000));
    let broken = requests(folds.as_bytes()).1;
    assert_eq!(broken, Some(Broken::Request(PROXY_LIMITS.request)));
    let endless = "update".repeat(2_000);
    assert!(matches!(
        requests(endless.as_bytes()).1,
        Some(Broken::Line(_))
    ));
}

#[test]
fn a_command_for_a_relay_keeps_what_the_proxy_said() {
    let text = b"update\r\ncall_id: a\xe9b\r\nto_tag: \r\nx-new: 1\r\n\r\n";
    let mut reader = Requests::new(PROXY_LIMITS, &[]);
    reader.extend(text);
    let frame = reader.next_request().unwrap().unwrap().unwrap();
    let mut out = Vec::new();
    assert!(write_command(
        &mut out,
        frame,
        Sequence(7),
        Compatibility::Ours,
        None
    ));
    assert_eq!(out, b"update 7\r\ncall_id: a\xe9b\r\nx-new: 1\r\n\r\n");
    out.clear();
    assert!(write_command(
        &mut out,
        frame,
        Sequence(8),
        Compatibility::Older,
        None
    ));
    let want = b"update 8\r\ncall_id: a?b\r\nx-new: 1\r\nsignaling_ip: 0.0.0.0\r\n\r\n";
    assert_eq!(out, want);
}

#[test]
fn what_an_older_relay_cannot_read_is_not_sent() {
    let folded = format!(
        "remove\r\ncall_id: a\r\n{}\r\n",
        format!(" {}\r\n", "x".repeat(8000)).repeat(3)
    );
    let mut reader = Requests::new(PROXY_LIMITS, &[]);
    reader.extend(folded.as_bytes());
    let frame = reader.next_request().unwrap().unwrap().unwrap();
    let mut out = b"before".to_vec();
    assert!(!write_command(
        &mut out,
        frame,
        Sequence(1),
        Compatibility::Older,
        None
    ));
    assert_eq!(out, b"before");
}

#[test]
fn lines_from_a_dispatcher() {
    let text = b"pong\r\nhello {\"version\": \"9\", \"new\": 1}\r\nsummary 3\r\n\r\nremove 4\r\ncall_id: x\r\n\r\n\
        dance 5\r\n\r\nremove 6\r\nbroken\r\n\r\nremove\r\n\r\nhello {\r\nexplain 7\r\ncall_id: x\r\n\r\n\
        explain 8\r\n\r\n";
    let mut reader = Requests::new(LINK_LIMITS, ALONE);
    reader.extend(text);
    let mut found = Vec::new();
    while let Some(incoming) = reader.next_request().unwrap() {
        found.push(FromDispatcher::parse(incoming));
    }
    let hello = Hello {
        version: "9".into(),
        ..Hello::default()
    };
    assert_eq!(found[0], FromDispatcher::Pong);
    assert_eq!(found[1], FromDispatcher::Hello(hello));
    assert_eq!(
        found[2],
        FromDispatcher::Command(Sequence(3), Ok(Command::Summary))
    );
    let no_tag = Err(BadRequest::MissingHeader("from_tag"));
    assert_eq!(found[3], FromDispatcher::Command(Sequence(4), no_tag));
    let unknown = Err(BadRequest::UnknownCommand("dance".into()));
    assert_eq!(found[4], FromDispatcher::Command(Sequence(5), unknown));
    let broken = Err(BadRequest::NotAHeader("broken".into()));
    assert_eq!(found[5], FromDispatcher::Command(Sequence(6), broken));
    assert_eq!(found[6], FromDispatcher::Unknown("remove".into()));
    assert_eq!(found[7], FromDispatcher::Unknown("hello {".into()));
    let explain = Command::Explain(CallId("x".into()));
    assert_eq!(found[8], FromDispatcher::Command(Sequence(7), Ok(explain)));
    let no_call = Err(BadRequest::MissingHeader("call_id"));
    assert_eq!(found[9], FromDispatcher::Command(Sequence(8), no_call));
    assert_eq!(found.len(), 10);
}

#[test]
fn lines_from_a_relay() {
    assert_eq!(FromRelay::parse(b"ping"), FromRelay::Ping);
    assert_eq!(FromRelay::parse(b"expired {}"), FromRelay::Expired(b"{}"));
    assert_eq!(FromRelay::parse(b"leaving 60"), FromRelay::Leaving(60));
    for odd in [&b"leaving"[..], b"leaving -1", b"leaving 6 0"] {
        assert_eq!(FromRelay::parse(odd), FromRelay::Unknown(odd));
    }
    assert_eq!(
        FromRelay::parse(b"17 halting"),
        FromRelay::Reply(Sequence(17), b"halting")
    );
    assert_eq!(FromRelay::parse(b"18"), FromRelay::Reply(Sequence(18), b""));
    assert_eq!(FromRelay::parse(b"+18 x"), FromRelay::Unknown(b"+18 x"));
    assert_eq!(FromRelay::parse(b""), FromRelay::Unknown(b""));
}

#[test]
fn what_an_update_brought() {
    let written = |address: &str, ports| {
        let address = address.parse().unwrap();
        UpdateReply::Ports(address, ports).to_string()
    };
    for text in [
        written("10.0.0.1", vec![40000, 0]),
        written("10.0.0.1", vec![]),
        written("2001:db8::1", vec![65534]),
    ] {
        let read = UpdateResult::parse(text.as_bytes());
        assert_eq!(read, UpdateResult::Ports(&text), "as it came");
    }
    for error in [
        "error",
        "None",
        "",
        "10.0.0.1 x",
        "10.0.0.1 +4",
        "10.0.0.1  4",
        "10.0.0.1 65536",
        "halting 1",
    ] {
        let read = UpdateResult::parse(error.as_bytes());
        assert_eq!(read, UpdateResult::Error(String::new()), "{error}");
    }
    let told = UpdateResult::parse(b"error: no ports\x1b left");
    assert_eq!(told, UpdateResult::Error("no ports\\u{1b} left".into()));
    let written = UpdateReply::Error("no ports left".into()).to_string();
    assert_eq!(written, "error", "as the SIP proxy hears it");
    assert_eq!(UpdateResult::parse(b"halting"), UpdateResult::Halting);
}

#[test]
fn no_log_line_is_forged_and_ids_are_uuids() {
    let text: Text = b"a\r\nb\x1b[31m\xe9\x7f"[..].into();
    assert_eq!(text.to_string(), "a\\r\\nb\\u{1b}[31m\\xe9\\u{7f}");
    assert_eq!(
        serde_json::to_string(&text).unwrap(),
        "\"a\\r\\nb\\u001b[31m\u{fffd}\u{7f}\""
    );
    let id = SessionId::from_random(u128::MAX).to_string();
    assert_eq!(id, "ffffffff-ffff-4fff-bfff-ffffffffffff");
}

#[test]
fn session_ids_are_read_as_they_are_written() {
    let text = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let id: SessionId = text.parse().unwrap();
    assert_eq!(id.to_string(), text);
    assert_eq!(text.to_uppercase().parse(), Ok(id));
    for wrong in [
        "",
        "0f8fad5b-d9cb-469f-a165-70867728950",
        "0f8fad5b-d9cb-469f-a165-70867728950e0",
        "0f8fad5bd-9cb-469f-a165-70867728950e",
        "0f8fad5b0d9cb0469f0a165070867728950e",
        "0f8fad5b-d9cb-469f-a165-70867728950g",
        "+f8fad5b-d9cb-469f-a165-70867728950e",
        "0f8fad5b-d9cb-469f-a165-7086772895\u{e9}",
    ] {
        assert_eq!(wrong.parse::<SessionId>(), Err(()), "{wrong}");
    }
}

#[test]
fn what_is_shown_of_odd_bytes_means_them() {
    for bytes in [
        &b"caf\xe9"[..],
        b"\xff\xfe",
        b"\xe2\x82",
        b"a\\x4\xe9\\x",
        b"\\\xe9\xc3\xa9",
        b"a b\x80\"c",
    ] {
        let text = Text::from(bytes);
        assert_eq!(Text::from_shown(&text.to_string()), Some(text));
    }
    assert_eq!(
        Text::from_shown("caf\\xE9"),
        Some(Text::from(&b"caf\xe9"[..]))
    );
    for itself in [
        "",
        "a@b",
        "a\\x41",
        "\\x",
        "\\x9",
        "\\xé9",
        "\\x+9",
        "\\\\x",
        "é",
        // Bytes that are UTF-8 are not shown so.
        "\\xc3\\xa9",
    ] {
        assert_eq!(Text::from_shown(itself), None, "{itself}");
    }
}

#[test]
fn r5_a_relay_has_no_more_sessions_than_ports() {
    use super::link::{longest_list, most_sessions};
    assert_eq!(most_sessions(None), 32_768);
    assert_eq!(most_sessions(Some(2500)), 5000);
    assert_eq!(most_sessions(Some(usize::MAX)), 32_768);
    assert_eq!(longest_list(most_sessions(Some(10))), 4 << 20);
    assert_eq!(longest_list(10_000), 40_960_000);
    assert_eq!(longest_list(most_sessions(None)), 64 << 20);
}

#[test]
fn r5_a_header_of_folded_lines_is_no_longer_than_a_line() {
    let read = |key: &str, length: usize| {
        let fold = format!("{}\r\n ", "x".repeat(length / 2));
        let value = format!("{fold}{}", "x".repeat(length - length / 2 - 1));
        let mut text =
            "update\r\ntype: request\r\ncseq: 1\r\nfrom_uri: a\r\nto_uri: b\r\nuser_agent: c\r\n"
                .to_owned();
        for one in ["call_id", "from_tag", "to_tag", "dialog_id"] {
            let value = if one == key { &value } else { "x" };
            text.push_str(&format!("{one}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut requests = Requests::new(PROXY_LIMITS, &[]);
        requests.extend(text.as_bytes());
        let frame = requests.next_request().unwrap().unwrap().unwrap();
        (Update::parse(frame), Remove::parse(frame))
    };
    for key in ["call_id", "from_tag", "to_tag", "dialog_id"] {
        assert!(read(key, super::MAX_ID).0.is_ok(), "{key}");
        let (update, remove) = read(key, super::MAX_ID + 1);
        let text = format!("bad {key}: 8193 bytes, at most 8192 are allowed");
        assert_eq!(update.unwrap_err().to_string(), text);
        assert_eq!(remove.is_ok(), key == "dialog_id");
    }
}

#[test]
fn what_is_only_shown_is_kept_in_part() {
    let long = "x".repeat(1023) + "é" + "y";
    for (bytes, kept) in [(&long[..1023], 1023), (&long, 1023), (&long[1..], 1024)] {
        assert_eq!(Text::shortened(bytes.as_bytes()).as_bytes().len(), kept);
    }
    assert_eq!(Text::shortened(&[0xff; 5000]).as_bytes().len(), 1024);
    assert_eq!(Text::shortened(&[0x80; 5000]).as_bytes().len(), 1024);
}

#[test]
fn a_removal_is_written_as_the_relay_can_read_it() {
    let mut remove = Remove {
        call_id: CallId(b"caf\xe9".as_slice().into()),
        from_tag: Tag("f".into()),
        to_tag: None,
    };
    let mut out = Vec::new();
    assert!(write_remove(
        &mut out,
        &remove,
        Sequence(7),
        Compatibility::Older
    ));
    assert_eq!(out, b"remove 7\r\ncall_id: caf?\r\nfrom_tag: f\r\n\r\n");
    out.clear();
    remove.to_tag = Some(Tag("t".into()));
    assert!(write_remove(
        &mut out,
        &remove,
        Sequence(8),
        Compatibility::Ours
    ));
    let expected = b"remove 8\r\ncall_id: caf\xe9\r\nfrom_tag: f\r\nto_tag: t\r\n\r\n";
    assert_eq!(out, expected);
    out.clear();
    for odd in ["t\r\n\r\nsummary 9", "\0", &"t".repeat(OLD_RELAY_LINE)] {
        remove.from_tag = Tag(odd.into());
        let is_written = write_remove(&mut out, &remove, Sequence(9), Compatibility::Ours);
        assert!(
            !is_written && out.is_empty(),
            "nobody slips a command into a tag"
        );
    }
}
