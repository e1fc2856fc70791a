//! Two dispatchers that write into the same table at the same time, records of their own and the same ones: what one of
//! them has from a copy of the other's journal. With MariaDB and PostgreSQL, the real ones.

use std::collections::BTreeSet;
use std::ops::Range;

use mediaproxy::accounting::Record;

use crate::support::killed::{Journal, finish, start};
use crate::support::records::{expected_sums, keyed, record, sums};
use crate::support::servers::{Held, MariaDb, Postgres, until};

/// As the dispatcher makes it, but for what keeps rows from being there twice.
const COLUMNS: &str =
    "call_id VARCHAR(255) NOT NULL, from_tag VARCHAR(255) NOT NULL, to_tag VARCHAR(255)";

/// One in fifty is of a call without a final answer: the table does not keep it from being there twice.
fn some(numbers: Range<usize>) -> Vec<Record> {
    let some = |number: usize| match number % 50 {
        7 => keyed(number, "null", "f", None),
        _ => record(number),
    };
    numbers.map(some).collect()
}

/// Both deliver, and begin at once when the lock on the table is gone: a third of the records is in both journals, a
/// third in each.
fn deliver_from_both(
    uri: &str,
    table: &str,
    third: usize,
    lock: Held,
    waiting: impl Fn() -> usize,
) {
    let uri = uri.replace('%', "%%");
    let configuration = format!("[Database]\ndburi = {uri}\nsessions_table = {table}");
    let journal = |own: Range<usize>| {
        let records = [some(0..third), some(own)].concat();
        Journal::new(&configuration, "database", &records).case("")
    };
    let cases = [third..2 * third, 2 * third..3 * third].map(journal);
    let processes = cases.each_ref().map(|case| start(case, "never"));
    // The server gives up what waits for too long, and it comes again.
    until("both to wait", || waiting() == 2);
    drop(lock);
    for (process, case) in processes.into_iter().zip(&cases) {
        finish(process, case, table);
    }
}

/// Each of the records once.
fn check(rows: &str, records: usize) {
    let id = |info: &str| {
        let info: serde_json::Value = serde_json::from_str(info).unwrap();
        info["session_id"].as_str().unwrap().to_owned()
    };
    let ids: BTreeSet<String> = rows.lines().map(id).collect();
    assert_eq!(ids.len(), records);
    assert_eq!(sums(rows), expected_sums(&some(0..records)));
}

#[test]
fn into_mariadb() {
    let Some(server) = MariaDb::start() else {
        return;
    };
    let index = "info MEDIUMBLOB, UNIQUE (call_id, from_tag, to_tag)";
    for (table, rest, third) in [
        ("transactions", format!("{index}) ENGINE=InnoDB"), 1000),
        ("no_transactions", format!("{index}) ENGINE=MyISAM"), 500),
        ("no_index", "info MEDIUMBLOB) ENGINE=InnoDB".into(), 100),
    ] {
        server.sql(&format!(
            "CREATE TABLE {table} ({COLUMNS}, {rest} DEFAULT CHARACTER SET latin1"
        ));
        let (uri, lock) = (server.uri(), server.lock_table(table));
        deliver_from_both(&uri, table, third, lock, || server.waiting_for_locks());
        check(&server.sql(&format!("SELECT info FROM {table}")), 3 * third);
    }
}

#[test]
fn into_postgresql() {
    let Some(server) = Postgres::start() else {
        return;
    };
    for (table, index, third) in [
        ("with_index", ", UNIQUE (call_id, from_tag, to_tag)", 1000),
        ("no_index", "", 100),
    ] {
        server.sql(&format!(
            "CREATE TABLE {table} ({COLUMNS}, info BYTEA{index}); GRANT ALL ON {table} TO media"
        ));
        let (uri, lock) = (server.uri(), server.lock_table(table));
        deliver_from_both(&uri, table, third, lock, || server.waiting_for_locks());
        let rows = server.sql(&format!("SELECT convert_from(info, 'UTF8') FROM {table}"));
        check(&rows, 3 * third);
    }
}
