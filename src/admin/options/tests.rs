//! Command lines, right and wrong.

use super::*;

fn read(arguments: &[&str]) -> Result<Parsed, String> {
    parse(arguments.iter().map(OsString::from))
}

fn run(arguments: &[&str]) -> Options {
    match read(arguments) {
        Ok(Parsed::Run(options)) => *options,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn text(arguments: &[&str]) -> String {
    match read(arguments) {
        Ok(Parsed::Text(text)) => text,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

#[test]
fn commands_as_the_management_port_takes_them() {
    let line = |arguments: &[&str]| {
        let options = run(arguments);
        options.command.line(options.json)
    };
    assert_eq!(line(&["summary"]), "summary");
    assert_eq!(line(&["sessions"]), "sessions");
    let filters = [
        "sessions",
        "--user",
        "a b",
        "--relay=r1",
        "--call-id",
        "x\"\u{1b}",
    ];
    let want = "sessions call_id=\"x\\\"\\u001b\" user=\"a b\" relay=\"r1\"";
    assert_eq!(line(&filters), want);
    for address in ["192.0.2.1", "192.0.2.1:4000", "2001:db8::1"] {
        let want = format!("sessions address=\"{address}\"");
        assert_eq!(line(&["sessions", "--address", address]), want);
    }
    assert_eq!(line(&["explain", "a@b"]), "explain \"a@b\"");
    assert_eq!(line(&["explain", "--json", "a@b"]), "explain json \"a@b\"");
    assert_eq!(line(&["end", "--", "-x"]), "end \"-x\"");
    assert_eq!(line(&["--media", "end", "x"]), "end media \"x\"");
    assert_eq!(line(&["end", "x", "t"]), "end \"x\" \"t\"");
    assert_eq!(line(&["drain", "192.0.2.1"]), "drain \"192.0.2.1\"");
    assert_eq!(line(&["drain", "--wait", "r"]), "drain \"r\"");
    assert_eq!(line(&["resume", "r"]), "resume \"r\"");
    assert_eq!(line(&["sessions", "alice"]), "sessions \"alice\"");
    let both = ["sessions", "a=b", "--relay", "r"];
    assert_eq!(line(&both), "sessions relay=\"r\" \"a=b\"");
}

#[test]
fn where_to_connect() {
    let transport = |arguments: &[&str]| run(arguments).target.transport;
    assert_eq!(transport(&["summary"]), Transport::Unix(SOCKET.into()));
    assert_eq!(
        transport(&["--socket", "/x", "summary"]),
        Transport::Unix("/x".into())
    );
    let address = || "host:1".to_owned();
    let plain = transport(&["--connect", "host:1", "summary"]);
    assert_eq!(
        plain,
        Transport::Tcp {
            address: address(),
            tls: None
        }
    );
    let Transport::Tcp {
        tls: Some(files), ..
    } = transport(&["--connect=host:1", "--tls", "summary"])
    else {
        panic!("no TLS");
    };
    assert_eq!((files.directory, files.cert), (CERTS.into(), None));
    let one = transport(&["--connect=host:1", "--cert", "/c", "summary"]);
    assert!(
        matches!(one, Transport::Tcp { tls: Some(files), .. } if files.cert == Some("/c".into()))
    );
}

#[test]
fn what_is_wrong_is_named() {
    for (arguments, part) in [
        (&[][..], "a command is missing"),
        (&["dance"], "no command \"dance\""),
        (&["summary", "x"], "usage: media-admin summary"),
        (&["explain"], "usage: media-admin explain CALL-ID"),
        (&["summary", "--user", "x"], "summary has no option --user"),
        (&["drain", "--json", "r"], "drain has no option --json"),
        (
            &["sessions", "a", "b"],
            "usage: media-admin sessions [WORD]",
        ),
        (&["end", "--wait", "x"], "end has no option --wait"),
        (&["summary", "--media"], "summary has no option --media"),
        (&["--frob", "summary"], "invalid option '--frob'"),
        (
            &["sessions", "--sort", "size"],
            "--sort size: allowed: start,",
        ),
        (
            &["top", "--interval", "0"],
            "--interval 0: allowed: seconds from 0.1",
        ),
        (&["top", "--interval", "nan"], "allowed: seconds"),
        (
            &["sessions", "--address", "foo"],
            "--address foo: allowed: IP or IP:PORT",
        ),
        (&["sessions", "--address="], "--address : allowed: IP"),
        (&["sessions", "--address", "192.0.2.1:x"], "allowed: IP"),
        (&["sessions", "--user="], "--user : allowed: one that"),
        (&["explain", ""], "\"\": allowed: a name"),
        (&["drain", "a\nb"], "\"a\\nb\": allowed: a name without CR"),
        (&["summary", "--tls"], "TLS needs --connect"),
        (
            &["summary", "--connect", "a", "--socket", "b"],
            "exclude each other",
        ),
        (
            &["sessions", "--user"],
            "missing argument for option '--user'",
        ),
    ] {
        let why = read(arguments).unwrap_err();
        assert!(why.contains(part), "{arguments:?}: {why}");
    }
}

#[test]
fn help_and_version() {
    let all = text(&["--help"]);
    for about in COMMANDS {
        assert!(
            all.contains(&format!("  {} ", about.name)),
            "{}",
            about.name
        );
        let one = text(&[about.name, "--help"]);
        assert!(one.starts_with(&format!("media-admin {}: ", about.name)));
        assert!(one.contains("Exit status: 0 fine; 1 "), "{one}");
        assert!(one.lines().all(|line| line.chars().count() <= 120), "{one}");
    }
    assert!(all.contains("3 no connection") && all.contains("NO_COLOR"));
    assert!(text(&["-V"]).starts_with("media-admin "));
    assert!(read(&["dance", "--help"]).is_err());
}

/// Nothing is listed that is not understood, and the other way round.
#[test]
fn every_option_is_listed_once() {
    let lists = COMMANDS
        .iter()
        .map(|about| about.options)
        .chain([CONNECTION]);
    let mut listed: Vec<&str> = lists
        .flatten()
        .flat_map(|(text, _)| text.split([' ', ',']))
        .filter_map(|word| word.strip_prefix("--"))
        .collect();
    listed.sort_unstable();
    listed.dedup();
    let mut known: Vec<&str> = VALUED
        .iter()
        .copied()
        .chain(["json", "media", "tls", "wait"])
        .collect();
    known.sort_unstable();
    assert_eq!(listed, known);
}
