//! PostgreSQL as a backend of accounting: the server is started by the tests.

use std::thread;
use std::time::Duration;

use mediaproxy::accounting::DeliveryResult;

use crate::support::records::{
    self, backend, backend_with, deliver, deliver_all, expected_sums, keyed, record,
    records as numbered, rejected, sums, unavailable,
};
use crate::support::servers::{Certificates, Postgres, Server};

/// As MediaProxy makes it.
const MEDIAPROXY: &str = "CREATE TABLE media_sessions (id SERIAL PRIMARY KEY, call_id VARCHAR(255) NOT NULL, \
    from_tag VARCHAR(64) NOT NULL, to_tag VARCHAR(64), info BYTEA); \
    CREATE UNIQUE INDEX media_sessions_session_id_index ON media_sessions (call_id, from_tag, to_tag); \
    GRANT ALL ON ALL TABLES IN SCHEMA public TO media; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO media";

fn infos(server: &Postgres) -> String {
    server.sql("SELECT convert_from(info, 'UTF8') FROM media_sessions ORDER BY id")
}

fn fresh(server: &Postgres, table: &str) {
    server.sql(&format!("DROP TABLE IF EXISTS media_sessions; {table}"));
}

#[test]
fn tables_and_rows() {
    let Some(server) = Postgres::start() else {
        return;
    };
    a_thousand_records_delivered_twice_are_there_once(&server);
    names_are_compared_byte_for_byte(&server);
    a_table_of_mediaproxy_is_used_as_it_is(&server);
    other_types(&server);
    an_index_on_the_call_id_alone(&server);
    another_encoding(&server);
    without_the_right_to_make_the_table(&server);
    a_table_that_is_locked(&server);
    what_is_wrong_is_said(&server);
}

fn a_thousand_records_delivered_twice_are_there_once(server: &Postgres) {
    let mut backend = backend(&server.uri());
    assert_eq!(
        backend.name(),
        format!("postgres-127-0-0-1-{}-media", server.port())
    );
    server.sql("GRANT CREATE ON SCHEMA public TO media");
    backend.prepare().unwrap();
    let records = numbered(0..1000);
    let delivered = deliver(&mut *backend, &records);
    assert_eq!(delivered, vec![DeliveryResult::Delivered; 1000]);
    assert_eq!(sums(&infos(server)), expected_sums(&records));
    assert_eq!(
        deliver(&mut *backend, &records),
        vec![DeliveryResult::Known; 1000]
    );
    assert_eq!(server.sql("SELECT COUNT(*) FROM media_sessions"), "1000\n");
    // A second run finds the table, by the server's socket this time.
    let uri = server.uri_of("postgres", "");
    let by_socket = format!("{uri}?unix_socket={}", server.directory().display());
    assert_eq!(
        deliver(&mut *records::backend(&by_socket), &records[..2]),
        vec![DeliveryResult::Known; 2]
    );
}

fn names_are_compared_byte_for_byte(server: &Postgres) {
    fresh(server, "");
    let names = ["a", "A", "ä", "\u{1f600}", "\u{1f601}"];
    let named = |(number, name): (usize, &&str)| keyed(number, name, name, Some(name));
    let records: Vec<_> = names.iter().enumerate().map(named).collect();
    let mut backend = backend(&server.uri());
    assert_eq!(
        deliver(&mut *backend, &records),
        vec![DeliveryResult::Delivered; 5]
    );
    let long = [keyed(
        7,
        &"c".repeat(300),
        &"f".repeat(300),
        Some(&"t".repeat(300)),
    )];
    assert_eq!(deliver(&mut *backend, &long), [DeliveryResult::Delivered]);
    assert_eq!(deliver(&mut *backend, &long), [DeliveryResult::Known]);
    let null = [keyed(3, "null", "f", None), keyed(4, "null", "f", None)];
    assert_eq!(
        deliver(&mut *backend, &null),
        vec![DeliveryResult::Delivered; 2]
    );
    assert_eq!(
        deliver(&mut *backend, &null),
        vec![DeliveryResult::Known; 2]
    );
    // More rows than one statement takes, one of them too many.
    let mut more = numbered(100..350);
    more[100] = keyed(9, "a", "a", Some("a"));
    let verdicts = deliver(&mut *backend, &more);
    let DeliveryResult::Rejected(reason) = &verdicts[100] else {
        panic!("{:?}", verdicts[100]);
    };
    assert!(
        reason.ends_with("with the session 00000000-0000-4000-8000-000000000000"),
        "{reason}"
    );
    let delivered = verdicts
        .iter()
        .filter(|verdict| **verdict == DeliveryResult::Delivered);
    assert_eq!(delivered.count(), 249);
}

