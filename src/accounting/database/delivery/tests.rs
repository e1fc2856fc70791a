//! Batches, duplicates and failures, against a table in memory that can be made to fail.

use std::sync::{Arc, Mutex};

use super::super::table::Column;
use super::*;

/// A row: call-id, from tag, to tag, statistics.
type Kept = (String, String, Option<String>, String);

#[derive(Default)]
struct Table {
    rows: Vec<Kept>,
    /// Sizes of the batches that were tried.
    batches: Vec<usize>,
    connections: usize,
    /// Statements until one fails.
    healthy: Option<usize>,
    unique: bool,
    /// A unique index on call_id alone, which the shape does not know of.
    narrow: bool,
    locked: bool,
    /// Something has failed since `lock`: no further question until `unlock`, as in PostgreSQL.
    aborted: bool,
    /// What a connection answers when asked whether it is still there.
    dead: bool,
}

#[derive(Clone)]
struct Fake(Arc<Mutex<Table>>);

impl Fake {
    fn new() -> Fake {
        Fake(Arc::new(Mutex::new(Table {
            unique: true,
            ..Table::default()
        })))
    }

    fn statement(&self) -> Result<std::sync::MutexGuard<'_, Table>, Failure> {
        let mut table = self.0.lock().unwrap();
        match &mut table.healthy {
            Some(0) => return Err(Failure::Unavailable("gone".into())),
            Some(left) => *left -= 1,
            None => (),
        }
        if table.aborted {
            let why = "current transaction is aborted".into();
            return Err(Failure::Unavailable(why));
        }
        Ok(table)
    }

    fn infos(&self) -> usize {
        self.0.lock().unwrap().rows.len()
    }
}

impl Driver for Fake {
    fn connect(&self) -> Result<Box<dyn Link>, String> {
        let mut table = self.0.lock().unwrap();
        if table.healthy == Some(0) {
            return Err("refused".into());
        }
        table.connections += 1;
        table.locked = false;
        let shape = Shape {
            call_id: Column::ANY,
            from_tag: Column::ANY,
            to_tag: Column::ANY,
            info: Column {
                room: super::super::table::Room::Bytes(300),
                ..Column::ANY
            },
            unique: table.unique,
        };
        Ok(Box::new(Connection(self.clone(), shape)))
    }
}

struct Connection(Fake, Shape);

impl Link for Connection {
    fn shape(&self) -> &Shape {
        &self.1
    }

    fn is_alive(&mut self, _: Duration) -> bool {
        !self.0.0.lock().unwrap().dead
    }

    fn insert(&mut self, rows: &[Row]) -> Result<(), Failure> {
        let mut table = self.0.statement()?;
        let added = Connection::add(&mut table, rows);
        table.aborted = table.locked && added.is_err();
        added
    }

    fn find(&mut self, row: &Row) -> Result<Vec<Vec<u8>>, Failure> {
        let table = self.0.statement()?;
        let key = (&*row.call_id, &*row.from_tag, row.to_tag.as_deref());
        let same = |kept: &&Kept| (&*kept.0, &*kept.1, kept.2.as_deref()) == key;
        let found = table.rows.iter().filter(same);
        Ok(found.map(|kept| kept.3.clone().into_bytes()).collect())
    }

    fn lock(&mut self, _: &str) -> Result<(), Failure> {
        self.0.statement()?.locked = true;
        Ok(())
    }

    fn unlock(&mut self) -> Result<(), Failure> {
        self.0.0.lock().unwrap().aborted = false;
        self.0.statement()?.locked = false;
        Ok(())
    }
}

