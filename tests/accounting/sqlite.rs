//! SQLite as a backend of accounting.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mediaproxy::accounting::DeliveryResult;
use rusqlite::Connection;

use crate::support::records::{
    self, backend, backend_with, deliver, expected_sums, keyed, record, records as numbered,
    rejected, sums, unavailable,
};
use crate::support::scratch::Scratch;
use crate::support::small_disk::SmallDisk;

fn uri(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

fn infos(path: &Path) -> String {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection
        .prepare("SELECT info FROM media_sessions")
        .unwrap();
    let infos = statement.query_map([], |row| {
        let info = row.get_ref(0)?;
        Ok(String::from_utf8(info.as_bytes()?.to_vec()).unwrap())
    });
    let infos: Vec<String> = infos.unwrap().map(Result::unwrap).collect();
    infos.join("\n")
}

#[test]
fn a_thousand_records_delivered_twice_are_there_once() {
    let scratch = Scratch::new("mediaproxy-sqlite").unwrap();
    let path = scratch.path().join("new/sessions.db");
    let mut backend = backend(&uri(&path));
    assert!(backend.name().starts_with("sqlite-"), "{}", backend.name());
    backend.prepare().unwrap();
    let records = numbered(0..1000);
    let delivered = deliver(&mut *backend, &records);
    assert_eq!(delivered, vec![DeliveryResult::Delivered; 1000]);
    assert_eq!(sums(&infos(&path)), expected_sums(&records));
    assert_eq!(
        deliver(&mut *backend, &records),
        vec![DeliveryResult::Known; 1000]
    );
    assert_eq!(sums(&infos(&path)).0, 1000);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

/// SQLite would wait for ever for what a FIFO says, or write where somebody else wants it.
#[test]
fn what_is_no_file_of_ours_hangs_nothing() {
    let scratch = Scratch::new("mediaproxy-sqlite").unwrap();
    let path = scratch.path().join("sessions.db");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let why = backend(&uri(&path)).prepare().unwrap_err().0;
    assert!(why.contains("a FIFO"), "{why}");
    fs::remove_file(&path).unwrap();
    let precious = scratch.path().join("precious");
    fs::write(&precious, "").unwrap();
    std::os::unix::fs::symlink(&precious, &path).unwrap();
    if std::os::unix::fs::lchown(&path, Some(1), None).is_ok() {
        let why = backend(&uri(&path)).prepare().unwrap_err().0;
        assert!(why.contains("symbolic link of user 1"), "{why}");
        assert_eq!(fs::metadata(&precious).unwrap().len(), 0);
    }
}

#[test]
fn a_table_of_mediaproxy_is_used_as_it_is() {
    let scratch = Scratch::new("mediaproxy-sqlite").unwrap();
    let path = scratch.path().join("sessions.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(
        "CREATE TABLE media_sessions (id INTEGER PRIMARY KEY, call_id VARCHAR(255) NOT NULL, \
         from_tag VARCHAR(64) NOT NULL, to_tag VARCHAR(64), info BLOB); \
         CREATE UNIQUE INDEX media_sessions_session_id_index ON media_sessions (call_id, from_tag, to_tag); \
         INSERT INTO media_sessions VALUES (7, '1-call@192.0.2.1', 'from', 'to', '{\"duration\": 5}')",
    )
    .unwrap();
    let mut backend = backend(&uri(&path));
    let reason = rejected(&mut *backend, record(1));
    assert!(reason.contains("another program"), "{reason}");
    let long = keyed(2, "long", &"f".repeat(300), Some(&"t".repeat(300)));
    // Of a call that was never answered there may be several, each once.
    let null = [keyed(3, "null", "f", None), keyed(4, "null", "f", None)];
    let mut verdicts = deliver(&mut *backend, &[long]);
    verdicts.extend(deliver(&mut *backend, &null));
    assert_eq!(verdicts, vec![DeliveryResult::Delivered; 3]);
    assert_eq!(
        deliver(&mut *backend, &null),
        vec![DeliveryResult::Known; 2]
    );
    let other = keyed(5, "long", &"f".repeat(300), Some(&"t".repeat(300)));
    let reason = rejected(&mut *backend, other);
    assert!(
        reason.ends_with("with the session 00000000-0000-4000-8000-000000000002"),
        "{reason}"
    );
    let count: i64 = old
        .query_row("SELECT count(*) FROM media_sessions", [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 4);
}

#[test]
fn other_names_a_text_column_and_no_index() {
    let scratch = Scratch::new("mediaproxy-sqlite").unwrap();
    let path = scratch.path().join("sessions.db");
    let table = Connection::open(&path).unwrap();
    table
        .execute_batch(
            "CREATE TABLE \"select\" (\"order\" TEXT, \"from\" TEXT, \"to\" TEXT, \"table\" TEXT)",
        )
        .unwrap();
    let names = "sessions_table = main.select\ncallid_column = ORDER\nfromtag_column = from\n\
                 totag_column = to\ninfo_column = table";
    let mut backend = backend_with(&uri(&path), names);
    assert_eq!(
        deliver(&mut *backend, &numbered(0..3)),
        vec![DeliveryResult::Delivered; 3]
    );
    assert_eq!(
        deliver(&mut *backend, &numbered(0..4))[..3],
        vec![DeliveryResult::Known; 3]
    );
    let kind: String = table
        .query_row(
            "SELECT group_concat(DISTINCT typeof(\"table\")) FROM \"select\"",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(kind, "text");
}

#[test]
fn what_keeps_it_from_writing_is_unavailable() {
    let scratch = Scratch::new("mediaproxy-sqlite").unwrap();
    let path = scratch.path().join("sessions.db");
    let mut backend = backend(&uri(&path));
    deliver(&mut *backend, &numbered(0..1));
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let why = unavailable(&mut *backend, &numbered(1..2));
    assert!(why.contains("locked"), "{why}");
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(
        deliver(&mut *backend, &numbered(0..2)),
        [DeliveryResult::Known, DeliveryResult::Delivered]
    );
    // Full, as SQLite itself sees it.
    other.execute_batch("CREATE TABLE filler (x)").unwrap();
    fs::rename(&path, scratch.path().join("moved.db")).unwrap();
    assert_eq!(
        deliver(&mut *backend, &numbered(2..3)),
        [DeliveryResult::Delivered]
    );
    assert_eq!(sums(&infos(&path)).0, 1);
    fs::write(
        &path,
        "this is not a database, and long enough for everybody to see that",
    )
    .unwrap();
    let why = records::backend(&uri(&path)).prepare().unwrap_err().0;
    assert!(why.contains("not a database"), "{why}");
}

#[test]
fn a_table_that_refuses_a_record() {
    let scratch = Scratch::new("mediaproxy-sqlite").unwrap();
    let path = scratch.path().join("sessions.db");
    let table = Connection::open(&path).unwrap();
    table
        .execute_batch(
            "CREATE TABLE media_sessions (call_id TEXT CHECK (call_id <> '1-call@192.0.2.1'), from_tag, \
             to_tag, info, UNIQUE (call_id, from_tag, to_tag))",
        )
        .unwrap();
    let verdicts = deliver(&mut *backend(&uri(&path)), &numbered(0..3));
    assert_eq!(
        (&verdicts[0], &verdicts[2]),
        (&DeliveryResult::Delivered, &DeliveryResult::Delivered)
    );
    assert!(
        matches!(&verdicts[1], DeliveryResult::Rejected(why) if why.contains("CHECK")),
        "{verdicts:?}"
    );
    table
        .execute_batch("DROP TABLE media_sessions; CREATE TABLE media_sessions (call_id)")
        .unwrap();
    let why = backend(&uri(&path)).prepare().unwrap_err().0;
    assert!(
        why.ends_with("the table media_sessions has no column from_tag"),
        "{why}"
    );
}

#[test]
fn the_same_database_twice_is_an_error() {
    let why = records::open("sqlite:///a.db sqlite:///a.db", "")
        .err()
        .unwrap();
    assert!(
        why.ends_with("the database sqlite-a-db is there twice"),
        "{why}"
    );
}

#[test]
fn a_full_disk() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let path = disk.path().join("sessions.db");
    let mut backend = backend(&uri(&path));
    let records = numbered(0..1000);
    let mut verdicts = Vec::new();
    let full = backend.deliver(&records, &mut verdicts).unwrap_err().0;
    assert!(full.contains("full"), "{full}");
    let there = verdicts.len();
    assert_eq!(verdicts, vec![DeliveryResult::Delivered; there]);
    assert_eq!(sums(&infos(&path)), expected_sums(&records[..there]));
    disk.enlarge();
    assert_eq!(
        deliver(&mut *backend, &records[there..]),
        vec![DeliveryResult::Delivered; 1000 - there]
    );
    assert_eq!(sums(&infos(&path)), expected_sums(&records));
}