fn a_table_of_mediaproxy_is_used_as_it_is(server: &Postgres) {
    fresh(server, MEDIAPROXY);
    server.sql("INSERT INTO media_sessions VALUES (7000, 'old', 'f', 't', '{\"duration\": 5}')");
    // Unquoted, as MediaProxy writes them, names have no case.
    let mut backend = backend_with(
        &server.uri(),
        "sessions_table = Media_Sessions\ncallid_column = CALL_ID",
    );
    let reason = rejected(&mut *backend, keyed(1, "old", "f", Some("t")));
    assert!(reason.contains("another program"), "{reason}");
    let (from, to) = ("é".repeat(100), "t".repeat(100));
    let long = keyed(2, "long \u{1f600}", &from, Some(&to));
    assert_eq!(
        deliver(&mut *backend, std::slice::from_ref(&long)),
        [DeliveryResult::Delivered]
    );
    assert_eq!(
        deliver(&mut *backend, std::slice::from_ref(&long)),
        [DeliveryResult::Known]
    );
    let stored =
        server.sql("SELECT call_id, length(from_tag), to_tag FROM media_sessions WHERE id < 7000");
    assert_eq!(stored, format!("long \u{1f600}\t64\t{}\n", "t".repeat(64)));
    assert_eq!(infos(server).lines().next(), Some(&*long.info));
    let null = [keyed(3, "null", "f", None)];
    assert_eq!(deliver(&mut *backend, &null), [DeliveryResult::Delivered]);
    assert_eq!(deliver(&mut *backend, &null), [DeliveryResult::Known]);
    server.sql("DROP INDEX media_sessions_session_id_index");
    let mut backend = records::backend(&server.uri());
    assert_eq!(deliver(&mut *backend, &[long]), [DeliveryResult::Known]);
}

/// What such an index refuses is rejected, and the record behind it is delivered.
fn an_index_on_the_call_id_alone(server: &Postgres) {
    let alone = MEDIAPROXY.replace("(call_id, from_tag, to_tag)", "(call_id)");
    fresh(server, &alone);
    let mut backend = backend(&server.uri());
    let mut records = numbered(0..3);
    let call_id = records[0].call_id.clone();
    records.insert(1, keyed(9, &call_id, "another", Some("another")));
    let verdicts = deliver(&mut *backend, &records);
    let DeliveryResult::Rejected(reason) = &verdicts[1] else {
        panic!("{verdicts:?}");
    };
    assert!(
        reason.contains("media_sessions_session_id_index"),
        "{reason}"
    );
    for other in [0, 2, 3] {
        assert_eq!(verdicts[other], DeliveryResult::Delivered);
    }
}

fn other_types(server: &Postgres) {
    for kind in ["text", "json", "jsonb", "varchar"] {
        fresh(
            server,
            &format!(
                "{MEDIAPROXY}; ALTER TABLE media_sessions ALTER info TYPE {kind} \
            USING NULL"
            ),
        );
        let mut backend = backend(&server.uri());
        let records = numbered(0..3);
        assert_eq!(
            deliver(&mut *backend, &records),
            vec![DeliveryResult::Delivered; 3],
            "{kind}"
        );
        assert_eq!(
            deliver(&mut *backend, &records),
            vec![DeliveryResult::Known; 3],
            "{kind}"
        );
        assert_eq!(
            sums(&server.sql("SELECT info FROM media_sessions")),
            expected_sums(&records)
        );
    }
    fresh(
        server,
        &format!(
            "{MEDIAPROXY}; ALTER TABLE media_sessions ALTER info TYPE varchar(250) USING NULL"
        ),
    );
    let reason = rejected(&mut *backend(&server.uri()), record(1));
    assert!(reason.ends_with("which holds 250 characters"), "{reason}");
    // Made smaller while we are connected: the server refuses.
    fresh(
        server,
        &format!("{MEDIAPROXY}; ALTER TABLE media_sessions ALTER info TYPE text USING NULL"),
    );
    let mut backend = backend(&server.uri());
    backend.prepare().unwrap();
    server.sql("ALTER TABLE media_sessions ALTER info TYPE varchar(250)");
    let reason = rejected(&mut *backend, record(1));
    assert!(reason.contains("too long"), "{reason}");
    server.sql("ALTER TABLE media_sessions ALTER info TYPE text, ADD CHECK (call_id <> 'bad')");
    let batch = [record(1), keyed(2, "bad", "f", Some("t")), record(3)];
    let verdicts = deliver(&mut *backend, &batch);
    assert!(
        matches!(&verdicts[1], DeliveryResult::Rejected(why) if why.contains("check constraint")),
        "{verdicts:?}"
    );
    assert_eq!(server.sql("SELECT COUNT(*) FROM media_sessions"), "2\n");
}