impl Connection {
    fn add(table: &mut Table, rows: &[Row]) -> Result<(), Failure> {
        table.batches.push(rows.len());
        let mut added = Vec::new();
        for row in rows {
            let row: Kept = (
                row.call_id.to_string(),
                row.from_tag.to_string(),
                row.to_tag.as_deref().map(str::to_owned),
                row.info.to_string(),
            );
            let same = |kept: &&Kept| (&kept.0, &kept.1, &kept.2) == (&row.0, &row.1, &row.2);
            let there = table.rows.iter().chain(&added).any(|kept| same(&kept));
            let narrow =
                table.narrow && table.rows.iter().chain(&added).any(|kept| kept.0 == row.0);
            if there && table.unique && row.2.is_some() || narrow {
                return Err(Failure::Duplicate("duplicate".into()));
            }
            if row.0 == "bad" {
                return Err(Failure::Row("a bad one".into()));
            }
            assert!(row.2.is_some() && table.unique || table.locked);
            added.push(row);
        }
        table.rows.extend(added);
        Ok(())
    }
}

fn record(call_id: &str, to_tag: Option<&str>, session_id: &str) -> Record {
    let to_tag = serde_json::to_string(&to_tag).unwrap();
    let info = format!(
        r#"{{"call_id":"{call_id}","from_tag":"f","to_tag":{to_tag},"session_id":"{session_id}"}}"#
    );
    Record::parse(&info).unwrap()
}

fn many(count: usize) -> Vec<Record> {
    let record = |number| record(&format!("c{number}"), Some("t"), &format!("s{number}"));
    (0..count).map(record).collect()
}

fn database(fake: &Fake) -> Database {
    Database::new("fake".into(), Box::new(fake.clone()))
}

fn deliver(database: &mut Database, records: &[Record]) -> Vec<DeliveryResult> {
    let mut verdicts = Vec::new();
    database.deliver(records, &mut verdicts).unwrap();
    assert_eq!(verdicts.len(), records.len());
    verdicts
}

#[test]
fn batches_over_one_connection() {
    let fake = Fake::new();
    let mut database = database(&fake);
    database.prepare().unwrap();
    assert_eq!(
        deliver(&mut database, &many(250)),
        vec![DeliveryResult::Delivered; 250]
    );
    assert_eq!(deliver(&mut database, &[]), []);
    let table = fake.0.lock().unwrap();
    assert_eq!((table.rows.len(), table.connections), (250, 1));
    assert_eq!(table.batches, [100, 100, 50]);
}

#[test]
fn a_connection_lost_while_nobody_looked_is_made_anew() {
    let fake = Fake::new();
    let mut database = database(&fake);
    deliver(&mut database, &many(1));
    fake.0.lock().unwrap().dead = true;
    assert_eq!(deliver(&mut database, &many(1)), [DeliveryResult::Known]);
    assert_eq!(fake.0.lock().unwrap().connections, 2);
}

#[test]
fn a_batch_that_came_before_is_known() {
    let fake = Fake::new();
    let mut database = database(&fake);
    let records = many(30);
    deliver(&mut database, &records[..20]);
    let verdicts = deliver(&mut database, &records);
    assert_eq!(verdicts[..20], vec![DeliveryResult::Known; 20]);
    assert_eq!(verdicts[20..], vec![DeliveryResult::Delivered; 10]);
    assert_eq!(fake.infos(), 30);
}

#[test]
fn one_that_cannot_be_had_holds_up_no_other() {
    let fake = Fake::new();
    let mut records = many(5);
    records[1] = record("bad", Some("t"), "x");
    // The key of another session, and of the same batch.
    records[3] = record("c0", Some("t"), "y");
    let long = record(&"c".repeat(300), Some("t"), "z");
    records.push(long);
    let verdicts = deliver(&mut database(&fake), &records);
    assert_eq!(verdicts[1], DeliveryResult::Rejected("a bad one".into()));
    assert_eq!(
        verdicts[3],
        DeliveryResult::Rejected(
            "its call_id, from_tag and to_tag are in the table already, with the session s0".into()
        )
    );
    let DeliveryResult::Rejected(reason) = &verdicts[5] else {
        panic!("{verdicts:?}");
    };
    assert!(
        reason.ends_with("the column for them, which holds 300 bytes"),
        "{reason}"
    );
    for good in [0, 2, 4] {
        assert_eq!(verdicts[good], DeliveryResult::Delivered);
    }
    assert_eq!(fake.infos(), 3);
}

