//! Every form of every value, good and bad.

use super::*;

#[track_caller]
fn bad<T: std::fmt::Debug>(parse: impl Fn(&str) -> Parsed<T>, texts: &[&str]) {
    for text in texts {
        let parsed = parse(text);
        assert!(parsed.is_err(), "{text:?} gives {parsed:?}");
    }
}

#[test]
fn booleans() {
    for text in ["yes", "On", "TRUE", "1"] {
        assert_eq!(boolean(text), Ok(true));
    }
    for text in ["no", "Off", "FALSE", "0"] {
        assert_eq!(boolean(text), Ok(false));
    }
    bad(boolean, &["", "y", "2", "yes no"]);
}

#[test]
fn times() {
    assert_eq!(seconds(1)("90"), Ok(Duration::from_secs(90)));
    assert_eq!(seconds(0)("0"), Ok(Duration::ZERO));
    // As Python reads numbers.
    for (text, read) in [("+1", 1), ("007", 7), ("1_000", 1000), ("-0", 0)] {
        assert_eq!(seconds(0)(text), Ok(Duration::from_secs(read)), "{text}");
    }
    for text in ["1000000001", "99999999999999999999"] {
        assert_eq!(seconds(1)(text), Ok(Duration::from_secs(LONGEST)));
    }
    assert_eq!(period("15"), Ok(Some(Duration::from_secs(15))));
    assert_eq!((period("0"), period("-1")), (Ok(None), Ok(None)));
    bad(period, &["", "x", "1.5"]);
    assert_eq!(
        seconds(1)("0"),
        Err("whole seconds from 1 to 1000000000".into())
    );
    let not_seconds = ["", "-1", "+", "+-1", "1.5", "1 s", "1__0", "_1", "1_"];
    bad(seconds(1), &not_seconds);

    assert_eq!(decimal_seconds("5"), Ok(Duration::from_secs(5)));
    assert_eq!(decimal_seconds("0.15"), Ok(Duration::from_millis(150)));
    assert_eq!(decimal_seconds("2.005"), Ok(Duration::from_millis(2005)));
    let not_decimal = [
        "",
        ".",
        ".5",
        "5.",
        "0",
        "0.0",
        "1.2345",
        "1,5",
        "-1",
        "1e3",
        "0.+5",
        "0.1_0",
        "1000000000",
    ];
    bad(decimal_seconds, &not_decimal);
}

#[test]
fn log_levels() {
    for (text, level) in [
        ("CRITICAL", LogLevel::Critical),
        ("error", LogLevel::Error),
        ("Warning", LogLevel::Warning),
        ("10", LogLevel::Debug),
        ("20", LogLevel::Info),
        ("25", LogLevel::Warning),
        ("40", LogLevel::Error),
        ("50", LogLevel::Critical),
        ("0", LogLevel::Debug),
        ("-5", LogLevel::Debug),
        ("+3_0", LogLevel::Warning),
        ("NotSet", LogLevel::Debug),
        ("100", LogLevel::Critical),
    ] {
        assert_eq!(log_level(text), Ok(level), "{text}");
    }
    bad(log_level, &["", "1.5", "verbose"]);
    assert_eq!(LogLevel::Critical.filter(), LevelFilter::Error);
    assert_eq!(LogLevel::Debug.filter(), LevelFilter::Debug);
}

#[test]
fn names_of_a_set() {
    assert_eq!(forwarding("Kernel"), Ok(Forwarding::Kernel));
    assert_eq!(forwarding("both"), Err("auto, kernel or userspace".into()));
    assert_eq!(management_format("array"), Ok(ManagementFormat::Array));
    assert_eq!(management_format("json"), Err("lines or array".into()));
    assert_eq!(
        backends("radius, file radius"),
        Ok(vec![Backend::Radius, Backend::File])
    );
    assert_eq!(
        backends("file,sql"),
        Err("a list of file, database, radius (not \"sql\")".into())
    );
    assert_eq!(group("AUTO"), Ok(SocketGroup::Auto));
    assert_eq!(
        group("sip-proxy"),
        Ok(SocketGroup::Named("sip-proxy".into()))
    );
    bad(group, &["a b", "a:b", "a\nb"]);
}

fn entry(host: Host, port: u16) -> DispatcherEntry {
    DispatcherEntry { host, port }
}

