//! Records for the tests of backends, and how a dispatcher delivers them.

use std::path::Path;
use std::thread;
use std::time::Duration;

use mediaproxy::accounting::{Backend, DeliveryResult, Record, Unavailable, database};
use mediaproxy::config;
use mediaproxy::sys::clock;

/// The one backend of this URI.
pub fn backend(uri: &str) -> Box<dyn Backend> {
    backend_with(uri, "")
}

/// With more lines for `[Database]`.
pub fn backend_with(uri: &str, more: &str) -> Box<dyn Backend> {
    let mut backends = open(uri, more).unwrap();
    assert_eq!(backends.len(), 1);
    backends.remove(0)
}

pub fn open(uri: &str, more: &str) -> Result<Vec<Box<dyn Backend>>, String> {
    let uri = uri.replace('%', "%%");
    let text = format!("[Dispatcher]\naccounting = database\n[Database]\ndburi = {uri}\n{more}\n");
    let (_, dispatcher) = config::read_text(Path::new("/etc/mediaproxy"), text.as_bytes());
    database::open(&dispatcher.unwrap().config.database)
}

/// A record as the relay makes it, of `number` seconds.
pub fn record(number: usize) -> Record {
    let call_id = format!("{number}-call@192.0.2.1");
    keyed(number, &call_id, "from", Some("to"))
}

/// `session_id` is made from the number.
pub fn keyed(number: usize, call_id: &str, from_tag: &str, to_tag: Option<&str>) -> Record {
    let info = serde_json::json!({
        "call_id": call_id, "from_tag": from_tag, "to_tag": to_tag,
        "session_id": format!("00000000-0000-4000-8000-{number:012}"),
        "from_uri": "sip:alice@example.com", "to_uri": "sip:bob@example.com", "duration": number,
        "caller_ua": "Zoë's phone \u{1f600} \\ ' \" %s ?", "callee_ua": "Unknown", "timed_out": false,
        "streams": [{"media_type": "audio", "caller_codec": "G711a", "caller_bytes": number * 8000,
            "callee_bytes": number * 7900, "status": "closed", "caller_remote": "192.0.2.7:40000"}],
    });
    Record::parse(&info.to_string()).unwrap()
}

pub fn records(numbers: std::ops::Range<usize>) -> Vec<Record> {
    numbers.map(record).collect()
}

/// Deliveries as large as those of a dispatcher, in which all is settled.
pub fn deliver(backend: &mut dyn Backend, records: &[Record]) -> Vec<DeliveryResult> {
    let mut verdicts = Vec::new();
    for part in records.chunks(256) {
        backend.deliver(part, &mut verdicts).unwrap();
    }
    assert_eq!(verdicts.len(), records.len());
    verdicts
}

/// As the dispatcher does it: again and again until all are settled. Panics after a minute.
pub fn deliver_all(backend: &mut dyn Backend, records: &[Record]) -> Vec<DeliveryResult> {
    let mut verdicts = Vec::new();
    let start = clock::moment();
    while let Err(Unavailable(why)) = backend.deliver(&records[verdicts.len()..], &mut verdicts) {
        assert!((clock::moment() - start) < Duration::from_secs(60), "{why}");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(verdicts.len(), records.len());
    verdicts
}

/// One delivery that fails, in bounded time; the reason.
pub fn unavailable(backend: &mut dyn Backend, records: &[Record]) -> String {
    let start = clock::moment();
    let Unavailable(why) = backend.deliver(records, &mut Vec::new()).unwrap_err();
    assert!(
        (clock::moment() - start) < Duration::from_secs(30),
        "{:?}",
        (clock::moment() - start)
    );
    why
}

/// The reason of the only verdict.
pub fn rejected(backend: &mut dyn Backend, record: Record) -> String {
    let verdicts = deliver(backend, &[record]);
    match &verdicts[0] {
        DeliveryResult::Rejected(reason) => reason.clone(),
        other => panic!("{other:?}"),
    }
}

/// What a record adds to the sums that [`sums`] finds in the table.
pub fn expected_sums(records: &[Record]) -> (usize, u64, u64) {
    let infos: Vec<&str> = records.iter().map(|record| &*record.info).collect();
    sums(&infos.join("\n"))
}

/// Of statistics, one a line: how many, their seconds, their bytes from callers.
pub fn sums(infos: &str) -> (usize, u64, u64) {
    let mut sums = (0, 0, 0);
    for line in infos.lines() {
        let info: serde_json::Value = serde_json::from_str(line).expect(line);
        sums.0 += 1;
        sums.1 += info["duration"].as_u64().unwrap();
        sums.2 += info["streams"][0]["caller_bytes"].as_u64().unwrap();
    }
    sums
}