#[test]
fn the_row_of_another_program_is_told_apart() {
    let fake = Fake::new();
    for info in ["{\"duration\": 3}", "no JSON"] {
        let row = ("c0".into(), "f".into(), Some("t".into()), info.into());
        fake.0.lock().unwrap().rows = vec![row];
        let verdicts = deliver(&mut database(&fake), &many(1));
        let DeliveryResult::Rejected(reason) = &verdicts[0] else {
            panic!("{verdicts:?}");
        };
        assert!(
            reason.ends_with("without session_id, which another program wrote"),
            "{reason}"
        );
    }
}

#[test]
fn without_a_to_tag_it_is_looked_for() {
    let fake = Fake::new();
    let mut database = database(&fake);
    let mut records = many(4);
    records[1] = record("null", None, "n1");
    records[2] = record("null", None, "n2");
    assert_eq!(
        deliver(&mut database, &records),
        vec![DeliveryResult::Delivered; 4]
    );
    assert_eq!(
        deliver(&mut database, &records),
        vec![DeliveryResult::Known; 4]
    );
    assert_eq!(fake.infos(), 4);
    assert!(!fake.0.lock().unwrap().locked);
}

/// What another index of the table refuses is refused for good, and what is behind it goes on.
#[test]
fn an_index_that_nobody_expects_holds_up_nothing() {
    for unique in [false, true] {
        let fake = Fake::new();
        {
            let mut table = fake.0.lock().unwrap();
            (table.unique, table.narrow) = (unique, true);
        }
        let mut database = database(&fake);
        let mut records = many(3);
        records.insert(1, record("c0", Some("another"), "s9"));
        let verdicts = deliver(&mut database, &records);
        assert_eq!(verdicts[1], DeliveryResult::Rejected("duplicate".into()));
        for other in [0, 2, 3] {
            assert_eq!(verdicts[other], DeliveryResult::Delivered);
        }
    }
}

#[test]
fn a_table_without_the_index_has_no_second_row_either() {
    let fake = Fake::new();
    fake.0.lock().unwrap().unique = false;
    let mut database = database(&fake);
    let mut records = many(3);
    records.push(record("c0", Some("t"), "other"));
    let verdicts = deliver(&mut database, &records);
    assert!(
        matches!(verdicts[3], DeliveryResult::Rejected(_)),
        "{verdicts:?}"
    );
    assert_eq!(
        deliver(&mut database, &records)[..3],
        vec![DeliveryResult::Known; 3]
    );
    assert_eq!(fake.infos(), 3);
}

/// The connection is lost at each statement in turn; what has no verdict comes again.
#[test]
fn lost_at_any_statement_nothing_is_lost_and_nothing_twice() {
    let mut records = many(6);
    records[2] = record("null", None, "n1");
    records[4] = record("bad", Some("t"), "b");
    for statements in 0..20 {
        let fake = Fake::new();
        let mut database = database(&fake);
        deliver(&mut database, &records[..2]);
        fake.0.lock().unwrap().healthy = Some(statements);
        let mut verdicts = Vec::new();
        let first = database.deliver(&records, &mut verdicts);
        assert_eq!(first.is_ok(), verdicts.len() == records.len());
        fake.0.lock().unwrap().healthy = None;
        let settled = verdicts.len();
        database
            .deliver(&records[settled..], &mut verdicts)
            .unwrap();
        assert_eq!(verdicts.len(), records.len(), "after {statements}");
        assert_eq!(verdicts[4], DeliveryResult::Rejected("a bad one".into()));
        assert_eq!(fake.infos(), 5, "after {statements}");
    }
}

#[test]
fn a_slow_server_is_left_in_time() {
    let fake = Fake::new();
    let mut link = fake.connect().unwrap();
    let mut verdicts = Vec::new();
    let result = settle(&mut *link, &many(3), &mut verdicts, Moment::START);
    assert_eq!(result, Ok(false));
    assert_eq!(verdicts, []);
}
