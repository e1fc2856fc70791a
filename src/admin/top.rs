//! `top`: relays with their rates, the busiest and the worst calls, looked at again and again.
//!
//! What is shown is made of what was told and the screen's size alone (`frame`); the rest is the terminal's.

use std::collections::HashMap;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::client::{Failure, Pair, Target};
use super::options::{Command, Options};
use super::screen::{Happening, Screen};
use super::show::{RELAYS, read, relay_row};
use super::table::{self, Column, number, text, word};
use super::units::{clean, colour, cut, scaled, time, wrap};
use super::view::{Relay, Session, SortKey};
use crate::sys::clock;
use crate::words::counted;

/// How often the screen's size is looked at.
const STEP: Duration = Duration::from_millis(200);

/// What keys without a letter send first, and how long the rest of it may take.
const ESCAPE: u8 = 0x1b;
const SEQUENCE: Duration = Duration::from_millis(50);

/// Ctrl-Z.
const SUSPEND: u8 = 0x1a;

/// A call is among the worst where one side is heard so much less than the other.
const BAD: f64 = 0.5;

/// What the keys do, in as many words as there is room for.
const KEYS: [&str; 3] = [
    "q quit  sort: t traffic d duration w worst p packets c caller s status  r look now",
    "q quit  t traffic d duration w worst p packets c caller s status r now",
    "q quit  sort by: t d w p c s  r look now",
];

/// Lines that a failure may take.
const WHY: usize = 3;

const CALLS: &[Column] = &[
    text("CALLER", 12),
    text("CALLEE", 12),
    word("STATUS"),
    number("TIME").leaves(4),
    number("BIT/S"),
    number("PACKETS").leaves(3),
    number("KERNEL").leaves(1),
    word("RELAY").leaves(2),
    text("CALL-ID", 16),
];

/// What was told at the last look.
#[derive(Default)]
struct Look {
    relays: Vec<Relay>,
    sessions: Vec<Session>,
    /// Bits a second of each session since the look before.
    rates: HashMap<String, f64>,
    /// Of each session: bytes, and when.
    bytes: HashMap<String, (u64, Duration)>,
    failure: Option<String>,
}

/// Until somebody quits. Only a first look that fails is a failure; later ones are shown and tried again.
pub fn run(options: &Options) -> Result<(), Failure> {
    let Command::Top { interval, sort } = options.command else {
        return Ok(());
    };
    let mut client = Some(Pair::connect(&options.target)?);
    let mut look = Look::default();
    look.renew(&mut client, &options.target);
    if let Some(why) = look.failure {
        return Err(Failure::Lost(why));
    }
    let screen = Screen::open().map_err(|error| Failure::Refused(error.to_string()))?;
    let shown = watch(&screen, &options.target, (client, look), interval, sort);
    // The terminal comes back before anything else is said.
    drop(screen);
    shown.map_err(|error| Failure::Refused(format!("the terminal: {error}")))
}

