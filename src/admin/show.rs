//! `summary` and `sessions`: as tables for people, as JSON for programs.

use serde::de::DeserializeOwned;

use super::client::{Client, Failure, Pair};
use super::options::{Command, Options};
use super::print;
use super::quantity::{scaled, time};
use super::table::{self, Column, number, text, word};
use super::view::{Relay, Session, SortKey};
use crate::sys::{clock, terminal};
use crate::text_layout::clean;

/// Whoever is to drain one needs its whole name, so that shrinks at the very last.
pub(super) const RELAYS: &[Column] = &[
    text("RELAY", usize::MAX),
    word("STATE"),
    number("CALLS"),
    number("RINGING").leaves(4),
    text("STREAMS", 12).leaves(5),
    number("LEFT").leaves(3),
    number("BIT/S"),
    number("DROPPED").leaves(7),
    number("UNSENT").leaves(6),
    number("UP").leaves(2),
    word("VERSION").leaves(1),
];

pub(super) const SESSIONS: &[Column] = &[
    text("CALLER", 12),
    text("CALLEE", 12),
    word("STATUS"),
    number("TIME"),
    word("MEDIA").leaves(2),
    word("CODEC").leaves(4),
    number("PACKETS").leaves(6),
    number("BYTES").leaves(1),
    number("KERNEL").leaves(3),
    word("RELAY").leaves(5),
    text("CALL-ID", 16),
];

/// The time since a relay took the call over from its former process. Shown if there is such a call, and the first column to go.
pub(super) const ADOPTED: Column = number("ADOPTED").leaves(0);

/// All relays. Where one has failed, or none takes new calls, that is an error.
pub(super) fn summary(options: &Options) -> Result<(), Failure> {
    let lines = Client::connect(&options.target)?.ask("summary")?;
    let relays: Vec<Relay> = read(&lines)?;
    if options.json {
        lines.iter().for_each(|line| print(&format!("{line}\n")));
    } else if !relays.is_empty() {
        let rows: Vec<Vec<String>> = relays.iter().map(relay_row).collect();
        show(RELAYS, &rows);
    }
    let none = if relays.iter().any(Relay::takes_calls) {
        None
    } else if relays.iter().all(|relay| relay.away) {
        Some("no relay is connected")
    } else {
        Some("no relay takes new calls")
    };
    match (failed(&relays), none) {
        (None, None) => Ok(()),
        (Some(why), Some(none)) => Err(Failure::Refused(format!("{none}; {why}"))),
        (Some(why), None) => Err(Failure::Refused(why)),
        (None, Some(none)) => Err(Failure::Refused(none.to_owned())),
    }
}

/// What is to be said of relays that do not answer.
pub(super) fn failed<'r>(relays: impl IntoIterator<Item = &'r Relay>) -> Option<String> {
    let failed = relays.into_iter().filter(|relay| relay.is_bad());
    let told = |relay: &Relay| match relay.session_count {
        0 => relay.label(),
        1 => format!("{} (1 call)", relay.label()),
        calls => format!("{} ({calls} calls)", relay.label()),
    };
    let failed: Vec<String> = failed.map(told).collect();
    match failed.as_slice() {
        [] => None,
        failed => Some(format!("no answer from relay {}", failed.join(", "))),
    }
}

pub(super) fn relay_row(relay: &Relay) -> Vec<String> {
    vec![
        relay.label(),
        relay.state(),
        relay.session_count.to_string(),
        relay
            .unanswered
            .map_or("-".to_owned(), |calls| calls.to_string()),
        relay.streams(),
        relay
            .streams_left
            .map_or("-".to_owned(), |left| left.to_string()),
        scaled(relay.bps_relayed),
        scaled(relay.dropped() as f64),
        scaled(relay.unsent_packets as f64),
        time(relay.uptime),
        clean(&relay.version),
    ]
}

