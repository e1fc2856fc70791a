//! What is asked, answer by answer.

use super::*;

fn questions(dialog_id: &str, call_id: &str, learned: Option<Form>) -> Questions {
    let (call_id, dialog_id) = (CallId(call_id.into()), DialogId(dialog_id.into()));
    Questions::new(Proxy::OpenSips, &call_id, &dialog_id, learned).unwrap()
}

/// What is asked when OpenSIPS never finds it: the method and its parameters, then the verdict.
fn all(
    mut questions: Questions,
    learned: Option<Form>,
    list: &dyn Fn() -> Answer,
) -> (Vec<String>, Next) {
    let mut asked = Vec::new();
    loop {
        let request = questions.request(7);
        let request: Value = serde_json::from_str(&request).unwrap();
        assert_eq!(
            (&request["jsonrpc"], &request["id"]),
            (&json!("2.0"), &json!("7"))
        );
        let (method, params) = (request["method"].as_str().unwrap(), &request["params"]);
        asked.push(format!("{method} {params}"));
        let answer = match method {
            "dlg_list" => list(),
            _ => Answer::Unknown,
        };
        match questions.answered(answer, learned) {
            Next::Ask => {}
            verdict => return (asked, verdict),
        }
    }
}

fn listed(id: &str, number: &str) -> Answer {
    Answer::Result(json!({"Dialog": {"ID": id, "db_id": number}}))
}

fn no_command() -> Answer {
    Answer::Refused {
        why: "no such command".into(),
        is_plain: false,
    }
}

/// 0x2af8 * 2^32 + 0x2a88222d: the digits come backwards.
const NUMBER: &str = "47245353820717";
const DID: &str = "8fa2.d22288a2";

#[test]
fn the_names_of_a_dialog() {
    let names = |id: &str| {
        let names = Names::new(&CallId("c@x".into()), &DialogId(id.into())).unwrap();
        [Form::Did, Form::Number, Form::Sent, Form::TwoLines].map(|form| names.of(form))
    };
    let some = |texts: [&str; 4]| texts.map(|text| Some(text.to_owned()));
    // As OpenSIPS 3.6.8 shows it: "ID": "e2b.d23aac64", "db_id": "12293384086317".
    assert_eq!(names("12293384086317")[0].as_deref(), Some("e2b.d23aac64"));
    assert_eq!(
        names("4087:10127"),
        some(["7ff.f872", "17553531348879", "4087:10127", "4087\n10127"])
    );
    assert_eq!(names("17553531348879")[0].as_deref(), Some("7ff.f872"));
    assert_eq!(names("0:0")[0].as_deref(), Some("0.0"));
    assert_eq!(names("1:-1")[1].as_deref(), Some("8589934591"), "as signed");
    assert_eq!(
        names("18446744073709551615")[0].as_deref(),
        Some("ffffffff.ffffffff")
    );
    for odd in [
        "18446744073709551616",
        "e2b.d23aac64",
        "",
        ":",
        "1:2:3",
        "x",
    ] {
        let names = names(odd);
        assert_eq!((&names[0], names[2].as_deref()), (&None, Some(odd)));
    }
    let not_text = DialogId(b"\xff"[..].into());
    assert!(Names::new(&CallId("c".into()), &not_text).is_none());
}

#[test]
fn kamailio_is_asked_by_numbers() {
    let ask = |id: &str| {
        let (call_id, id) = (CallId("c".into()), DialogId(id.into()));
        Questions::new(Proxy::Kamailio, &call_id, &id, None)
    };
    let mut questions = ask("4087:10127").unwrap();
    let request: Value = serde_json::from_str(&questions.request(8)).unwrap();
    assert_eq!(
        request,
        json!({"jsonrpc": "2.0", "id": "8", "method": "dlg.end_dlg", "params": [4087, 10127]})
    );
    assert_eq!(questions.answered(Answer::Unknown, None), Next::Gone);
    for bad in ["a:1", "1:b", ":", "1:2:3", "1:-2", "7"] {
        assert!(ask(bad).is_none(), "{bad}");
    }
}

