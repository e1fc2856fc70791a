//! Reading the configuration, and what becomes of verdicts. Deliveries to servers are in tests/accounting/radius_failures.rs
//! and tests/accounting/radius.rs.

use std::fs;

use super::*;
use crate::sys::scratch::Scratch;

/// A configuration in a directory of its own.
struct Files(Scratch);

impl Files {
    fn new(client: &str, secrets: &str) -> Files {
        let scratch = Scratch::new("radius");
        fs::write(scratch.path().join("client.conf"), client).unwrap();
        fs::write(scratch.path().join("servers"), secrets).unwrap();
        Files(scratch)
    }

    fn open(&self) -> Result<Radius, String> {
        let section = RadiusSection {
            config_file: self.0.path().join("client.conf"),
            additional_dictionary: self.0.path().join("dictionary"),
        };
        // Without the directory, which differs from run to run.
        let directory = format!("{}/", self.0.path().display());
        Radius::open(&section).map_err(|error| error.replace(&directory, ""))
    }
}

const CLIENT: &str = "acctserver 127.0.0.1,127.0.0.2:1646\nservers servers\ndictionary own\n";

#[test]
fn a_complete_configuration() {
    let files = Files::new(CLIENT, "127.0.0.1 hush\n127.0.0.2 hush-hush\n");
    let directory = files.0.path();
    fs::write(
        directory.join("own"),
        "ATTRIBUTE Sip-To-Tag 7 string\nATTRIBUTE Sip-From-Tag 8 string\n",
    )
    .unwrap();
    fs::write(
        directory.join("dictionary"),
        "ATTRIBUTE Sip-From-Tag 9 string\n",
    )
    .unwrap();
    let radius = files.open().unwrap();
    assert_eq!(radius.servers.len(), 2);
    assert_eq!(radius.dictionary.number(dictionary::Attribute::SipToTag), 7);
    assert_eq!(
        radius.dictionary.number(dictionary::Attribute::SipFromTag),
        9
    );
    assert_eq!(radius.name(), "radius");
    assert!(!format!("{radius:?}").contains("hush"));
}

#[test]
fn dictionaries_may_be_missing_but_not_secrets() {
    assert!(
        Files::new(CLIENT, "127.0.0.1 hush\n127.0.0.2 hush\n")
            .open()
            .is_ok()
    );
    let error = Files::new(CLIENT, "127.0.0.1 hush\n").open().unwrap_err();
    assert_eq!(
        error,
        "servers: no secret for 127.0.0.2:1646, the acctserver in client.conf; allowed: a line with the host and its secret"
    );
    let error = Files::new("acctserver 127.0.0.1\nservers gone\n", "")
        .open()
        .unwrap_err();
    assert_eq!(error, "gone: No such file or directory (os error 2)");
}

#[test]
fn a_wrong_dictionary_stops_the_start() {
    let files = Files::new(CLIENT, "127.0.0.1 hush\n127.0.0.2 hush\n");
    fs::write(
        files.0.path().join("own"),
        "# fine\n\nATRIBUTE Sip-To-Tag 7 string\n",
    )
    .unwrap();
    let error = files.open().unwrap_err();
    assert!(
        error.starts_with("own:3: \"ATRIBUTE\" begins no line of a dictionary; "),
        "{error}"
    );
    fs::write(
        files.0.path().join("own"),
        "ATTRIBUTE Sip-To-Tag 105 string\n",
    )
    .unwrap();
    let error = files.open().unwrap_err();
    assert!(error.contains("Sip-From-Tag has number 105"), "{error}");
}

fn record(session_id: &str, more: &str) -> Record {
    let info = format!(r#"{{"session_id":"{session_id}","call_id":"c","from_tag":"f"{more}}}"#);
    Record::parse(&info).unwrap()
}

#[test]
fn what_cannot_be_told_is_rejected_without_asking_anybody() {
    let mut radius = Files::new(CLIENT, "127.0.0.1 hush\n127.0.0.2 hush\n")
        .open()
        .unwrap();
    let mut verdicts = Vec::new();
    let bad = [
        record("a", r#","duration":"long""#),
        record("a", r#","duration":"long""#),
    ];
    radius.deliver(&bad, &mut verdicts).unwrap();
    let why = "the statistics cannot be told to a RADIUS server: invalid type: string \"long\", expected u64";
    assert_eq!(verdicts.len(), 2);
    assert!(
        matches!(&verdicts[0], DeliveryResult::Rejected(reason) if reason.starts_with(why)),
        "{verdicts:?}"
    );
    assert!(radius.settled.is_empty());
}

#[test]
fn verdicts_wait_for_those_before_them() {
    let mut radius = Files::new(CLIENT, "127.0.0.1 hush\n127.0.0.2 hush\n")
        .open()
        .unwrap();
    let records = [record("a", ""), record("b", ""), record("c", "")];
    radius.settled.insert("b".into(), DeliveryResult::Delivered);
    let mut verdicts = Vec::new();
    assert_eq!(radius.hand_over(&records, &mut verdicts), 0);
    assert_eq!(radius.encode(&records).len(), 2);
    radius.settled.insert("a".into(), DeliveryResult::Delivered);
    assert_eq!(radius.hand_over(&records, &mut verdicts), 2);
    assert_eq!(
        verdicts,
        [DeliveryResult::Delivered, DeliveryResult::Delivered]
    );
    assert!(radius.settled.is_empty());
}

#[test]
fn a_session_that_no_server_wants_is_rejected_at_last() {
    let mut radius = Files::new(CLIENT, "127.0.0.1 hush\n127.0.0.2 hush\n")
        .open()
        .unwrap();
    let passed_over = ["a".to_owned()];
    for time in 1..MAX_UNANSWERED {
        let mut failures = Vec::new();
        assert!(!radius.give_up(&passed_over, &mut failures));
        assert_eq!(
            failures,
            [format!("session a alone got no answer, {time} of 3 times")]
        );
    }
    let mut failures = Vec::new();
    assert!(radius.give_up(&passed_over, &mut failures));
    assert!(failures.is_empty());
    let mut verdicts = Vec::new();
    assert_eq!(radius.hand_over(&[record("a", "")], &mut verdicts), 1);
    assert!(
        matches!(&verdicts[0], DeliveryResult::Rejected(why) if why.contains("3 times not for this one"))
    );
    assert!(radius.passed_over.is_empty());
}

#[test]
fn those_that_rest_are_asked_last() {
    let mut radius = Files::new(CLIENT, "127.0.0.1 hush\n127.0.0.2 hush\n")
        .open()
        .unwrap();
    let at = |seconds| Moment::after_start(Duration::from_secs(seconds));
    assert_eq!(radius.order(at(0)), [0, 1]);
    radius.servers[0].failed(at(0));
    assert_eq!(radius.order(at(1)), [1, 0]);
    assert_eq!(radius.order(at(60)), [0, 1]);
    radius.servers[1].failed(at(10));
    assert_eq!(
        radius.order(at(11)),
        [0, 1],
        "both rest: the first for less long"
    );
}

#[test]
fn time_for_all_servers() {
    let pace = Pace {
        interval: Duration::from_secs(10),
        tries: 4,
    };
    let cut = within(pace, Duration::from_secs(12));
    assert_eq!((cut.interval, cut.tries), (Duration::from_secs(3), 4));
    assert_eq!(within(pace, Duration::from_secs(60)), pace);
}
