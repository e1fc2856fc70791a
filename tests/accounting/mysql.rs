//! MariaDB as a backend of accounting: the server is started by the tests.

use std::thread;
use std::time::Duration;

use mediaproxy::accounting::{DeliveryResult, Record};

use crate::support::records::{
    self, backend, backend_with, deliver, deliver_all, expected_sums, keyed, record,
    records as numbered, rejected, sums, unavailable,
};
use crate::support::servers::{Certificates, MariaDb, Server};

/// As MediaProxy makes it, on a server whose default is Latin-1.
const MEDIAPROXY: &str = "CREATE TABLE media_sessions (id INT PRIMARY KEY AUTO_INCREMENT, \
    call_id VARCHAR(255) NOT NULL, from_tag VARCHAR(64) NOT NULL, to_tag VARCHAR(64), info MEDIUMBLOB, \
    UNIQUE media_sessions_session_id_index (call_id, from_tag, to_tag)) DEFAULT CHARACTER SET ";

fn infos(server: &MariaDb) -> String {
    server.sql("SELECT info FROM media_sessions ORDER BY id")
}

fn fresh(server: &MariaDb, table: &str) {
    server.sql(&format!("DROP TABLE IF EXISTS media_sessions; {table}"));
}

#[test]
fn tables_and_rows() {
    // A server that cuts what is too long without a word, unless it is told not to.
    let Some(server) = MariaDb::start_with(&["--sql-mode="]) else {
        return;
    };
    a_thousand_records_delivered_twice_are_there_once(&server);
    names_are_compared_byte_for_byte(&server);
    a_table_of_mediaproxy_is_used_as_it_is(&server);
    letters_of_any_character_set(&server);
    narrow_columns(&server);
    a_table_without_transactions_or_index(&server);
    without_the_right_to_make_the_table(&server);
    a_table_that_is_locked(&server);
    what_is_wrong_is_said(&server);
}

fn a_thousand_records_delivered_twice_are_there_once(server: &MariaDb) {
    let mut backend = backend(&server.uri());
    assert_eq!(
        backend.name(),
        format!("mysql-127-0-0-1-{}-media", server.port())
    );
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
    let by_socket = format!("{}?unix_socket={}", server.uri(), server.socket().display());
    assert_eq!(
        deliver(&mut *records::backend(&by_socket), &records[..2]),
        vec![DeliveryResult::Known; 2]
    );
}

