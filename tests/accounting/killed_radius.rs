//! A dispatcher that is killed (-9) at every step between its journal and FreeRADIUS, the real one: all is told at least
//! once, what comes again says the same, and is one row for FreeRADIUS.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mediaproxy::accounting::Record;

use crate::support::between::{Between, Side, Stop};
use crate::support::killed::{Journal, MANY, OWN_STEPS, killed_at, killed_by_itself};
use crate::support::records::keyed;
use crate::support::servers::{Detail, FreeRadius};

/// Calls of one case, told from those of all others.
fn calls(case: usize, count: usize) -> Vec<Record> {
    let call = |number| {
        let call_id = format!("case-{case}-{number}@192.0.2.1");
        keyed(1000 * case + number, &call_id, "from", Some("to"))
    };
    (0..count).map(call).collect()
}

#[test]
fn every_call_is_told_and_what_comes_again_is_the_same() {
    let Some(server) = FreeRadius::start_with_table() else {
        return;
    };
    let between = Between::udp(server.port());
    let config = server.client(&[], &[], "radius_timeout 2\nradius_retries 1");
    let text = fs::read_to_string(&config).unwrap();
    let by = text.replace(&server.port().to_string(), &between.port().to_string());
    fs::write(&config, by).unwrap();
    let dictionary = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/radius/dictionary");
    let section = format!(
        "[Radius]\nconfig_file = {}\nadditional_dictionary = {}",
        config.display(),
        dictionary.display()
    );
    let mut all: Vec<Vec<Record>> = Vec::new();
    // The first, in the middle of the first window, and behind it.
    for side in [Side::Client, Side::Server] {
        for count in [0, 7, 25] {
            let calls = calls(all.len(), 30);
            let case = Journal::new(&section, "radius", &calls).case("");
            let stop = Stop::Before(side, count);
            killed_at(&case, &between, stop, &format!("{stop:?}"));
            all.push(calls);
        }
    }
    for step in OWN_STEPS {
        let count = if step.ends_with('1') { 30 } else { MANY };
        let calls = calls(all.len(), count);
        let case = Journal::new(&section, "radius", &calls).case("");
        killed_by_itself(&case, step);
        all.push(calls);
    }
    let repeated = check_details(&server.details(), &all.concat());
    // What was answered before a kill, and not settled.
    assert!(repeated >= 1 + 8 + 26 + 30 + MANY - 256, "{repeated}");
    check_table(&server.table(), &all.concat());
}

/// Each call is there, and what is there again says the same. Returns how many are.
fn check_details(details: &[Detail], calls: &[Record]) -> usize {
    let mut found: BTreeMap<&str, Detail> = BTreeMap::new();
    for detail in details {
        let mut said = detail.clone();
        // When it came, and the signature of a packet that may have another identifier.
        for name in ["Timestamp", "Message-Authenticator"] {
            assert!(said.remove(name).is_some(), "{name}");
        }
        let first = found
            .entry(&detail["Acct-Session-Id"])
            .or_insert_with(|| said.clone());
        assert_eq!(*first, said);
    }
    assert_eq!(found.len(), calls.len());
    for call in calls {
        let detail = &found[&*call.call_id];
        assert_eq!(detail["Acct-Input-Octets"], caller_bytes(call).to_string());
    }
    details.len() - found.len()
}

/// FreeRADIUS's own table has a row for each call.
fn check_table(path: &Path, calls: &[Record]) {
    let table = rusqlite::Connection::open(path).unwrap();
    let mut query = table
        .prepare("SELECT acctsessionid, acctinputoctets FROM radacct ORDER BY acctsessionid")
        .unwrap();
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let rows: Vec<(String, i64)> = rows.unwrap().map(Result::unwrap).collect();
    let expected = calls
        .iter()
        .map(|call| (call.call_id.to_string(), caller_bytes(call)));
    let mut expected: Vec<(String, i64)> = expected.collect();
    expected.sort_unstable();
    assert_eq!(rows, expected);
}

fn caller_bytes(record: &Record) -> i64 {
    let info: serde_json::Value = serde_json::from_str(&record.info).unwrap();
    info["streams"][0]["caller_bytes"].as_i64().unwrap()
}
