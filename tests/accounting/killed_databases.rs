//! A dispatcher that is killed (-9) at every step between its journal and MariaDB or PostgreSQL, the real ones: at each
//! question and each answer, while the server works, before and after the position is written. Nothing is lost, nothing
//! is there twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mediaproxy::accounting::Record;
use mediaproxy::sys::clock;

use crate::support::between::{Between, Side, Stop, Turn};
use crate::support::killed::{
    Journal, MANY, OWN_STEPS, POSITION_CALLS, finish, go_on, killed_at, killed_at_position,
    killed_by_itself, start, wait,
};
use crate::support::records::{self, deliver, expected_sums, keyed, record, sums};
use crate::support::scratch::Scratch;
use crate::support::servers::{Held, MariaDb, Postgres};

/// A database, for all cases, each with a table of its own.
trait Database {
    /// By this port, where something stands in between.
    fn uri_by(&self, port: u16) -> String;

    fn ask(&self, statement: &str) -> String;

    /// A query for the statistics in a table as text.
    fn infos(&self, table: &str) -> String;

    /// Statements of the conversation that every run has to have come by.
    fn landmarks(&self) -> &'static [&'static str];

    fn own_port(&self) -> u16;

    fn lock(&self, table: &str) -> Held;

    fn waiting(&self) -> usize;
}

impl Database for MariaDb {
    fn uri_by(&self, port: u16) -> String {
        let uri = self
            .uri()
            .replace(&self.port().to_string(), &port.to_string());
        format!("{uri}?sslmode=disable")
    }

    fn ask(&self, statement: &str) -> String {
        self.sql(statement)
    }

    fn infos(&self, table: &str) -> String {
        format!("SELECT '{table}', CONVERT(info USING utf8mb4) FROM {table}")
    }

    fn landmarks(&self) -> &'static [&'static str] {
        &["GET_LOCK", "RELEASE_LOCK", "INSERT INTO", "SELECT `info`"]
    }

    fn own_port(&self) -> u16 {
        self.port()
    }

    fn lock(&self, table: &str) -> Held {
        self.lock_table(table)
    }

    fn waiting(&self) -> usize {
        self.waiting_for_locks()
    }
}

impl Database for Postgres {
    fn uri_by(&self, port: u16) -> String {
        let uri = self
            .uri()
            .replace(&self.port().to_string(), &port.to_string());
        format!("{uri}?sslmode=disable")
    }

    fn ask(&self, statement: &str) -> String {
        self.sql(statement)
    }

    fn infos(&self, table: &str) -> String {
        format!("SELECT '{table}', convert_from(info, 'UTF8') FROM {table}")
    }

    fn landmarks(&self) -> &'static [&'static str] {
        &[
            "BEGIN",
            "pg_advisory",
            "INSERT INTO",
            "SELECT \"info\"",
            "COMMIT",
        ]
    }

    fn own_port(&self) -> u16 {
        self.port()
    }

    fn lock(&self, table: &str) -> Held {
        self.lock_table(table)
    }

    fn waiting(&self) -> usize {
        self.waiting_for_locks()
    }
}

/// A batch, and one that is looked for under a lock.
fn few() -> Vec<Record> {
    let mut records = records::records(0..4);
    records.push(keyed(4, "null", "f", None));
    records
}

/// All cases of one kind of database.
struct Cases<'a> {
    database: &'a dyn Database,
    between: &'a Between,
    /// How many records each table has to have in the end.
    tables: BTreeMap<String, usize>,
}

