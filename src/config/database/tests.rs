//! Tests of database.

use super::*;

fn parsed(text: &str) -> Parsed<(Vec<DatabaseUri>, Vec<String>)> {
    parse(Path::new("/etc/mediaproxy"))(text)
}

fn one(text: &str) -> DatabaseUri {
    let (uris, _) = parsed(text).unwrap();
    uris.into_iter().next().unwrap()
}

fn server(text: &str) -> ServerUri {
    match one(text) {
        DatabaseUri::Server(uri) => uri,
        DatabaseUri::Sqlite(path) => panic!("{path:?}"),
    }
}

#[test]
fn servers_and_files() {
    let uri = server("mysql://media:s%40cr:et@db.example.com:3307/media?charset=utf8");
    assert_eq!(
        (uri.kind, uri.host.as_str()),
        (ServerKind::MySql, "db.example.com")
    );
    assert_eq!((uri.port, uri.database.as_str()), (Some(3307), "media"));
    assert_eq!(uri.user.as_deref(), Some("media"));
    let password = uri.password.as_ref().map(Password::reveal);
    assert_eq!(password, Some("s@cr:et"));
    assert!(!format!("{uri:?}").contains("cr:et"));

    let uri = server("postgresql://[2001:db8::1]/media");
    let expected = ServerUri {
        kind: ServerKind::PostgreSql,
        user: None,
        password: None,
        host: "2001:db8::1".into(),
        port: None,
        database: "media".into(),
        unix_socket: None,
        tls: TlsMode::Prefer,
        root_cert: None,
    };
    assert_eq!(uri, expected);
    assert_eq!(
        one("sqlite:///var/lib/a%20b.db"),
        DatabaseUri::Sqlite("/var/lib/a b.db".into())
    );
}

#[test]
fn sockets_and_ports() {
    let socket = |text: &str| server(text).socket();
    assert_eq!(
        socket("mysql://h/d?unix_socket=/run/s"),
        Some("/run/s".into())
    );
    // A directory that is there everywhere.
    assert_eq!(
        socket("postgres://h:5433/d?unix_socket=/"),
        Some("/.s.PGSQL.5433".into())
    );
    for by_tcp in [
        "mysql://127.0.0.1/d",
        "mysql://localhost:3306/d",
        "mysql://localhost/d?sslmode=require",
        "postgres://localhost/d",
    ] {
        assert_eq!(socket(by_tcp), None, "{by_tcp}");
    }
    let usual = MYSQL_SOCKETS.iter().find(|path| Path::new(path).exists());
    assert_eq!(socket("mysql://localhost/d"), usual.map(PathBuf::from));
    let ports = ["mysql://h/d", "postgres://h/d", "mysql://h:1/d"];
    assert_eq!(ports.map(|text| server(text).port()), [3306, 5432, 1]);
}

#[test]
fn parameters() {
    let uri =
        server("mysql://h/d?sslmode=verify-full&sslrootcert=ca.pem&unix_socket=/run/a%26b.sock");
    assert_eq!(uri.tls, TlsMode::VerifyFull);
    assert_eq!(uri.root_cert, Some("/etc/mediaproxy/ca.pem".into()));
    assert_eq!(uri.unix_socket, Some("/run/a&b.sock".into()));
    let odd = parsed("mysql://h/d?charset=utf8&sslmode=disable&x sqlite:///d?timeout=5");
    assert_eq!(
        odd.unwrap().1,
        [
            "the parameter \"charset\" has no effect; known: sslmode, sslrootcert, unix_socket",
            "the parameter \"x\" has no effect; known: sslmode, sslrootcert, unix_socket",
            "the parameter \"timeout\" has no effect; known: none"
        ]
    );
}

#[test]
fn several() {
    let (uris, odd) = parsed("mysql://u:p w@h/d  sqlite:///a\n\tpostgres://h/e").unwrap();
    assert_eq!(odd, [""; 0]);
    let [
        DatabaseUri::Server(first),
        second,
        DatabaseUri::Server(third),
    ] = &uris[..]
    else {
        panic!("{uris:?}");
    };
    let password = first.password.as_ref().map(Password::reveal);
    assert_eq!(password, Some("p w"));
    assert_eq!(*second, DatabaseUri::Sqlite("/a".into()));
    assert_eq!(third.kind, ServerKind::PostgreSql);
}

#[test]
fn refused() {
    for bad in [
        "",
        "mysql",
        "mysql:/host/db",
        "oracle://u:p@host/db",
        "mysql://host",
        "mysql://host/",
        "mysql:///db",
        "mysql://host:x/db",
        "mysql://host:0/db",
        "mysql://[::1/db",
        "mysql://u:%zz@host/db",
        "mysql://u:%é@host/db",
        "mysql://u:%ff@host/db",
        "mysql://host/db?sslmode=on",
        "mysql://host/db?sslmode",
        "mysql://host/db?sslrootcert=",
        "mysql://host/db oracle://host/db",
        "sqlite://relative.db",
        "sqlite:///dir/",
        "mysql://u:p@host/d\rb",
    ] {
        assert!(parsed(bad).is_err(), "{bad}");
    }
}

#[test]
fn no_password_is_shown() {
    for (text, shown) in [
        ("mysql://u:pass@host/db", "mysql://u:***@host/db"),
        ("mysql://u:p@ss:w@host/db", "mysql://u:***@host/db"),
        ("u:pass@host", "u:***@host"),
        ("mysql://u@host/db", "mysql://u@host/db"),
        ("sqlite:///db", "sqlite:///db"),
        ("mysql://u@h/d?a=b&Passwd=c", "mysql://u@h/d?***"),
        ("mysql://u@h/d?sslmode=on", "mysql://u@h/d?sslmode=on"),
        ("sqlite:///db mysql://u:p@h/d", "sqlite:///db mysql:***@h/d"),
        ("mysql://u:p@h/d mysql://u:q@h/e", "mysql://u:***@h/e"),
    ] {
        assert_eq!(without_password(text), shown);
    }
}