fn watch(
    screen: &Screen,
    target: &Target,
    (mut client, mut look): (Option<Pair>, Look),
    interval: Duration,
    mut sort: SortKey,
) -> std::io::Result<()> {
    let mut next = clock::mono() + interval;
    let mut size = screen.size();
    let colour = colour();
    loop {
        screen.show(&frame(&look, sort, size, colour))?;
        loop {
            let now = clock::mono();
            if now >= next {
                look.renew(&mut client, target);
                next = clock::mono() + interval;
                size = screen.size();
                break;
            }
            match screen.happenings.recv_timeout(STEP.min(next - now)) {
                Ok(Happening::Key(b'q' | b'Q')) => return Ok(()),
                Ok(Happening::Key(ESCAPE)) if passes(&screen.happenings) => {}
                Ok(Happening::Key(ESCAPE)) => return Ok(()),
                Ok(Happening::Key(b'r')) => next = now,
                Ok(Happening::Key(SUSPEND)) => {
                    screen.suspend()?;
                    // The dispatcher may have closed it meanwhile, and what was seen is old.
                    (client, next) = (None, clock::mono());
                    size = screen.size();
                    break;
                }
                Ok(Happening::Key(key)) => {
                    if let Some(wanted) = sort_of(key) {
                        sort = wanted;
                        break;
                    }
                }
                Ok(Happening::Signal | Happening::NoKeys) | Err(RecvTimeoutError::Disconnected) => {
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if screen.size() != size {
                size = screen.size();
                break;
            }
        }
    }
}

/// Passes over what an arrow or another key without a letter sends behind [`ESCAPE`]: it comes at once. False where
/// it is time to end.
fn passes(happenings: &Receiver<Happening>) -> bool {
    let mut is_first = true;
    loop {
        match happenings.recv_timeout(SEQUENCE) {
            Ok(Happening::Key(b'[' | b'O')) if is_first => is_first = false,
            // What ends a sequence (ECMA-48 section 5.4).
            Ok(Happening::Key(0x40..=0x7e)) | Err(RecvTimeoutError::Timeout) => return true,
            Ok(Happening::Key(_)) => is_first = false,
            Ok(Happening::Signal | Happening::NoKeys) | Err(RecvTimeoutError::Disconnected) => {
                return false;
            }
        }
    }
}

fn sort_of(key: u8) -> Option<SortKey> {
    Some(match key {
        b't' => SortKey::Traffic,
        b'd' => SortKey::Duration,
        b'w' => SortKey::Quality,
        b'p' => SortKey::Packets,
        b'c' => SortKey::Caller,
        b's' => SortKey::Status,
        _ => return None,
    })
}

impl Look {
    /// Looks again; what was seen stays where that fails.
    fn renew(&mut self, client: &mut Option<Pair>, target: &Target) {
        match look(client, target) {
            Ok((relays, sessions)) => {
                self.failure = None;
                self.relays = relays;
                self.note(sessions, clock::mono());
            }
            Err(failure) => {
                // What of an answer is still to come would be taken for the next.
                *client = None;
                self.failure = Some(failure.to_string());
            }
        }
    }

    fn note(&mut self, sessions: Vec<Session>, now: Duration) {
        let mut rates = HashMap::new();
        let mut bytes = HashMap::new();
        for session in &sessions {
            let (key, count) = (session.key().to_owned(), session.bytes());
            if let Some((before, then)) = self.bytes.get(&key) {
                let seconds = (now.saturating_sub(*then)).as_secs_f64().max(0.001);
                let bits = count.saturating_sub(*before) as f64 * 8.0;
                rates.insert(key.clone(), bits / seconds);
            }
            bytes.insert(key, (count, now));
        }
        (self.sessions, self.rates, self.bytes) = (sessions, rates, bytes);
    }

    /// Bits a second; in the first look, what it comes to since the call's start.
    fn rate(&self, session: &Session) -> f64 {
        let known = self.rates.get(session.key()).copied();
        known.unwrap_or_else(|| session.bytes() as f64 * 8.0 / session.duration.max(1.0))
    }
}

fn look(client: &mut Option<Pair>, target: &Target) -> Result<(Vec<Relay>, Vec<Session>), Failure> {
    let client = match client {
        Some(client) => client,
        none => none.insert(Pair::connect(target)?),
    };
    let [relays, sessions] = client.ask(["summary", "sessions"])?;
    Ok((read(&relays)?, read(&sessions)?))
}

/// The lines of the screen: as many as it has rows, none longer than it has columns.
fn frame(look: &Look, sort: SortKey, (columns, rows): (usize, usize), colour: bool) -> Vec<String> {
    let paint = |line: String, code: &str| match colour {
        true => format!("\x1b[{code}m{line}\x1b[0m"),
        false => line,
    };
    let calls: u64 = look.relays.iter().map(|relay| relay.session_count).sum();
    let rate: f64 = look.relays.iter().map(|relay| relay.bps_relayed).sum();
    let title = format!(
        "media-admin top: {}, {}, {} bit/s",
        counted(look.relays.len() as u64, "relay"),
        counted(calls, "call"),
        scaled(rate)
    );
    let mut lines = vec![paint(cut(&title, columns), "1"), String::new()];
    let relays: Vec<Vec<String>> = look.relays.iter().map(relay_row).collect();
    let room = rows / 3;
    let table = table::lines(RELAYS, &relays, Some(columns));
    for (index, line) in table.into_iter().take(room.max(2)).enumerate() {
        let is_bad = index > 0 && look.relays.get(index - 1).is_some_and(Relay::is_bad);
        lines.push(match (index, is_bad) {
            (0, _) => paint(line, "7"),
            (_, true) => paint(line, "31"),
            _ => line,
        });
    }
    let foot = foot(look, columns);
    // Two names of tables, two headlines, and the foot.
    let left = rows.saturating_sub(lines.len() + 4 + foot.len());
    let worst = worst(look, left / 3);
    let busy = sorted(look, sort, left.saturating_sub(worst.len()));
    let mut section = |name: &str, sessions: &[&Session]| {
        let rows: Vec<Vec<String>> = sessions.iter().map(|one| row(look, one)).collect();
        let table = table::lines(CALLS, &rows, Some(columns));
        lines.push(cut(name, columns));
        for (index, line) in table.into_iter().enumerate() {
            let is_bad = index > 0 && sessions.get(index - 1).is_some_and(|s| s.quality() < 0.1);
            lines.push(match (index, is_bad) {
                (0, _) => paint(line, "7"),
                (_, true) => paint(line, "31"),
                _ => line,
            });
        }
    };
    section(&format!("calls by {}", sort.name()), &busy);
    if !worst.is_empty() {
        section("worst: one side is hardly heard", &worst);
    }
    lines.resize(rows.saturating_sub(foot.len()), String::new());
    lines.extend(foot.into_iter().map(|line| match look.failure {
        Some(_) => paint(line, "31"),
        None => line,
    }));
    lines.truncate(rows);
    lines
}

/// The last lines: why figures are old, or what the keys do.
fn foot(look: &Look, columns: usize) -> Vec<String> {
    if let Some(why) = &look.failure {
        let mut lines = wrap(&format!("old figures: {}", clean(why)), Some(columns));
        lines.truncate(WHY);
        return lines.iter().map(|line| cut(line, columns)).collect();
    }
    let fits = |keys: &&str| keys.len() <= columns;
    let [.., shortest] = KEYS;
    vec![cut(
        KEYS.into_iter().find(fits).unwrap_or(shortest),
        columns,
    )]
}

fn sorted(look: &Look, sort: SortKey, most: usize) -> Vec<&Session> {
    let mut sessions: Vec<&Session> = look.sessions.iter().collect();
    sessions.sort_by(|one, other| sort.compare(one, other, |session| look.rate(session)));
    sessions.truncate(most);
    sessions
}

fn worst(look: &Look, most: usize) -> Vec<&Session> {
    let mut sessions = sorted(look, SortKey::Quality, most);
    sessions.retain(|session| session.quality() < BAD);
    sessions
}

fn row(look: &Look, session: &Session) -> Vec<String> {
    let [caller, callee] = session.packets();
    vec![
        clean(&session.from_uri),
        clean(&session.to_uri),
        session.status(),
        time(session.duration as u64),
        scaled(look.rate(session)),
        format!("{}/{}", scaled(caller as f64), scaled(callee as f64)),
        format!("{:.0}%", session.in_kernel() * 100.0),
        session.relay(),
        session.call_id(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::show;
    use crate::admin::view::Stream;

    fn session(call_id: &str, packets: [u64; 2]) -> Session {
        Session {
            call_id: call_id.into(),
            from_uri: format!("caller-of-{call_id}@example.com"),
            start_time: Some(1.0),
            duration: 60.0,
            streams: vec![Stream {
                status: "active".into(),
                caller_packets: packets[0],
                callee_packets: packets[1],
                caller_bytes: packets[0] * 200,
                ..Stream::default()
            }],
            ..Session::default()
        }
    }

    fn look() -> Look {
        let mut look = Look {
            relays: vec![Relay {
                ip: "192.0.2.1".into(),
                status: "active".into(),
                session_count: 3,
                bps_relayed: 64_000.0,
                ..Relay::default()
            }],
            ..Look::default()
        };
        let before = vec![
            session("quiet", [100, 100]),
            session("busy", [100, 100]),
            session("mute", [9, 0]),
        ];
        look.note(before, Duration::from_secs(1));
        let now = vec![
            session("quiet", [101, 101]),
            session("busy", [200, 200]),
            session("mute", [9, 0]),
        ];
        look.note(now, Duration::from_secs(2));
        look
    }

    #[test]
    fn the_busiest_stand_above_and_the_worst_below() {
        let lines = frame(&look(), SortKey::Traffic, (120, 30), false);
        assert_eq!(lines[0], "media-admin top: 1 relay, 3 calls, 64k bit/s");
        let place = |text: &str| lines.iter().position(|line| line.contains(text)).unwrap();
        assert!(place("calls by traffic") < place("caller-of-busy"));
        assert!(place("caller-of-busy") < place("caller-of-quiet"));
        let busy = &lines[place("caller-of-busy")];
        assert!(
            busy.contains("160k"),
            "100 packets of 200 bytes in a second: {busy}"
        );
        let worst = place("worst:");
        assert!(
            lines[worst + 2].contains("caller-of-mute") && lines[worst + 2].contains("one way")
        );
        assert_eq!(lines.last().unwrap(), KEYS[0]);
    }

    #[test]
    fn it_fits_any_screen() {
        for columns in [1, 20, 80, 200] {
            for rows in [1, 2, 5, 24, 100] {
                for failure in [None, Some("gone, and so are all its friends ".repeat(9))] {
                    let look = Look { failure, ..look() };
                    let lines = frame(&look, SortKey::Quality, (columns, rows), false);
                    assert_eq!(lines.len(), rows);
                    assert!(lines.iter().all(|line| line.chars().count() <= columns));
                }
            }
        }
    }

    #[test]
    fn a_look_that_failed_is_said_and_the_old_one_stays() {
        let mut look = look();
        look.failure = Some("the dispatcher is gone\x1b".into());
        let lines = frame(&look, SortKey::Traffic, (80, 24), true);
        assert_eq!(
            lines.last().unwrap(),
            "\x1b[31mold figures: the dispatcher is gone\\u{1b}\x1b[0m"
        );
        // A long one is told whole.
        look.failure = Some("a sentence of its own ".repeat(6));
        let long = frame(&look, SortKey::Traffic, (80, 24), false);
        assert!(long[22].starts_with("old figures: a sentence"), "{long:?}");
        assert!(long[23].ends_with("of its own"), "{long:?}");
        assert!(lines.iter().any(|line| line.contains("caller-of-busy")));
    }

    #[test]
    fn a_narrow_screen_shows_what_matters_most() {
        let row = row(&look(), &show::tests::session());
        let out = ["TIME PACKETS KERNEL RELAY", "KERNEL RELAY", "", ""];
        assert_eq!(show::tests::left_out(CALLS, &row), out);
        let page = include_str!("../../man/media-admin.8").replace('\n', " ");
        let order = show::tests::order(CALLS);
        assert!(page.contains(&order), "{order}");
        for columns in show::tests::WIDTHS {
            let lines = frame(&look(), SortKey::Traffic, (columns, 24), false);
            let keys = lines.last().unwrap();
            assert!(keys.starts_with("q quit") && !keys.contains('…'), "{keys}");
            assert!(lines[0].ends_with("64k bit/s"), "{}", lines[0]);
        }
    }

    #[test]
    fn keys_sort() {
        assert_eq!(
            (sort_of(b'w'), sort_of(b'x')),
            (Some(SortKey::Quality), None)
        );
        for key in [
            "t traffic",
            "d duration",
            "w worst",
            "p packets",
            "c caller",
            "s status",
        ] {
            assert!(KEYS[0].contains(key) && KEYS[1].contains(key));
            assert!(sort_of(key.as_bytes()[0]).is_some(), "{key}");
        }
    }
}