impl Cases<'_> {
    fn journal(&self, records: &[Record]) -> Journal {
        let uri = self.database.uri_by(self.between.port()).replace('%', "%%");
        Journal::new(&format!("[Database]\ndburi = {uri}"), "database", records)
    }

    /// The conversation of a process that is not killed, up to the last answer.
    fn conversation(&mut self, case: &Scratch) -> Vec<Turn> {
        self.between.go_on();
        go_on(case, "never");
        let mut turns = self.between.turns();
        while turns.last().is_some_and(|turn| turn.from == Side::Client) {
            turns.pop();
        }
        turns
    }

    /// A case with a table of its own, with some of the records in it already where `is_half_there`: as after a kill
    /// before the position was written.
    fn case(
        &mut self,
        journal: &Journal,
        records: usize,
        is_half_there: bool,
    ) -> (String, Scratch) {
        let table = format!("case_{}", self.tables.len());
        self.tables.insert(table.clone(), records);
        let more = format!("sessions_table = {table}\n");
        if is_half_there {
            let uri = self.database.uri_by(self.database.own_port());
            let mut backend = records::backend_with(&uri, &more);
            let there = [record(1), record(3), keyed(4, "null", "f", None)];
            deliver(&mut *backend, &there);
        }
        let case = journal.case(&more);
        (table, case)
    }

    /// Killed at each question when half of it was sent, and at each answer before it has come.
    fn at_every_turn(&mut self, is_half_there: bool) {
        let journal = self.journal(&few());
        let (_, case) = self.case(&journal, 5, is_half_there);
        let turns = self.conversation(&case);
        let said = |text: &str| turns.iter().position(|turn| turn.text.contains(text));
        let landmarks = self.database.landmarks().iter();
        for landmark in landmarks.chain(is_half_there.then_some(&"uplicate")) {
            assert!(said(landmark).is_some(), "{landmark} in {turns:?}");
        }
        // How it connects is the same in both.
        let first = if is_half_there {
            said("INSERT INTO")
        } else {
            None
        };
        let mut counts = [0, 0];
        for (at, turn) in turns.iter().enumerate() {
            let count = &mut counts[usize::from(turn.from == Side::Server)];
            let stop = match turn.from {
                Side::Client => Stop::Within(Side::Client, *count),
                Side::Server => Stop::Before(Side::Server, *count),
            };
            *count += 1;
            if first.is_some_and(|first| at < first) {
                continue;
            }
            let (table, case) = self.case(&journal, 5, is_half_there);
            let what = format!("{table}: {stop:?} {}", turn.text);
            killed_at(&case, self.between, stop, &what);
        }
    }

    /// Killed before and after deliveries, and so before and after the position is written.
    fn at_every_delivery(&mut self) {
        let journal = self.journal(&records::records(0..MANY));
        for step in OWN_STEPS {
            let (_, case) = self.case(&journal, MANY, false);
            killed_by_itself(&case, step);
        }
    }

    /// Killed while the position is written.
    fn within_the_position(&mut self) {
        let journal = self.journal(&records::records(0..MANY));
        for call in POSITION_CALLS {
            let (table, case) = self.case(&journal, MANY, false);
            if !killed_at_position(&case, call) {
                self.tables.remove(&table);
            }
        }
    }

    /// Killed while the server works at what was sent last, which it does in the end; the next process meets that.
    fn under_way(&mut self, all: &[Record]) {
        let journal = self.journal(all);
        let (table, case) = self.case(&journal, all.len(), false);
        // So that the table is there.
        let uri = self.database.uri_by(self.database.own_port());
        let more = format!("sessions_table = {table}\n");
        records::backend_with(&uri, &more).prepare().unwrap();
        let lock = self.database.lock(&table);
        let mut process = start(&case, "never");
        wait("an insert that waits", || self.database.waiting() == 1);
        process.kill().unwrap();
        process.wait().unwrap();
        let next = start(&case, "never");
        // The server gives up what waits for too long; then there is only one.
        let end = clock::moment() + Duration::from_secs(5);
        wait("both to wait", || {
            self.database.waiting() == 2 || clock::moment() > end
        });
        drop(lock);
        finish(next, &case, &table);
    }

    /// Every table has each record once.
    fn check(&self) {
        let tables: Vec<String> = self.tables.keys().map(|t| self.database.infos(t)).collect();
        let rows = self.database.ask(&tables.join(" UNION ALL "));
        let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (table, info) in rows.lines().filter_map(|row| row.split_once('\t')) {
            found.entry(table).or_default().push(info);
        }
        for (table, count) in &self.tables {
            let infos = found.get(table.as_str()).map_or(&[][..], |infos| infos);
            let ids: BTreeSet<String> = infos.iter().map(|info| session_id(info)).collect();
            assert_eq!((ids.len(), infos.len()), (*count, *count), "{table}");
            // The numbers of all records are those below the count.
            let expected = expected_sums(&records::records(0..*count));
            assert_eq!(sums(&infos.join("\n")), expected, "{table}");
        }
    }
}

fn session_id(info: &str) -> String {
    let info: serde_json::Value = serde_json::from_str(info).unwrap();
    info["session_id"].as_str().unwrap().to_owned()
}

fn nothing_is_lost_or_there_twice(database: &dyn Database) {
    let between = Between::tcp(database.own_port());
    let mut cases = Cases {
        database,
        between: &between,
        tables: BTreeMap::new(),
    };
    cases.at_every_turn(false);
    cases.at_every_turn(true);
    cases.at_every_delivery();
    cases.within_the_position();
    cases.under_way(&records::records(0..4));
    cases.under_way(&[keyed(0, "null", "f", None)]);
    cases.check();
}

#[test]
fn mariadb() {
    if let Some(server) = MariaDb::start() {
        nothing_is_lost_or_there_twice(&server);
    }
}

#[test]
fn postgresql() {
    let Some(server) = Postgres::start() else {
        return;
    };
    server.sql("GRANT CREATE ON SCHEMA public TO media");
    server.trust_all();
    nothing_is_lost_or_there_twice(&server);
}