/// Names are stored as they are where the database's encoding has their letters. WIN1252 has bytes that mean nothing.
fn another_encoding(server: &Postgres) {
    let name = "tüg łódź € \u{1f600}";
    for (encoding, stored) in [
        ("LATIN1", "tüg ?ód? ? ?"),
        ("LATIN2", "tüg łódź ? ?"),
        ("WIN1252", "tüg ?ód? € ?"),
        ("KOI8R", "t?g ??d? ? ?"),
        ("EUC_JP", "t?g ??d? ? ?"),
    ] {
        server.sql("DROP DATABASE IF EXISTS narrow");
        server.sql(&format!(
            "CREATE DATABASE narrow OWNER media ENCODING {encoding} LOCALE 'C' TEMPLATE template0"
        ));
        let uri = server.uri();
        let uri = format!("{}/narrow", uri.strip_suffix("/media").unwrap());
        let mut backend = backend(&uri);
        let odd = [keyed(1, "\u{1f600}é", name, Some(name))];
        assert_eq!(
            deliver(&mut *backend, &odd),
            [DeliveryResult::Delivered],
            "{encoding}"
        );
        assert_eq!(
            deliver(&mut *backend, &odd),
            [DeliveryResult::Known],
            "{encoding}"
        );
        let ask =
            "SET client_encoding = 'UTF8'; SELECT from_tag || '|' || to_tag FROM media_sessions";
        let found = server.sql_in("narrow", ask);
        let found = found.trim_start_matches("SET\n").trim_end();
        assert_eq!(found, format!("{stored}|{stored}"), "{encoding}");
    }
}

fn without_the_right_to_make_the_table(server: &Postgres) {
    fresh(server, "CREATE USER poor PASSWORD 'poor'");
    let mut backend = backend(&server.uri_of("poor", "poor"));
    let why = backend.prepare().unwrap_err().0;
    let (told, statement) = why.split_once("; the statement is: ").expect(&why);
    assert!(
        told.contains("permission denied for schema public"),
        "{told}"
    );
    server.sql(statement);
    let why = unavailable(&mut *backend, &numbered(0..1));
    assert!(why.contains("permission denied for table"), "{why}");
    server.sql("GRANT SELECT, INSERT ON media_sessions TO poor; GRANT USAGE ON media_sessions_id_seq TO poor");
    assert_eq!(
        deliver(&mut *backend, &numbered(0..10)),
        vec![DeliveryResult::Delivered; 10]
    );
}

fn a_table_that_is_locked(server: &Postgres) {
    fresh(server, "");
    let mut backend = backend(&server.uri());
    let records = [record(50), keyed(51, "null", "f", None)];
    backend.prepare().unwrap();
    let lock = server.hold("BEGIN; LOCK TABLE media_sessions;");
    let held = "SELECT COUNT(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted \
                AND relation = 'media_sessions'::regclass";
    while server.sql(held) == "0\n" {
        thread::sleep(Duration::from_millis(20));
    }
    let why = unavailable(&mut *backend, &records);
    assert!(why.contains("lock timeout"), "{why}");
    drop(lock);
    assert_eq!(
        deliver_all(&mut *backend, &records),
        vec![DeliveryResult::Delivered; 2]
    );
}

fn what_is_wrong_is_said(server: &Postgres) {
    let why = unavailable(
        &mut *backend(&server.uri_of("media", "wr%40ng")),
        &numbered(0..1),
    );
    let place = format!("127.0.0.1:{}: ", server.port());
    assert!(
        why.starts_with(&place) && why.contains("password authentication failed"),
        "{why}"
    );
    assert!(!why.contains("wr@ng") && !why.contains("wr%40ng"), "{why}");
    let mut backend = backend_with(&server.uri(), "info_column = data");
    let why = backend.prepare().unwrap_err().0;
    assert!(
        why.ends_with("the table media_sessions has no column data"),
        "{why}"
    );
    let why = unavailable(
        &mut *records::backend("postgres://u@127.0.0.1:1/d"),
        &numbered(0..1),
    );
    assert!(
        why.starts_with("127.0.0.1:1: ") && why.contains("refused"),
        "{why}"
    );
    // Lost while nobody looked.
    let mut backend = records::backend(&server.uri());
    deliver(&mut *backend, &numbered(60..61));
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'media'");
    assert_eq!(
        deliver_all(&mut *backend, &numbered(61..62)),
        [DeliveryResult::Delivered]
    );
    server.sql("ALTER USER media SET default_transaction_read_only = on");
    let why = unavailable(&mut *records::backend(&server.uri()), &numbered(62..63));
    assert!(why.contains("read-only transaction"), "{why}");
}