/// Calls, sorted. Where some relay has not told of its own, that is an error.
pub(super) fn sessions(options: &Options) -> Result<(), Failure> {
    let Command::Sessions(wanted) = &options.command else {
        return Ok(());
    };
    let line = options.command.line(options.json);
    let [lines, relays] = Pair::connect(&options.target)?.ask([&line, "summary"])?;
    let relays: Vec<Relay> = read(&relays)?;
    let sessions: Vec<Session> = read(&lines)?;
    let mut all: Vec<(Session, &String)> = sessions.into_iter().zip(&lines).collect();
    sort(&mut all, wanted.sort);
    let rows = all.iter().map(|(session, _)| session_row(session));
    let mut rows: Vec<Vec<String>> = rows.collect();
    let mut columns = SESSIONS.to_vec();
    let now = clock::now().unix.elapsed().as_secs_f64();
    if all.iter().any(|(session, _)| session.adopted.is_some()) {
        columns.push(ADOPTED);
        for (row, (session, _)) in rows.iter_mut().zip(&all) {
            row.push(session.adopted(now).unwrap_or_else(|| "-".to_owned()));
        }
    }
    // One relay may be all that was asked for, and a call that was found is all of it.
    let filter = |wanted_key: &str| {
        let mut filters = wanted.filters.iter();
        filters
            .find(|(key, _)| *key == wanted_key)
            .map(|(_, value)| value)
    };
    let is_whole = (filter("call_id").is_some() || wanted.word.is_some()) && !all.is_empty();
    let relay = filter("relay");
    let is_asked = |one: &&Relay| {
        !is_whole && relay.is_none_or(|name| *name == one.ip || Some(name) == one.name.as_ref())
    };
    let failed = failed(relays.iter().filter(is_asked));
    if options.json {
        all.iter().for_each(|(_, line)| print(&format!("{line}\n")));
    } else if !rows.is_empty() {
        show(&columns, &rows);
    } else if failed.is_none() {
        print("no calls\n");
    }
    match failed {
        Some(why) => Err(Failure::Refused(format!("{why}: its calls are not listed"))),
        None => Ok(()),
    }
}

fn sort(all: &mut [(Session, &String)], key: SortKey) {
    let traffic = |session: &Session| session.bytes() as f64;
    all.sort_by(|(one, _), (other, _)| key.compare(one, other, traffic));
}

pub(super) fn session_row(session: &Session) -> Vec<String> {
    let [caller, callee] = session.packets();
    vec![
        clean(&session.from_uri),
        clean(&session.to_uri),
        session.status(),
        time(session.duration as u64),
        session.media(),
        session.codec(),
        format!("{}/{}", scaled(caller as f64), scaled(callee as f64)),
        scaled(session.bytes() as f64),
        format!("{:.0}%", session.in_kernel() * 100.0),
        session.relay(),
        session.call_id(),
    ]
}

fn show(columns: &[Column], rows: &[Vec<String>]) {
    for line in table::lines(columns, rows, terminal::stdout_width()) {
        print(&format!("{line}\n"));
    }
}