#[test]
fn d2_all_names_are_tried_before_a_dialog_is_over() {
    let by_did = format!("dlg_end_dlg [\"{DID}\"]");
    let by_number = format!("dlg_end_dlg [\"{NUMBER}\"]");
    let list = "dlg_list {\"callid\":\"c@x\"}".to_owned();
    let by_call_id = "dlg_end_dlg [\"c@x\"]".to_owned();
    let absent = || Answer::Unknown;
    for (learned, want) in [
        (None, [&by_did, &by_number, &list, &by_call_id]),
        (Some(Form::Did), [&by_did, &by_number, &list, &by_call_id]),
        (
            Some(Form::Number),
            [&by_number, &by_did, &list, &by_call_id],
        ),
        (
            Some(Form::CallId),
            [&list, &by_call_id, &by_did, &by_number],
        ),
        (
            Some(Form::Listed),
            [&list, &by_call_id, &by_did, &by_number],
        ),
        // That of a version which sends h:i.
        (Some(Form::Line), [&by_did, &by_number, &list, &by_call_id]),
    ] {
        let (asked, verdict) = all(questions(NUMBER, "c@x", learned), learned, &absent);
        assert_eq!(asked.iter().collect::<Vec<_>>(), want, "{learned:?}");
        assert_eq!(verdict, Next::Gone);
    }
    let (asked, verdict) = all(questions("4087:10127", "c@x", None), None, &absent);
    let first =
        ["4087:10127", "17553531348879", "7ff.f872"].map(|id| format!("dlg_end_dlg [\"{id}\"]"));
    assert_eq!(
        (&asked[..3], asked.len(), verdict),
        (&first[..], 5, Next::Gone)
    );
}

#[test]
fn d3_a_dialog_that_may_be_there_is_not_taken_for_over() {
    // The list shows it, and nothing ends it.
    let (asked, verdict) = all(questions(NUMBER, "c@x", None), None, &|| {
        listed(DID, NUMBER)
    });
    assert_eq!(asked.len(), 4);
    assert!(matches!(verdict, Next::Unclear(why) if why.contains("lists it as")));
    // There is no list, and no form of this OpenSIPS is known.
    let (_, verdict) = all(questions(NUMBER, "c@x", None), None, &no_command);
    assert!(matches!(verdict, Next::Unclear(why) if why.contains("no such command")));
    let (_, verdict) = all(questions(NUMBER, "c@x", None), None, &|| {
        Answer::Result(json!([]))
    });
    assert!(matches!(verdict, Next::Unclear(why) if why.contains("something else")));
    let did = Some(Form::Did);
    // It does not answer that question.
    assert!({
        let mut questions = questions(NUMBER, "c@x", Some(Form::CallId));
        let may_fail = questions.may_fail();
        questions.answered(Answer::silence(), None) == Next::Ask
            && may_fail
            && !questions.may_fail()
    });
    let (_, verdict) = all(questions(NUMBER, "c@x", None), None, &Answer::silence);
    assert!(matches!(verdict, Next::Unclear(why) if why.contains("no answer")));
    let (asked, verdict) = all(questions(NUMBER, "c@x", did), did, &no_command);
    assert_eq!(verdict, Next::Gone, "it has ended others by that form");
    assert_eq!(asked.len(), 3, "its Call-ID may be another one's");
    // A Call-ID that cannot be asked for.
    let call_id = CallId(b"caf\xe9"[..].into());
    let odd = Questions::new(Proxy::OpenSips, &call_id, &DialogId(NUMBER.into()), None).unwrap();
    let (asked, verdict) = all(odd, None, &no_command);
    assert_eq!(asked.len(), 2);
    assert!(matches!(verdict, Next::Unclear(why) if why.contains("Call-ID cannot be asked")));
}