/// Runs while the server comes and goes: all are there in the end, each once.
#[test]
fn a_server_that_comes_and_goes() {
    let Some(mut server) = Postgres::start() else {
        return;
    };
    server.sql("GRANT CREATE ON SCHEMA public TO media");
    let mut backend = backend(&server.uri());
    let mut records = numbered(0..1000);
    for number in (0..1000).step_by(50) {
        records[number] = keyed(number, "null", "f", None);
    }
    let mut part = |server: &Postgres, numbers: std::ops::Range<usize>| {
        let verdicts = deliver_all(&mut *backend, &records[numbers.clone()]);
        assert!(
            !verdicts
                .iter()
                .any(|verdict| matches!(verdict, DeliveryResult::Rejected(_)))
        );
        assert_eq!(sums(&infos(server)).0, numbers.end);
    };
    part(&server, 0..100);
    server.stop();
    let why = unavailable(&mut *records::backend(&server.uri()), &numbered(0..1));
    assert!(why.contains("refused"), "{why}");
    server.restart();
    part(&server, 100..200);
    // Killed within a delivery.
    let uri = server.uri();
    thread::scope(|scope| {
        let delivering = scope.spawn(|| deliver_all(&mut *records::backend(&uri), &records[..700]));
        while sums(&infos(&server)).0 < 300 {
            thread::sleep(Duration::from_millis(2));
        }
        server.kill();
        server.restart();
        delivering.join().unwrap();
    });
    part(&server, 200..800);
    // Frozen with something under way: what is given up may still be done later.
    server.freeze();
    let why = unavailable(&mut *records::backend(&server.uri()), &records[800..900]);
    assert!(why.contains("no answer within 6 s"), "{why}");
    server.thaw();
    part(&server, 800..1000);
    assert_eq!(sums(&infos(&server)), expected_sums(&records));
}

#[test]
fn tls_as_the_uri_says() {
    let certificates = Certificates::new();
    let files = ["server.crt", "server.key"].map(|name| certificates.file(name));
    let settings = [
        "ssl=on",
        "ssl_cert_file=server.crt",
        "ssl_key_file=server.key",
    ];
    let files = files.each_ref().map(|file| file.as_path());
    let Some(server) = Postgres::start_with(&settings, &files) else {
        return;
    };
    server.sql("GRANT CREATE ON SCHEMA public TO media");
    server.only_encrypted();
    let (ca, other) = (certificates.file("ca.pem"), certificates.file("other.pem"));
    let (ca, other) = (ca.display(), other.display());
    let by_name = server.uri().replace("127.0.0.1", "localhost");
    let mut number = 0;
    for (uri, fine) in [
        (server.uri(), true),
        (format!("{}?sslmode=require", server.uri()), true),
        (
            format!("{}?sslmode=verify-ca&sslrootcert={ca}", server.uri()),
            true,
        ),
        (
            format!("{by_name}?sslmode=verify-ca&sslrootcert={ca}"),
            true,
        ),
        (
            format!("{}?sslmode=verify-full&sslrootcert={ca}", server.uri()),
            true,
        ),
        (format!("{}?sslmode=disable", server.uri()), false),
        (
            format!("{}?sslmode=verify-ca&sslrootcert={other}", server.uri()),
            false,
        ),
        (
            format!("{by_name}?sslmode=verify-full&sslrootcert={ca}"),
            false,
        ),
    ] {
        let mut backend = backend(&uri);
        number += 1;
        if fine {
            assert_eq!(
                deliver(&mut *backend, &[record(number)]),
                [DeliveryResult::Delivered],
                "{uri}"
            )
        } else {
            let why = unavailable(&mut *backend, &[record(number)]);
            let reasons = ["no encryption", "certificate"];
            assert!(
                reasons.iter().any(|reason| why.contains(reason)),
                "{uri}: {why}"
            );
        }
    }
    let why = records::open(
        &format!("{}?sslmode=verify-ca&sslrootcert=/no/ca", server.uri()),
        "",
    );
    let why = why.err().unwrap();
    assert!(why.starts_with("sslrootcert /no/ca: "), "{why}");
    server.only_old_tls();
    let why = unavailable(
        &mut *backend(&format!("{}?sslmode=require", server.uri())),
        &[record(90)],
    );
    assert!(why.contains("TLS"), "{why}");
    assert_eq!(
        deliver(&mut *backend(&server.uri()), &[record(90)]),
        [DeliveryResult::Delivered]
    );
}