/// JSON lines as types.
pub(super) fn read<T: DeserializeOwned>(lines: &[String]) -> Result<Vec<T>, Failure> {
    let read = |line: &String| {
        serde_json::from_str(line)
            .map_err(|error| Failure::Refused(format!("an answer that cannot be read: {error}")))
    };
    lines.iter().map(read).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::admin::view::Stream;
    use std::collections::BTreeMap;

    pub(crate) const WIDTHS: [usize; 4] = [60, 80, 120, 200];

    /// What a busy relay has, with a name as long as they get.
    pub(crate) fn relay() -> Relay {
        Relay {
            ip: "2001:db8:85a3:8d3:1319:8a2e:370:7348".into(),
            name: Some("relay-17.fra.example.com:2".into()),
            version: "0.1.0".into(),
            status: "active".into(),
            uptime: 40 * 86_400,
            session_count: 12_345,
            unanswered: Some(1_234),
            stream_count: BTreeMap::from([("audio".into(), 12_345), ("video".into(), 400)]),
            streams_left: Some(1_255),
            streams_fit: 14_000,
            bps_relayed: 987e6,
            unsent_packets: 120_000,
            dropped_packets: BTreeMap::from([("wrong source".into(), 990_000)]),
            drained: false,
            away: false,
        }
    }

    /// One with URIs and a Call-ID as softphones make them.
    pub(crate) fn session() -> Session {
        Session {
            call_id: "ZDk3OTdhZjg4YmQ0YTkzZmE3ZDA4YzAyMWM3N2VhNDc.".into(),
            from_uri: "+4930123456789@sip.carrier.example.net".into(),
            to_uri: "reception.berlin@voice.example.com".into(),
            start_time: Some(1.0),
            duration: 7503.0,
            streams: vec![Stream {
                media_type: "audio".into(),
                status: "active".into(),
                caller_codec: "telephone-event".into(),
                caller_packets: 375_000,
                callee_packets: 374_000,
                caller_bytes: 64_000_000,
                callee_bytes: 64_000_000,
                caller_local: "198.51.100.107:40000".into(),
                caller_packets_kernel: 375_000,
                callee_packets_kernel: 374_000,
                ..Stream::default()
            }],
            ..Session::default()
        }
    }

    /// The names of the columns that are left out at each of the widths.
    pub(crate) fn left_out(columns: &[Column], row: &[String]) -> [String; 4] {
        WIDTHS.map(|width| {
            let lines = table::lines(columns, &[row.to_vec()], Some(width));
            assert!(lines.iter().all(|line| line.chars().count() <= width));
            let head: Vec<&str> = lines[0].split_whitespace().collect();
            for (column, cell) in columns.iter().zip(row) {
                let is_shown = head.contains(&column.name);
                let is_whole = lines[1].contains(cell.as_str());
                assert!(column.leaves.is_some() || is_shown, "{width}: {lines:#?}");
                assert!(
                    !is_shown || is_whole || column.least.is_some(),
                    "{width}: {} is cut: {lines:#?}",
                    column.name
                );
            }
            let names = columns.iter().map(|column| column.name);
            let missing: Vec<&str> = names.filter(|name| !head.contains(name)).collect();
            missing.join(" ")
        })
    }

    /// The names of columns in the order in which they leave, as the manual page has it.
    pub(crate) fn order(columns: &[Column]) -> String {
        let mut leaving: Vec<&Column> = columns.iter().filter(|c| c.leaves.is_some()).collect();
        leaving.sort_by_key(|column| column.leaves);
        let names: Vec<&str> = leaving.iter().map(|column| column.name).collect();
        names.join(", ")
    }

    #[test]
    fn a_terminal_shows_of_relays_what_matters_most() {
        let row = relay_row(&relay());
        assert_eq!(
            left_out(RELAYS, &row),
            [
                "RINGING STREAMS LEFT UNSENT UP VERSION",
                "RINGING LEFT UP VERSION",
                "",
                ""
            ]
        );
        for width in WIDTHS {
            let lines = table::lines(RELAYS, std::slice::from_ref(&row), Some(width));
            assert!(lines[1].starts_with("relay-17.fra.example.com:2  "));
        }
    }

    #[test]
    fn a_terminal_shows_of_calls_what_matters_most() {
        let row = session_row(&session());
        let out = [
            "MEDIA CODEC PACKETS BYTES KERNEL RELAY",
            "MEDIA CODEC BYTES KERNEL RELAY",
            "BYTES",
            "",
        ];
        assert_eq!(left_out(SESSIONS, &row), out);
    }

    #[test]
    fn a_pipe_gets_all() {
        for (columns, row) in [
            (RELAYS, relay_row(&relay())),
            (SESSIONS, session_row(&session())),
        ] {
            let lines = table::lines(columns, std::slice::from_ref(&row), None);
            assert!(row.iter().all(|cell| lines[1].contains(cell.as_str())));
            assert!(columns.iter().all(|column| lines[0].contains(column.name)));
        }
    }

    #[test]
    fn an_adopted_call_says_how_long_ago_that_was() {
        let call = Session {
            adopted: Some(1_000_000_000.5),
            ..session()
        };
        assert_eq!(call.adopted(1_000_000_125.0).as_deref(), Some("2:04"));
        assert_eq!(call.adopted(999_999_999.0).as_deref(), Some("0:00"));
        assert_eq!(session().adopted(1_000_000_125.0), None);
    }

    #[test]
    fn the_manual_page_has_the_order() {
        let page = include_str!("../../man/media-admin.8").replace('\n', " ");
        for (table, columns) in [("summary", RELAYS), ("sessions", SESSIONS)] {
            let order = order(columns);
            assert!(page.contains(&order), "{table}: {order}");
        }
    }
}
