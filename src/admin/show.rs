//! `summary` and `sessions`: as tables for people, as JSON for programs.

use serde::de::DeserializeOwned;

use super::client::{Client, Failure};
use super::options::{Command, Options};
use super::print;
use super::table::{self, Column, number, text, word};
use super::units::{clean, scaled, time, width};
use super::view::{Relay, Session, SortKey};

pub const RELAYS: &[Column] = &[
    text("RELAY"),
    word("STATE"),
    number("CALLS"),
    text("STREAMS"),
    number("BIT/S"),
    number("DROPPED"),
    number("UNSENT"),
    number("UP"),
    word("VERSION"),
];

const SESSIONS: &[Column] = &[
    text("CALLER"),
    text("CALLEE"),
    word("STATUS"),
    number("TIME"),
    word("MEDIA"),
    word("CODEC"),
    number("PACKETS"),
    number("BYTES"),
    number("KERNEL"),
    word("RELAY"),
    text("CALL-ID"),
];

/// All relays. Where one has failed, that is an error.
pub fn summary(options: &Options) -> Result<(), Failure> {
    let lines = Client::connect(&options.target)?.ask("summary")?;
    let relays: Vec<Relay> = read(&lines)?;
    if options.json {
        lines.iter().for_each(|line| print(&format!("{line}\n")));
    } else if relays.is_empty() {
        print("no relay is connected\n");
    } else {
        let rows: Vec<Vec<String>> = relays.iter().map(relay_row).collect();
        show(RELAYS, &rows);
    }
    let failed = relays.iter().filter(|relay| relay.is_bad());
    let failed: Vec<String> = failed.map(Relay::label).collect();
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Failure::Refused(format!(
            "no answer from relay {}",
            failed.join(", ")
        ))),
    }
}

pub fn relay_row(relay: &Relay) -> Vec<String> {
    vec![
        relay.label(),
        relay.state(),
        relay.session_count.to_string(),
        relay.streams(),
        scaled(relay.bps_relayed),
        scaled(relay.dropped() as f64),
        scaled(relay.unsent_packets as f64),
        time(relay.uptime),
        clean(&relay.version),
    ]
}

/// Calls, sorted.
pub fn sessions(options: &Options) -> Result<(), Failure> {
    let Command::Sessions(wanted) = &options.command else {
        return Ok(());
    };
    let lines = Client::connect(&options.target)?.ask(&options.command.line(options.json))?;
    let sessions: Vec<Session> = read(&lines)?;
    let mut all: Vec<(Session, &String)> = sessions.into_iter().zip(&lines).collect();
    sort(&mut all, wanted.sort);
    if options.json {
        all.iter().for_each(|(_, line)| print(&format!("{line}\n")));
        return Ok(());
    }
    if all.is_empty() {
        print("no calls\n");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|(session, _)| session_row(session))
        .collect();
    show(SESSIONS, &rows);
    Ok(())
}

fn sort(all: &mut [(Session, &String)], key: SortKey) {
    let traffic = |session: &Session| session.bytes() as f64;
    all.sort_by(|(one, _), (other, _)| key.compare(one, other, traffic));
}

fn session_row(session: &Session) -> Vec<String> {
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
        clean(&session.call_id),
    ]
}

fn show(columns: &[Column], rows: &[Vec<String>]) {
    for line in table::lines(columns, rows, width()) {
        print(&format!("{line}\n"));
    }
}

/// JSON lines as types.
pub fn read<T: DeserializeOwned>(lines: &[String]) -> Result<Vec<T>, Failure> {
    let read = |line: &String| {
        serde_json::from_str(line)
            .map_err(|error| Failure::Refused(format!("an answer that cannot be read: {error}")))
    };
    lines.iter().map(read).collect()
}
