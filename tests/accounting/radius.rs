//! Accounting to a real RADIUS server, FreeRADIUS: what arrives, and what becomes of records while it is away.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use mediaproxy::accounting::radius::Radius;
use mediaproxy::accounting::{Backend, DeliveryResult, Record};
use mediaproxy::config::RadiusSection;
use mediaproxy::sys::clock;

use crate::support::scratch::Scratch;
use crate::support::servers::{Detail, FreeRadius, RADIUS_SECRET, Server};
use crate::support::skip::skip;

/// Records delivered at once.
const BATCH: usize = 100;

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(config_file: PathBuf) -> Radius {
    let section = RadiusSection {
        config_file,
        additional_dictionary: Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/radius/dictionary"),
    };
    Radius::open(&section).unwrap()
}

/// A call with a different number of bytes each; every tenth passes 2^32.
fn record(number: u64) -> Record {
    let info = format!(
        r#"{{"session_id":"{number:08}","call_id":"call-{number}@example.com","from_tag":"from-{number}",
        "to_tag":"to-{number}","from_uri":"alice@example.com","to_uri":"bob@example.com","start_time":1700000000.5,
        "duration":{},"caller_ua":"Phone 1.0","callee_ua":"Other \u00e9 2","username":"user{}@example.com",
        "timed_out":{},"dialog_id":null,"all_streams_ice":false,"relay_ip":"192.0.2.1","streams":[{{"media_type":"audio",
        "status":"closed","timeout_wait":0,"caller_codec":"G711a","callee_codec":"G711a","start_time":0,"end_time":{},
        "post_dial_delay":1.75,"caller_bytes":{},"callee_bytes":{},"caller_packets":1,"callee_packets":1,
        "caller_local":"192.0.2.7:40000","callee_local":"192.0.2.7:40002","caller_remote":"198.51.100.1:4000",
        "callee_remote":"198.51.100.2:4000"}}]}}"#,
        number % 600 + 1,
        number % 7,
        number.is_multiple_of(50),
        number % 600 + 1,
        caller_bytes(number),
        number * 3,
    );
    Record::parse(&info.replace('\n', "")).unwrap()
}

fn caller_bytes(number: u64) -> u64 {
    let large = if number.is_multiple_of(10) {
        5 << 32
    } else {
        0
    };
    large + number * 1000
}

fn number(detail: &Detail, name: &str) -> u64 {
    detail.get(name).map_or(0, |value| value.parse().unwrap())
}

fn octets(detail: &Detail, direction: &str) -> u64 {
    let high = number(detail, &format!("Acct-{direction}-Gigawords"));
    high << 32 | number(detail, &format!("Acct-{direction}-Octets"))
}

/// What happens beside a run of deliveries, so that nothing is over before it began.
#[derive(Default)]
struct Run {
    /// Deliveries that could not settle all.
    failures: AtomicUsize,
    /// Troubles made.
    troubles: AtomicUsize,
    /// The position that deliveries do not pass before so many troubles were made.
    gates: Vec<(usize, usize)>,
}

impl Run {
    fn made_trouble(&self) {
        self.troubles.fetch_add(1, Ordering::SeqCst);
    }

    fn wait_for_failure(&self) {
        let before = self.failures.load(Ordering::SeqCst);
        wait("a failure", || {
            self.failures.load(Ordering::SeqCst) > before
        });
    }
}

fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let deadline = clock::moment() + PATIENCE;
    while !until() {
        assert!(clock::moment() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Until so many records were written.
fn wait_for(server: &FreeRadius, count: usize) {
    wait("records", || server.accounted() >= count);
}

/// Delivers as the dispatcher does: batch by batch, again from where it stopped. Returns the verdicts and what was
/// said when not all could be delivered.
fn deliver_all(
    radius: &mut Radius,
    records: &[Record],
    run: &Run,
) -> (Vec<DeliveryResult>, Vec<String>) {
    let (mut verdicts, mut failures) = (Vec::new(), Vec::new());
    let deadline = clock::moment() + PATIENCE;
    while verdicts.len() < records.len() {
        for &(position, troubles) in &run.gates {
            let passed = verdicts.len() < position;
            wait("trouble", || {
                passed || run.troubles.load(Ordering::SeqCst) >= troubles
            });
        }
        let rest = &records[verdicts.len()..];
        let batch = &rest[..rest.len().min(BATCH)];
        let mut settled = Vec::new();
        let result = radius.deliver(batch, &mut settled);
        assert_eq!(result.is_ok(), settled.len() == batch.len());
        verdicts.append(&mut settled);
        if let Err(why) = result {
            assert!(clock::moment() < deadline, "{why}");
            failures.push(why.to_string());
            run.failures.fetch_add(1, Ordering::SeqCst);
            // As a back-off, only shorter.
            thread::sleep(Duration::from_millis(20));
        }
    }
    (verdicts, failures)
}

fn all_delivered(verdicts: &[DeliveryResult]) -> bool {
    verdicts
        .iter()
        .all(|verdict| *verdict == DeliveryResult::Delivered)
}

/// Delivers all records while another thread makes trouble. Returns what was said.
fn deliver_in_trouble(
    server: &mut FreeRadius,
    radius: &mut Radius,
    records: &[Record],
    gates: &[(usize, usize)],
    trouble: impl FnOnce(&mut FreeRadius, &Run) + Send,
) -> Vec<String> {
    let run = Run {
        gates: gates.to_vec(),
        ..Run::default()
    };
    thread::scope(|scope| {
        let trouble = scope.spawn(|| trouble(server, &run));
        let (verdicts, failures) = deliver_all(radius, records, &run);
        assert!(all_delivered(&verdicts));
        trouble.join().unwrap();
        failures
    })
}

/// Every session is there, its sums agree, and each repetition says the same. Returns how many there were.
fn check(details: &[Detail], records: &[Record]) -> usize {
    let mut by_call: BTreeMap<&str, &Detail> = BTreeMap::new();
    let mut repeated = 0;
    for detail in details {
        if let Some(before) = by_call.insert(&detail["Acct-Session-Id"], detail) {
            repeated += 1;
            assert_eq!(octets(before, "Input"), octets(detail, "Input"));
        }
    }
    assert_eq!(by_call.len(), records.len());
    let sum = |direction| {
        by_call
            .values()
            .map(|detail| octets(detail, direction))
            .sum::<u64>()
    };
    let numbers = || 0..records.len() as u64;
    assert_eq!(sum("Input"), numbers().map(caller_bytes).sum::<u64>());
    assert_eq!(
        sum("Output"),
        numbers().map(|number| number * 3).sum::<u64>()
    );
    let time: u64 = by_call
        .values()
        .map(|detail| number(detail, "Acct-Session-Time"))
        .sum();
    assert_eq!(time, numbers().map(|number| number % 600 + 1).sum::<u64>());
    repeated
}

fn records(count: u64) -> Vec<Record> {
    (0..count).map(record).collect()
}

#[test]
fn a_thousand_records_arrive_once_each() {
    let Some(server) = FreeRadius::start() else {
        return;
    };
    let mut radius = open(server.client(&[], &[], "radius_timeout 10\nradius_retries 3"));
    let records = records(1000);
    let (verdicts, failures) = deliver_all(&mut radius, &records, &Run::default());
    assert!(
        all_delivered(&verdicts) && failures.is_empty(),
        "{failures:?}"
    );
    let details = server.details();
    assert_eq!(details.len(), 1000);
    assert_eq!(check(&details, &records), 0);
    let of_fifty = details
        .iter()
        .find(|detail| detail["Acct-Session-Id"] == "call-50@example.com");
    let mut detail = of_fifty.unwrap().clone();
    // The server checked it; what it is depends on all other bytes.
    assert!(detail.remove("Message-Authenticator").is_some());
    assert!(detail.remove("Timestamp").is_some());
    let shown: Vec<String> = detail
        .iter()
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    assert_eq!(
        shown,
        [
            "Acct-Delay-Time = 1",
            "Acct-Input-Gigawords = 5",
            "Acct-Input-Octets = 50000",
            "Acct-Output-Octets = 150",
            "Acct-Session-Id = call-50@example.com",
            "Acct-Session-Time = 51",
            "Acct-Status-Type = Interim-Update",
            "Event-Timestamp = Nov 14 2023 22:14:11 UTC",
            "Media-Codecs = G711a",
            "Media-Info = timeout",
            "NAS-IP-Address = 192.0.2.7",
            "Sip-Applications = audio",
            "Sip-From-Tag = from-50",
            "Sip-To-Tag = to-50",
            "Sip-User-Agents = Phone 1.0+Other \u{e9} 2",
            "User-Name = user1@example.com",
        ]
    );
}

#[test]
fn a_server_that_is_killed_stopped_and_started_again() {
    let Some(mut server) = FreeRadius::start() else {
        return;
    };
    let mut radius = open(server.client(&[], &[], "radius_timeout 3\nradius_retries 1"));
    let records = records(1000);
    let failures = deliver_in_trouble(
        &mut server,
        &mut radius,
        &records,
        &[(500, 1), (900, 2)],
        |server, run| {
            wait_for(server, 200);
            server.kill();
            run.made_trouble();
            run.wait_for_failure();
            server.restart();
            wait_for(server, 600);
            server.stop();
            run.made_trouble();
            run.wait_for_failure();
            server.restart();
        },
    );
    assert!(failures.len() >= 2, "{failures:?}");
    let refused = |why: &&String| why.contains("Connection refused");
    assert!(failures.iter().any(|why| refused(&why)), "{failures:?}");
    // What it had written and not answered when it ended comes twice; no more than were open at once.
    let repeated = check(&server.details(), &records);
    assert!(repeated <= 2 * 16, "{repeated}");
}

#[test]
fn a_frozen_server_gets_what_comes_again_byte_for_byte() {
    let Some(mut server) = FreeRadius::start() else {
        return;
    };
    let mut radius = open(server.client(&[], &[], "radius_timeout 1\nradius_retries 1"));
    let records = records(1000);
    let failures = deliver_in_trouble(
        &mut server,
        &mut radius,
        &records,
        &[(600, 1)],
        |server, run| {
            wait_for(server, 300);
            server.freeze();
            run.made_trouble();
            run.wait_for_failure();
            server.thaw();
        },
    );
    // Of the server, or of those of its requests that others overtook before it froze.
    assert!(!failures.is_empty());
    assert!(failures[0].contains("no answer"), "{failures:?}");
    // FreeRADIUS knows a repetition while it works on the first of them, and not once it has answered.
    let details = server.details();
    check(&details, &records);
    let mut signatures = BTreeMap::new();
    for detail in &details {
        let signature = &detail["Message-Authenticator"];
        let first = signatures
            .entry(&detail["Acct-Session-Id"])
            .or_insert(signature);
        assert_eq!(*first, signature, "the same packet");
    }
}

#[test]
fn the_next_server_takes_over() {
    let (Some(mut first), Some(second)) = (FreeRadius::start(), FreeRadius::start()) else {
        return;
    };
    let other = format!("127.0.0.1:{}", second.port());
    let mut radius = open(first.client(&[], &[&other], "radius_timeout 3\nradius_retries 1"));
    let records = records(1000);
    let failures = deliver_in_trouble(
        &mut first,
        &mut radius,
        &records,
        &[(600, 1)],
        |first, run| {
            wait_for(first, 300);
            first.kill();
            run.made_trouble();
        },
    );
    assert!(failures.is_empty(), "{failures:?}");
    let (before, after) = (first.details(), second.details());
    assert!(before.len() >= 300 && !after.is_empty());
    let repeated = check(&[before, after].concat(), &records);
    assert!(repeated <= 16, "{repeated}");
}

#[test]
fn a_session_that_the_server_does_not_take_holds_up_no_other() {
    let Some(server) = FreeRadius::start() else {
        return;
    };
    let mut radius = open(server.client(&[], &[], "radius_timeout 1\nradius_retries 1"));
    let mut all = records(200);
    let refused = all[0].info.replace("user0@example.com", "refused");
    let refused = refused.replace("\"00000000\"", "\"refused\"");
    all.insert(20, Record::parse(&refused).unwrap());
    let (verdicts, failures) = deliver_all(&mut radius, &all, &Run::default());
    assert_eq!(
        failures,
        (1..3)
            .map(|n| format!("session refused alone got no answer, {n} of 3 times"))
            .collect::<Vec<_>>()
    );
    assert!(
        matches!(&verdicts[20], DeliveryResult::Rejected(why) if why.contains("3 times not for this one"))
    );
    all.remove(20);
    assert_eq!(
        verdicts
            .iter()
            .filter(|verdict| **verdict == DeliveryResult::Delivered)
            .count(),
        200
    );
    check(&server.details(), &all);
}

#[test]
fn a_wrong_secret_is_told_from_nothing_but_silence() {
    let Some(server) = FreeRadius::start() else {
        return;
    };
    let config = server.client(&[], &[], "radius_timeout 1\nradius_retries 0");
    std::fs::write(
        config.with_file_name("servers"),
        "127.0.0.1 another-secret\n",
    )
    .unwrap();
    let mut radius = open(config);
    let mut verdicts = Vec::new();
    let why = radius
        .deliver(&records(3), &mut verdicts)
        .unwrap_err()
        .to_string();
    let expected = format!(
        "127.0.0.1:{}: no answer, asked 1 time in 1 s: does it run, and is this host its client, with this secret?",
        server.port()
    );
    assert_eq!(why, expected);
    assert!(verdicts.is_empty() && server.details().is_empty());
}

/// What a site has: OpenSIPS' own dictionary, as far as accounting needs it. Its numbers of the tags are those since 3.4.
const SITE: &str = "ATTRIBUTE User-Name 1 string\nATTRIBUTE NAS-IP-Address 4 ipaddr\nATTRIBUTE Acct-Status-Type 40 integer\n\
    ATTRIBUTE Acct-Delay-Time 41 integer\nATTRIBUTE Acct-Input-Octets 42 integer\nATTRIBUTE Acct-Output-Octets 43 integer\n\
    ATTRIBUTE Acct-Session-Id 44 string\nATTRIBUTE Acct-Session-Time 46 integer\nATTRIBUTE Sip-Method 204 integer\n\
    ATTRIBUTE Sip-From-Tag 206 string # acc\nATTRIBUTE Sip-To-Tag 207 string # acc\n\
    VALUE Acct-Status-Type Start 1\nVALUE Acct-Status-Type Interim-Update 3\nVALUE Acct-Status-Type Alive 3 #dup\n";

/// What is in the file that MediaProxy installs.
const THEIRS: &str = "#\n### Acct-Status-Type Values ###\nVALUE           Acct-Status-Type       Update   3          # RFC2866, acc\n\
    ATTRIBUTE       Sip-User-Agents        235      string     # x\nATTRIBUTE       Sip-Applications       236      string     # x\n\
    ATTRIBUTE       Media-Codecs           233      string     # x\nATTRIBUTE       Media-Info             234      string     # x\n";

/// Sends a record as MediaProxy does: attributes by name, from the dictionaries of its configuration.
const MEDIAPROXY: &str = r#"
import hashlib, hmac, socket, sys
try:
    import pyrad.client, pyrad.dictionary
except ImportError:
    sys.exit(77)
port, secret, *files = sys.argv[1:]
client = pyrad.client.Client('127.0.0.1', secret=secret.encode(), dict=pyrad.dictionary.Dictionary(*files))
packet = client.CreateAcctPacket(**{
    'Acct-Status-Type': 'Update', 'User-Name': 'user1@example.com', 'Acct-Session-Id': 'theirs', 'Acct-Session-Time': 51,
    'Acct-Input-Octets': 50000, 'Acct-Output-Octets': 150, 'Sip-From-Tag': 'from-50', 'Sip-To-Tag': 'to-50',
    'NAS-IP-Address': '192.0.2.7', 'Sip-User-Agents': 'a+b', 'Sip-Applications': 'audio', 'Media-Codecs': 'G711a',
    'Media-Info': 'timeout', 'Acct-Delay-Time': 1})
# The test's server wants a Message-Authenticator, of which MediaProxy knows nothing.
raw = packet.RequestPacket()
head, rest, key = raw[:2] + (len(raw) + 18).to_bytes(2, 'big'), raw[20:], secret.encode()
rest = b'\x50\x12' + hmac.new(key, head + bytes(16) + b'\x50\x12' + bytes(16) + rest, 'md5').digest() + rest
head += hashlib.md5(head + bytes(16) + rest + key).digest()
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.settimeout(20)
asking.sendto(head + rest, ('127.0.0.1', int(port)))
assert asking.recv(4096)[0] == 5
"#;

/// Forth with MediaProxy's dictionary, back with ours: the server finds the tags under the site's numbers each time.
#[test]
fn dictionaries_serve_mediaproxy_and_us() {
    let Some(mut server) = FreeRadius::start() else {
        return;
    };
    server.restart_with_tags([206, 207]);
    let directory = Scratch::new("mediaproxy-dictionaries").unwrap();
    let file = |name: &str| directory.path().join(name);
    let port = server.port();
    std::fs::write(file("site"), SITE).unwrap();
    std::fs::write(file("theirs"), THEIRS).unwrap();
    std::fs::write(file("servers"), format!("127.0.0.1 {RADIUS_SECRET}\n")).unwrap();
    let client = format!(
        "acctserver 127.0.0.1:{port}\nservers servers\ndictionary {}\n",
        file("site").display()
    );
    std::fs::write(file("client.conf"), client).unwrap();
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/radius/dictionary");
    for (count, additional_dictionary) in [(1, file("theirs")), (2, ours.clone())] {
        let section = RadiusSection {
            config_file: file("client.conf"),
            additional_dictionary,
        };
        let mut radius = Radius::open(&section).unwrap();
        let mut verdicts = Vec::new();
        radius.deliver(&[record(50)], &mut verdicts).unwrap();
        assert_eq!(verdicts, [DeliveryResult::Delivered]);
        wait_for(&server, count);
    }
    let details = server.details();
    for detail in &details {
        assert_eq!(
            (&*detail["Sip-From-Tag"], &*detail["Sip-To-Tag"]),
            ("from-50", "to-50")
        );
        assert_eq!(detail["Acct-Status-Type"], "Interim-Update");
        assert_eq!(detail["Media-Codecs"], "G711a");
    }
    let mut mediaproxy = Command::new("/usr/bin/python3");
    mediaproxy.args(["-c", MEDIAPROXY, &port.to_string(), RADIUS_SECRET]);
    let status = mediaproxy.arg(file("site")).arg(&ours).output().unwrap();
    if status.status.code() == Some(77) {
        skip("MediaProxy with our dictionary: python3-pyrad is not installed");
        return;
    }
    assert!(status.status.success(), "{status:?}");
    wait_for(&server, 3);
    let (by_us, by_them) = (&details[1], &server.details()[2]);
    for name in [
        "Acct-Status-Type",
        "Acct-Session-Time",
        "Acct-Output-Octets",
        "Sip-From-Tag",
        "Sip-To-Tag",
        "NAS-IP-Address",
        "Sip-Applications",
        "Media-Codecs",
        "Media-Info",
        "Acct-Delay-Time",
    ] {
        assert_eq!(by_us[name], by_them[name], "{name}");
    }
    assert_eq!(by_them["Sip-User-Agents"], "a+b");
}