#[test]
fn lists_of_dispatchers() {
    let name = |name: &str| Host::Name(name.into());
    let address = |address: &str| Host::Address(address.parse().unwrap());
    assert_eq!(
        dispatchers(
            "192.0.2.1, Example.COM. sip1_a.example.com:1025,\n[2001:db8::1]:7 2001:db8::2 10.0.0.1:9,192.0.2.1:25060"
        ),
        Ok(vec![
            entry(address("192.0.2.1"), 25060),
            entry(name("example.com"), 25060),
            entry(name("sip1_a.example.com"), 1025),
            entry(address("2001:db8::1"), 7),
            entry(address("2001:db8::2"), 25060),
            entry(address("10.0.0.1"), 9),
        ])
    );
    assert_eq!(dispatchers(" , "), Err("at least one host[:port]".into()));
    let long = format!("{}.com", "a".repeat(64));
    bad(
        dispatchers,
        &[
            "10.0.0.300",
            "1.2.3",
            "host:0",
            "host:65536",
            "host:",
            ":5",
            "a..b",
            ".",
            "-a",
            "a-",
            "a/b",
            "käse.de",
            "[::1",
            "[::1]5",
            "[1.2.3.4]",
            "0.0.0.0",
            "239.1.1.1",
            "a=b",
            &long,
        ],
    );
}

#[test]
fn places_to_listen() {
    for (text, address) in [
        ("0.0.0.0", "0.0.0.0:25061"),
        ("Any", "0.0.0.0:25061"),
        ("any:5", "0.0.0.0:5"),
        ("127.0.0.1:99", "127.0.0.1:99"),
        ("[::]", "[::]:25061"),
        ("[::1]:99", "[::1]:99"),
        ("::1", "[::1]:25061"),
    ] {
        let read = any_or_address(text, 25061);
        assert_eq!(read, Some(address.parse().unwrap()), "{text}");
    }
    let others = [
        "",
        "any:",
        "host",
        "127.0.0.1:0",
        "1.2.3.4:x",
        "[::1]:",
        "any:+5",
    ];
    for text in others {
        assert_eq!(any_or_address(text, 25061), None, "{text}");
    }
}

#[test]
fn addresses_ports_marks() {
    assert_eq!(ipv4("192.0.2.1"), Ok(Ipv4Addr::new(192, 0, 2, 1)));
    bad(
        ipv4,
        &[
            "",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "host",
            "1.2.3",
        ],
    );

    let range = port_range("1024 : 65536").unwrap();
    assert_eq!(
        (range.start, range.end, range.count()),
        (1024, 65536, 64512)
    );
    bad(
        port_range,
        &[
            "",
            "40000",
            "40000-50000",
            "1022:2000",
            "40001:50000",
            "40000:50001",
            "40000:65538",
            "40000:40000",
            "40000:40002",
            "50000:40000",
            "4294967296:4294967300",
            "40000:x",
        ],
    );

    assert_eq!(mark("0x4D500000"), Ok(0x4d50_0000));
    assert_eq!(mark("77"), Ok(77));
    bad(
        mark,
        &[
            "",
            "0",
            "0x",
            "0x0",
            "0x100000000",
            "4294967296",
            "-1",
            "0x+1",
            "4d",
        ],
    );

    assert_eq!(mode("0660"), Ok(0o660));
    assert_eq!(mode("666"), Ok(0o666));
    bad(mode, &["", "66", "0o660", "1777", "0688", "00660", "rw"]);

    let home = super::range("10.0.0.0/8").unwrap();
    assert!(home.contains([10, 9, 9, 9].into()));
    assert!(super::range("Any").unwrap().contains([9, 9, 9, 9].into()));
    for text in ["10.0.0.0/33", "10/8", "10.0.0.0/8;11.0.0.0/8", "any/8", ""] {
        assert_eq!(super::range(text), None, "{text}");
    }
}

#[test]
fn paths_passports_names() {
    let under = path(Path::new("/etc/mediaproxy"));
    assert_eq!(under("tls"), Ok("/etc/mediaproxy/tls".into()));
    assert_eq!(under("/a b"), Ok("/a b".into()));
    bad(under, &["a\nb", "a\x07"]);

    let passport = passport("O:Example,\nCN:relay*").unwrap().unwrap();
    assert_eq!(passport.to_string(), "O:Example, CN:relay*");
    assert_eq!(super::passport(""), Ok(None));
    bad(super::passport, &["relay", "X:y"]);

    assert_eq!(column("call_id2"), Ok("call_id2".into()));
    bad(
        column,
        &[
            "",
            "2a",
            "a-b",
            "a b",
            "a.b",
            "a;b",
            "a`b",
            "ä",
            &"x".repeat(65),
        ],
    );
    assert_eq!(table("media.sessions"), Ok("media.sessions".into()));
    bad(table, &["", ".a", "a.", "a.b.c", "a b"]);
}