/// A Call-ID is not one dialog's alone.
#[test]
fn d4_another_dialog_of_that_call_id_is_left_alone() {
    for other in [
        listed("e2b.d23aac64", "1"),
        Answer::Result(json!({"Dialog": {"ID": "12345"}})),
    ] {
        let mut other = Some(other);
        let mut questions = questions(NUMBER, "c@x", None);
        let mut asked = 1;
        let verdict = loop {
            let answer = if questions.request(1).contains("dlg_list") {
                other.take().unwrap()
            } else {
                Answer::Unknown
            };
            match questions.answered(answer, None) {
                Next::Ask => asked += 1,
                verdict => break verdict,
            }
        };
        assert_eq!((verdict, asked), (Next::Gone, 3));
    }
    // These would be taken for a dialog's id.
    for call_id in ["123456", " +12", "-5", "abc.def", ".", "12.", "", "ABC.0"] {
        let (asked, _) = all(questions(NUMBER, call_id, None), None, &no_command);
        assert_eq!(asked.len(), 2, "{call_id:?}");
    }
    for call_id in ["12a", "abc", "a.b.g", "192.0.2.1", "1@2"] {
        let (asked, _) = all(questions(NUMBER, call_id, None), None, &no_command);
        assert_eq!(asked.len(), 4, "{call_id:?}");
    }
}

#[test]
fn a_form_that_the_list_shows_is_taken() {
    let mut questions = questions(NUMBER, "c@x", None);
    for _ in 0..2 {
        assert_eq!(questions.answered(Answer::Unknown, None), Next::Ask);
    }
    assert_eq!(questions.answered(listed("new-1", NUMBER), None), Next::Ask);
    assert!(questions.request(1).contains("[\"new-1\"]"));
    let ended = Answer::Result(json!("OK"));
    assert_eq!(
        questions.answered(ended, None),
        Next::Ended(Some(Form::Listed))
    );
}

#[test]
fn old_versions_read_lines() {
    let plain = || Answer::Refused {
        why: "500 command not available".into(),
        is_plain: true,
    };
    let mut old = questions("4087:10127", "c@x", None);
    assert_eq!(old.answered(plain(), None), Next::Ask);
    assert_eq!(old.request(1), ":dlg_end_dlg:\n17553531348879\n\n");
    let mut older = old.clone();
    assert_eq!(old.answered(Answer::Unknown, None), Next::Gone);
    assert_eq!(older.answered(plain(), None), Next::Ask);
    assert_eq!(older.request(1), ":dlg_end_dlg:\n4087\n10127\n\n");
    assert!(matches!(older.answered(plain(), None), Next::Refused(_)));
    let learned = questions("4087:10127", "c@x", Some(Form::TwoLines));
    assert_eq!(learned.request(1), ":dlg_end_dlg:\n4087\n10127\n\n");
    // Who says numbers reads JSON.
    let mut new = questions(NUMBER, "c@x", None);
    assert!(matches!(new.answered(plain(), None), Next::Refused(_)));
}

#[test]
fn answers_are_understood() {
    let ended = br#"{"jsonrpc":"2.0","result":{},"id":"12"}"#;
    assert_eq!(
        understand(ended),
        (To::Number(12), Answer::Result(json!({})))
    );
    let gone = br#"{"jsonrpc":"2.0","error":{"code":404,"message":"Dialog not found"},"id":12}"#;
    assert_eq!(understand(gone), (To::Number(12), Answer::Unknown));
    let refused =
        br#"{"jsonrpc":"2.0","error":{"code":500,"message":"Method Not Found"},"id":"3"}"#;
    let (to, answer) = understand(refused);
    assert_eq!(to, To::Number(3));
    assert!(matches!(answer, Answer::Refused { why, .. } if why.contains("Method Not Found")));
    let unread = br#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"Parse error"},"id":null}"#;
    assert_eq!(understand(unread).0, To::First);
    assert_eq!(
        understand(b"404 Dialog not found\n"),
        (To::First, Answer::Unknown)
    );
    assert_eq!(
        understand(b"200 OK\n"),
        (To::First, Answer::Result(Value::Null))
    );
    let plain = Answer::Refused {
        why: "500 no\\u{1b}".into(),
        is_plain: true,
    };
    assert_eq!(understand(b"500 no\x1b"), (To::First, plain));
    for odd in [
        &b"[]"[..],
        b"{}",
        b"7",
        b"null",
        b"{\"id\": 7.5}",
        b"{\"id\": 7}",
        b"{\"result\": {}}",
        b"[\"2.0\", {}, 7]",
    ] {
        assert_eq!(understand(odd).0, To::Nothing, "{odd:?}");
    }
    for odd in [&b"\xff"[..], b""] {
        assert_eq!(understand(odd).0, To::First, "{odd:?}");
    }
}