fn names_are_compared_byte_for_byte(server: &MariaDb) {
    fresh(server, "");
    let names = ["a", "A", "ä", "\u{1f600}", "\u{1f601}"];
    let named = |(number, name): (usize, &&str)| keyed(number, name, name, Some(name));
    let records: Vec<_> = names.iter().enumerate().map(named).collect();
    let long = [keyed(
        7,
        &"\u{1f600}".repeat(255),
        &"f".repeat(255),
        Some(&"t".repeat(255)),
    )];
    let mut backend = backend(&server.uri());
    assert_eq!(
        deliver(&mut *backend, &records),
        vec![DeliveryResult::Delivered; 5]
    );
    assert_eq!(deliver(&mut *backend, &long), [DeliveryResult::Delivered]);
    assert_eq!(sums(&infos(server)).0, 6);
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

fn a_table_of_mediaproxy_is_used_as_it_is(server: &MariaDb) {
    for set in ["latin1", "utf8mb3", "utf8mb4"] {
        fresh(server, &format!("{MEDIAPROXY}{set}"));
        server.sql("INSERT INTO media_sessions VALUES (7, 'old', 'f', 't', '{\"duration\": 5}')");
        let mut backend = backend(&server.uri());
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
        let stored = server
            .sql("SELECT call_id, CHAR_LENGTH(from_tag), to_tag FROM media_sessions WHERE id > 7");
        let call_id = if set == "utf8mb4" {
            "long \u{1f600}"
        } else {
            "long ?"
        };
        assert_eq!(stored, format!("{call_id}\t64\t{}\n", "t".repeat(64)));
        assert_eq!(
            server
                .sql("SELECT info FROM media_sessions WHERE id > 7")
                .trim(),
            &*long.info
        );
        let null = [keyed(3, "null", "f", None)];
        assert_eq!(deliver(&mut *backend, &null), [DeliveryResult::Delivered]);
        assert_eq!(deliver(&mut *backend, &null), [DeliveryResult::Known]);
    }
}

/// Names are stored as they are where the column's set has their letters, whatever that set is.
fn letters_of_any_character_set(server: &MariaDb) {
    let name = "tüg łódź 木 я € \u{1f600}";
    for (set, stored) in [
        ("ascii", "t?g ??d? ? ? ? ?"),
        ("latin1", "tüg ?ód? ? ? € ?"),
        ("latin2", "tüg łódź ? ? ? ?"),
        ("cp1250", "tüg łódź ? ? € ?"),
        ("koi8r", "t?g ??d? ? я ? ?"),
        ("sjis", "t?g ??d? 木 я ? ?"),
        ("gbk", "tüg ?ód? 木 я ? ?"),
        ("utf8mb3", "tüg łódź 木 я € ?"),
        ("utf8mb4", name),
    ] {
        fresh(server, &format!("{MEDIAPROXY}{set}"));
        let record = keyed(1, "a", name, Some(name));
        let mut backend = records::backend(&server.uri());
        let records = std::slice::from_ref(&record);
        assert_eq!(
            deliver(&mut *backend, records),
            [DeliveryResult::Delivered],
            "{set}"
        );
        assert_eq!(
            deliver(&mut *backend, records),
            [DeliveryResult::Known],
            "{set}"
        );
        let found = server.sql(
            "SELECT CONVERT(from_tag USING utf8mb4), CONVERT(to_tag USING utf8mb4) FROM media_sessions",
        );
        assert_eq!(found, format!("{stored}\t{stored}\n"), "{set}");
        // Where it is looked for before.
        let null = [keyed(2, "null", name, None)];
        assert_eq!(
            deliver(&mut *backend, &null),
            [DeliveryResult::Delivered],
            "{set}"
        );
        assert_eq!(
            deliver(&mut *backend, &null),
            [DeliveryResult::Known],
            "{set}"
        );
    }
}

fn narrow_columns(server: &MariaDb) {
    // Text in a character set that does not have all characters holds the same JSON.
    fresh(
        server,
        &format!("{MEDIAPROXY}latin1; ALTER TABLE media_sessions MODIFY info TEXT"),
    );
    let mut backend = backend(&server.uri());
    let records = numbered(0..3);
    assert_eq!(
        deliver(&mut *backend, &records),
        vec![DeliveryResult::Delivered; 3]
    );
    assert_eq!(sums(&infos(server)), expected_sums(&records));
    let value = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
    let stored = infos(server);
    assert!(stored.is_ascii());
    assert_eq!(
        value(stored.lines().next().unwrap()),
        value(&records[0].info)
    );
    fresh(
        server,
        &format!("{MEDIAPROXY}utf8mb4; ALTER TABLE media_sessions MODIFY info TINYBLOB"),
    );
    let mut backend = records::backend(&server.uri());
    let reason = rejected(&mut *backend, record(1));
    assert!(reason.ends_with("which holds 255 bytes"), "{reason}");
    // Made smaller while we are connected: the server itself refuses, though its own mode is to cut.
    fresh(server, &format!("{MEDIAPROXY}utf8mb4"));
    let mut backend = records::backend(&server.uri());
    backend.prepare().unwrap();
    server.sql("ALTER TABLE media_sessions MODIFY info BLOB(200)");
    let verdicts = deliver(&mut *backend, &numbered(0..2));
    for verdict in verdicts {
        let DeliveryResult::Rejected(reason) = verdict else {
            panic!("{verdict:?}");
        };
        assert!(
            reason.contains("Data too long for column 'info'"),
            "{reason}"
        );
    }
    assert_eq!(infos(server), "");
    server.sql("ALTER TABLE media_sessions MODIFY info MEDIUMBLOB, ADD CHECK (call_id <> 'bad')");
    let batch = [record(1), keyed(2, "bad", "f", Some("t")), record(3)];
    let verdicts = deliver(&mut *backend, &batch);
    assert!(
        matches!(&verdicts[1], DeliveryResult::Rejected(why) if why.contains("CONSTRAINT")),
        "{verdicts:?}"
    );
    assert_eq!(infos(server).lines().count(), 2);
    // Larger than the server takes in one piece, which is more than any call is.
    server.sql("SET GLOBAL max_allowed_packet = 1048576");
    let mut backend = records::backend(&server.uri());
    let large = format!(
        "{}{}",
        record(4).info.trim_end_matches('}'),
        ", \"pad\": \""
    );
    let large = format!("{large}{}\"}}", "x".repeat(1_100_000));
    let large = Record {
        info: large.into(),
        ..record(4)
    };
    let verdicts = deliver(&mut *backend, &[large, record(5)]);
    assert!(
        matches!(&verdicts[0], DeliveryResult::Rejected(why) if why.contains("max_allowed_packet")),
        "{verdicts:?}"
    );
    assert_eq!(verdicts[1], DeliveryResult::Delivered);
    server.sql("SET GLOBAL max_allowed_packet = 16777216");
}

fn a_table_without_transactions_or_index(server: &MariaDb) {
    fresh(server, &format!("{MEDIAPROXY}latin1 ENGINE=MyISAM"));
    let mut backend = backend(&server.uri());
    deliver(&mut *backend, &numbered(5..6));
    let records = numbered(0..10);
    // What stood before the duplicate in the batch is there, and found.
    let verdicts = deliver(&mut *backend, &records);
    assert!(
        !verdicts
            .iter()
            .any(|verdict| matches!(verdict, DeliveryResult::Rejected(_))),
        "{verdicts:?}"
    );
    assert_eq!(sums(&infos(server)), expected_sums(&records));
    server.sql("ALTER TABLE media_sessions DROP INDEX media_sessions_session_id_index");
    let mut backend = records::backend(&server.uri());
    assert_eq!(
        deliver(&mut *backend, &records),
        vec![DeliveryResult::Known; 10]
    );
    assert_eq!(
        deliver(&mut *backend, &numbered(10..12)),
        vec![DeliveryResult::Delivered; 2]
    );
    assert_eq!(sums(&infos(server)), expected_sums(&numbered(0..12)));
}

fn without_the_right_to_make_the_table(server: &MariaDb) {
    fresh(
        server,
        "CREATE USER poor IDENTIFIED BY 'poor'; GRANT SELECT, INSERT ON media.* TO poor",
    );
    let mut backend = backend(&server.uri_of("poor", "poor"));
    let why = backend.prepare().unwrap_err().0;
    let (told, statement) = why.split_once("; the statement is: ").expect(&why);
    assert!(told.contains("CREATE command denied"), "{told}");
    assert!(unavailable(&mut *backend, &numbered(0..1)).contains("CREATE TABLE"));
    server.sql(statement);
    assert_eq!(
        deliver(&mut *backend, &numbered(0..10)),
        vec![DeliveryResult::Delivered; 10]
    );
}

fn a_table_that_is_locked(server: &MariaDb) {
    let mut backend = backend(&server.uri());
    let records = [record(50), keyed(51, "null", "f", None)];
    backend.prepare().unwrap();
    let lock = server.hold("LOCK TABLES media_sessions WRITE;");
    while server.sql("SHOW OPEN TABLES WHERE In_use > 0").is_empty() {
        thread::sleep(Duration::from_millis(20));
    }
    let why = unavailable(&mut *backend, &records);
    assert!(why.contains("Lock wait timeout"), "{why}");
    drop(lock);
    assert_eq!(
        deliver_all(&mut *backend, &records),
        vec![DeliveryResult::Delivered; 2]
    );
}

fn what_is_wrong_is_said(server: &MariaDb) {
    let why = unavailable(
        &mut *backend(&server.uri_of("media", "wr%40ng")),
        &numbered(0..1),
    );
    let place = format!("127.0.0.1:{}: ", server.port());
    assert!(
        why.starts_with(&place) && why.contains("Access denied for user 'media'"),
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
        &mut *records::backend("mysql://u@127.0.0.1:1/d"),
        &numbered(0..1),
    );
    assert!(
        why.starts_with("127.0.0.1:1: ") && why.contains("refused"),
        "{why}"
    );
    // Lost while nobody looked.
    let mut backend = records::backend(&server.uri());
    deliver(&mut *backend, &numbered(60..61));
    server.sql("KILL USER media");
    assert_eq!(
        deliver_all(&mut *backend, &numbered(61..62)),
        [DeliveryResult::Delivered]
    );
}

/// Runs while the server comes and goes: all are there in the end, each once.
#[test]
fn a_server_that_comes_and_goes() {
    let Some(mut server) = MariaDb::start() else {
        return;
    };
    let mut backend = backend(&server.uri());
    let mut records = numbered(0..1000);
    for number in (0..1000).step_by(50) {
        records[number] = keyed(number, "null", "f", None);
    }
    let mut part = |server: &MariaDb, numbers: std::ops::Range<usize>| {
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
    let file = |option: &str, name: &str| format!("{option}={}", certificates.file(name).display());
    let options = [
        file("--ssl-ca", "ca.pem"),
        file("--ssl-cert", "server.crt"),
        file("--ssl-key", "server.key"),
        "--require-secure-transport=ON".to_owned(),
    ];
    let Some(server) = MariaDb::start_with(&options.each_ref().map(String::as_str)) else {
        return;
    };
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
            let reasons = ["Access denied", "certificate"];
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
}
