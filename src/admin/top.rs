//! `top`: relays with their rates, the busiest and the worst calls, looked at again and again; one can be chosen and
//! explained.
//!
//! What is shown is made of what was told, what is chosen and the screen's size alone (`frame`); the rest is the
//! terminal's.

use std::collections::HashMap;
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use serde_json::Value;

use super::client::{Failure, Pair, Target};
use super::keys::{Key, key};
use super::options::{Command, Options};
use super::quantity::{scaled, time};
use super::screen::Screen;
use super::show::{RELAYS, read, relay_row};
use super::table::{self, Column, number, text, word};
use super::view::{Relay, Session, SortKey, sum};
use crate::moment::Moment;
use crate::sys::{clock, terminal};
use crate::text_layout::{clean, cut, fold, wrap};
use crate::words::counted;

/// How often the screen's size is looked at.
const KEY_WAIT: Duration = Duration::from_millis(200);

/// Rates need a second look: it comes so soon at the latest.
const SECOND: Duration = Duration::from_secs(1);

/// A call is among the worst where one side is heard so much less than the other.
const BAD_SHARE: f64 = 0.5;

/// What the keys do, in as many words as there is room for.
const KEYS: [&str; 3] = [
    "q quit  arrows choose  Enter explain  sort: t traffic d duration w worst p packets c caller s status  r look now",
    "q quit Enter explain  t traffic d duration w worst p packets c caller s status",
    "q quit  Enter explain  t d w p c s sort  r now",
];

/// The same while a call is explained.
const BACK: &str = "q, Esc back  arrows scroll  r now";

/// Lines that a failure may take.
const WHY_LINES: usize = 3;

/// Lines for what is known of the chosen call, where there is room.
const DETAIL_LINES: usize = 4;

/// In front of the chosen call's line, and of the others'.
const CHOSEN: [&str; 2] = ["> ", "  "];

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
pub(super) struct Look {
    pub relays: Vec<Relay>,
    sessions: Vec<Session>,
    /// Bits a second of each session since the look before.
    rates: HashMap<String, f64>,
    /// When that was, UNIX seconds.
    at: f64,
    /// Of each session: bytes, and when.
    bytes: HashMap<String, (u64, Moment)>,
    failure: Option<String>,
}

/// What somebody wants to see of it.
#[derive(Default)]
pub(super) struct Wish {
    pub sort: SortKey,
    /// The chosen call; none is the first one.
    chosen: Option<String>,
    /// The first call in the list that is shown.
    first: usize,
    /// How many were shown last.
    page: usize,
    pub explained: Option<Explained>,
}

/// A call that is explained.
#[derive(Default)]
pub(super) struct Explained {
    /// As commands take it.
    pub call_id: String,
    pub lines: Vec<String>,
    /// The first line that is shown.
    first: usize,
}

/// What is to be done after a key.
enum Next {
    End,
    Look,
    Show,
    Suspend,
    Nothing,
}

/// Until somebody quits. Only a first look that fails is a failure; later ones are shown and tried again.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let Command::Top { interval, sort } = options.command else {
        return Ok(());
    };
    let mut client = Some(Pair::connect(&options.target)?);
    let mut look = Look::default();
    look.renew(&mut client, &options.target);
    if let Some(why) = look.failure {
        return Err(Failure::Lost(why));
    }
    let wish = Wish {
        sort,
        ..Wish::default()
    };
    let screen = Screen::open().map_err(|error| Failure::Refused(error.to_string()))?;
    let shown = watch(&screen, &options.target, (client, look), interval, wish);
    // The terminal comes back before anything else is said.
    drop(screen);
    shown.map_err(|error| Failure::Refused(format!("the terminal: {error}")))
}

fn watch(
    screen: &Screen,
    target: &Target,
    (mut client, mut look): (Option<Pair>, Look),
    interval: Duration,
    mut wish: Wish,
) -> std::io::Result<()> {
    let mut next = clock::moment() + interval.min(SECOND);
    let mut size = screen.size();
    let colour = terminal::wants_colour(&std::io::stdout());
    loop {
        screen.show(&frame(&look, &mut wish, size, colour))?;
        loop {
            let now = clock::moment();
            if now >= next {
                look.renew(&mut client, target);
                wish.explain_again(&mut client);
                next = clock::moment() + interval;
                size = screen.size();
                break;
            }
            let happening = screen
                .happenings
                .recv_timeout(KEY_WAIT.min(next.since(now)));
            let pressed = match happening {
                Ok(happening) => key(happening, &screen.happenings),
                Err(RecvTimeoutError::Disconnected) => Key::End,
                Err(RecvTimeoutError::Timeout) => Key::None,
            };
            match wish.on_key(pressed, &look) {
                Next::End => return Ok(()),
                Next::Look => next = now,
                Next::Show => break,
                Next::Suspend => {
                    screen.suspend()?;
                    // The dispatcher may have closed it meanwhile, and what was seen is old.
                    (client, next) = (None, clock::moment());
                    size = screen.size();
                    break;
                }
                Next::Nothing => {}
            }
            if screen.size() != size {
                size = screen.size();
                break;
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

impl Wish {
    fn on_key(&mut self, pressed: Key, look: &Look) -> Next {
        match (pressed, self.explained.is_some()) {
            (Key::None, _) => Next::Nothing,
            (Key::End, _) => Next::End,
            (Key::Suspend, _) => Next::Suspend,
            (Key::Letter(b'r'), _) => Next::Look,
            (Key::Escape | Key::Enter | Key::Letter(b'q' | b'Q'), true) => {
                self.explained = None;
                Next::Show
            }
            (Key::Escape | Key::Letter(b'q' | b'Q'), false) => Next::End,
            (Key::Enter, false) => {
                let sorted = sorted(look, self.sort);
                let Some(session) = sorted.get(self.index(&sorted)) else {
                    return Next::Nothing;
                };
                self.explained = Some(Explained {
                    call_id: session.exact_call_id().to_owned(),
                    lines: vec!["asking its relay ...".to_owned()],
                    first: 0,
                });
                Next::Look
            }
            (Key::Letter(letter), is_explained) => match sort_of(letter) {
                Some(sort) if !is_explained => {
                    (self.sort, self.first) = (sort, 0);
                    Next::Show
                }
                _ => Next::Nothing,
            },
            (moved, _) => {
                self.moved(moved, look);
                Next::Show
            }
        }
    }

    /// Another call is chosen, or another line of what is explained.
    fn moved(&mut self, pressed: Key, look: &Look) {
        let page = self.page.max(1);
        let to = |at: usize, most: usize| match pressed {
            Key::Up => at.saturating_sub(1),
            Key::Down => (at + 1).min(most),
            Key::PageUp => at.saturating_sub(page),
            Key::PageDown => (at + page).min(most),
            Key::Home => 0,
            _ => most,
        };
        if let Some(explained) = &mut self.explained {
            explained.first = to(explained.first, usize::MAX - page);
            return;
        }
        let sorted = sorted(look, self.sort);
        let index = to(self.index(&sorted), sorted.len().saturating_sub(1));
        self.chosen = sorted.get(index).map(|session| session.key().to_owned());
    }

    /// Where the chosen call stands; the first does for one that is over.
    fn index(&self, sorted: &[&Session]) -> usize {
        let is_it = |session: &&Session| Some(session.key()) == self.chosen.as_deref();
        sorted.iter().position(is_it).unwrap_or(0)
    }

    /// Asks again for the call that is explained.
    fn explain_again(&mut self, client: &mut Option<Pair>) {
        let (Some(explained), Some(asked)) = (&mut self.explained, client.as_mut()) else {
            return;
        };
        let line = format!("explain {}", Value::from(&*explained.call_id));
        explained.lines = match asked.ask_one(&line) {
            Ok(lines) => lines.iter().map(|line| clean(line)).collect(),
            Err(Failure::Refused(why)) => vec![why],
            Err(Failure::Lost(why)) => {
                *client = None;
                vec![why]
            }
        };
    }
}

impl Look {
    /// Looks again; what was seen stays where that fails.
    fn renew(&mut self, client: &mut Option<Pair>, target: &Target) {
        match look(client, target) {
            Ok((relays, sessions)) => {
                self.failure = None;
                self.relays = relays;
                let now = clock::now();
                self.at = now.unix.elapsed().as_secs_f64();
                self.note(sessions, now.mono);
            }
            Err(failure) => {
                // What of an answer is still to come would be taken for the next.
                *client = None;
                self.failure = Some(failure.to_string());
            }
        }
    }

    /// Takes what was told at this time.
    pub(super) fn note(&mut self, sessions: Vec<Session>, now: Moment) {
        let mut rates = HashMap::new();
        let mut bytes = HashMap::new();
        for session in &sessions {
            let (key, count) = (session.key().to_owned(), session.bytes());
            if let Some((before, then)) = self.bytes.get(&key) {
                let seconds = now.since(*then).as_secs_f64().max(0.001);
                let bits = count.saturating_sub(*before) as f64 * 8.0;
                rates.insert(key.clone(), bits / seconds);
            }
            bytes.insert(key, (count, now));
        }
        (self.sessions, self.rates, self.bytes) = (sessions, rates, bytes);
    }

    /// Bits a second; none before the second look at it.
    fn rate(&self, session: &Session) -> Option<f64> {
        self.rates.get(session.key()).copied()
    }

    /// The same as it is shown.
    fn shown_rate(&self, session: &Session) -> String {
        self.rate(session).map_or_else(|| "-".to_owned(), scaled)
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

/// What stands on the screen, and how it is painted.
struct Picture {
    lines: Vec<String>,
    colour: bool,
}

impl Picture {
    fn add(&mut self, line: String, code: &str) {
        self.lines.push(if self.colour && !code.is_empty() {
            format!("\x1b[{code}m{line}\x1b[0m")
        } else {
            line
        });
    }

    /// A headline and rows, bad ones in red.
    fn add_table(&mut self, table: Vec<String>, is_bad: impl Fn(usize) -> bool) {
        for (index, line) in table.into_iter().enumerate() {
            let code = match index {
                0 => "7",
                _ if is_bad(index - 1) => "31",
                _ => "",
            };
            self.add(line, code);
        }
    }
}

/// The lines of the screen: as many as it has rows, none longer than it has columns.
pub(super) fn frame(
    look: &Look,
    wish: &mut Wish,
    (columns, rows): (usize, usize),
    colour: bool,
) -> Vec<String> {
    let mut picture = Picture {
        lines: Vec::new(),
        colour,
    };
    let foot = foot(look, wish, columns);
    let left = rows.saturating_sub(foot.len());
    match &mut wish.explained {
        Some(explained) => wish.page = explain(&mut picture, explained, (columns, left)),
        None => {
            head(&mut picture, look, (columns, rows));
            calls(&mut picture, look, wish, (columns, left));
        }
    }
    let Picture { mut lines, .. } = picture;
    lines.resize(left, String::new());
    lines.extend(foot.into_iter().map(|line| match look.failure {
        Some(_) if colour => format!("\x1b[31m{line}\x1b[0m"),
        _ => line,
    }));
    lines.truncate(rows);
    lines
}

/// The title and the relays.
fn head(picture: &mut Picture, look: &Look, (columns, rows): (usize, usize)) {
    let calls = sum(look.relays.iter().map(|relay| relay.session_count));
    let rate: f64 = look.relays.iter().map(|relay| relay.bps_relayed).sum();
    let room = (rows / 3).max(2);
    let relays = counted(look.relays.len(), "relay");
    let relays = if look.relays.len() >= room {
        format!("{} of {relays} shown", room - 1)
    } else {
        relays
    };
    let ringing: u64 = look.relays.iter().filter_map(|one| one.unanswered).sum();
    let adopted = look.sessions.iter().filter(|one| one.adopted.is_some());
    let parts = [(ringing, "ringing"), (adopted.count() as u64, "adopted")];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let parts = if parts.is_empty() {
        String::new()
    } else {
        format!(" ({})", parts.join(", "))
    };
    let title = format!(
        "media-admin top: {relays}, {}{parts}, {} bit/s",
        counted(calls, "call"),
        scaled(rate)
    );
    picture.add(cut(&title, columns), "1");
    picture.lines.push(String::new());
    let rows: Vec<Vec<String>> = look.relays.iter().map(relay_row).collect();
    let mut table = table::lines(RELAYS, &rows, Some(columns));
    table.truncate(room);
    picture.add_table(table, |index| {
        look.relays.get(index).is_some_and(Relay::is_bad)
    });
}

/// The calls that were chosen, the worst ones, and what is known of the chosen one.
fn calls(picture: &mut Picture, look: &Look, wish: &mut Wish, (columns, rows): (usize, usize)) {
    let all = sorted(look, wish.sort);
    let index = wish.index(&all);
    let chosen = all.get(index).copied();
    let mut details = chosen.map_or_else(Vec::new, |one| details(look, one, columns));
    // Two names of tables and two headlines.
    let left = rows.saturating_sub(picture.lines.len() + 4);
    details.truncate(DETAIL_LINES.min(left / 3));
    let left = left - details.len();
    let worst = worst(look, left / 3);
    wish.page = left.saturating_sub(worst.len());
    let most = all.len().saturating_sub(wish.page);
    let lowest = (index + 1).saturating_sub(wish.page);
    wish.first = wish.first.clamp(lowest.min(index), index).min(most);
    let shown = all.get(wish.first..).unwrap_or_default();
    let shown = shown.get(..wish.page).unwrap_or(shown);
    let place = if shown.len() < all.len() {
        format!(
            ": {} to {} of {}",
            wish.first + 1,
            wish.first + shown.len(),
            all.len()
        )
    } else {
        String::new()
    };
    let mut section = |name: &str, sessions: &[&Session], chosen: Option<&str>| {
        let rows: Vec<Vec<String>> = sessions.iter().map(|one| row(look, one)).collect();
        let room = columns.saturating_sub(CHOSEN[0].len());
        let table = table::lines(CALLS, &rows, Some(room))
            .into_iter()
            .enumerate();
        let table = table.map(|(line, text)| {
            let key = line.checked_sub(1).and_then(|line| sessions.get(line));
            let is_chosen = chosen.is_some() && key.map(|one| one.key()) == chosen;
            cut(
                &format!("{}{text}", CHOSEN[usize::from(!is_chosen)]),
                columns,
            )
        });
        picture.lines.push(cut(name, columns));
        picture.add_table(table.collect(), |line| {
            sessions.get(line).is_some_and(|one| one.quality() < 0.1)
        });
    };
    let name = format!("calls by {}{place}", wish.sort.name());
    section(&name, shown, chosen.map(Session::key));
    if !worst.is_empty() {
        section("worst: one side is hardly heard", &worst, None);
    }
    picture.lines.truncate(rows.saturating_sub(details.len()));
    picture
        .lines
        .resize(rows.saturating_sub(details.len()), String::new());
    picture.lines.extend(details);
}

/// All that the list has of a call, and nothing of it is cut.
fn details(look: &Look, session: &Session, columns: usize) -> Vec<String> {
    let [caller, callee] = session.packets();
    let adopted = session.adopted(look.at);
    let adopted = adopted.map_or_else(String::new, |ago| format!(", adopted {ago} ago"));
    let text = format!(
        "> {} to {}, Call-ID {}, relay {}, {}, {}, {} bit/s, packets {caller}/{callee}, {:.0}% by the kernel{adopted}",
        clean(&session.from_uri),
        clean(&session.to_uri),
        session.call_id(),
        session.relay(),
        session.status(),
        time(session.duration as u64),
        look.shown_rate(session),
        session.in_kernel() * 100.0
    );
    let mut details = Vec::new();
    for line in wrap(&text, Some(columns)) {
        // A word may be longer than the screen is wide.
        let characters: Vec<char> = line.chars().collect();
        let pieces = characters.chunks(columns.max(1));
        details.extend(pieces.map(|piece| piece.iter().collect::<String>()));
    }
    details
}

/// A call that is explained; how many lines of it are shown.
fn explain(
    picture: &mut Picture,
    explained: &mut Explained,
    (columns, rows): (usize, usize),
) -> usize {
    let lines = explained.lines.iter();
    let lines: Vec<String> = lines.flat_map(|line| fold(line, Some(columns))).collect();
    let page = rows.saturating_sub(2);
    explained.first = explained.first.min(lines.len().saturating_sub(page));
    let shown = lines.iter().skip(explained.first).take(page);
    let last = (explained.first + page).min(lines.len());
    let title = format!(
        "media-admin top: call {}, lines {} to {last} of {}",
        clean(&explained.call_id),
        explained.first + 1,
        lines.len()
    );
    picture.add(cut(&title, columns), "1");
    picture.lines.push(String::new());
    shown.for_each(|line| picture.lines.push(cut(line, columns)));
    page
}

/// The last lines: why figures are old, or what the keys do.
fn foot(look: &Look, wish: &Wish, columns: usize) -> Vec<String> {
    if let Some(why) = &look.failure {
        let mut lines = wrap(&format!("old figures: {}", clean(why)), Some(columns));
        lines.truncate(WHY_LINES);
        return lines.iter().map(|line| cut(line, columns)).collect();
    }
    let fits = |keys: &&str| keys.len() <= columns;
    let [.., shortest] = KEYS;
    let keys = match wish.explained {
        Some(_) => BACK,
        None => KEYS.into_iter().find(fits).unwrap_or(shortest),
    };
    vec![cut(keys, columns)]
}

fn sorted(look: &Look, sort: SortKey) -> Vec<&Session> {
    // Before the second look, what it comes to since the call's start has to do.
    let rate = |session: &Session| {
        let average = || session.bytes() as f64 * 8.0 / session.duration.max(1.0);
        look.rate(session).unwrap_or_else(average)
    };
    let mut sessions: Vec<&Session> = look.sessions.iter().collect();
    sessions.sort_by(|one, other| sort.compare(one, other, rate));
    sessions
}

fn worst(look: &Look, most: usize) -> Vec<&Session> {
    let mut sessions = sorted(look, SortKey::Quality);
    sessions.truncate(most);
    sessions.retain(|session| session.quality() < BAD_SHARE);
    sessions
}

fn row(look: &Look, session: &Session) -> Vec<String> {
    let [caller, callee] = session.packets();
    vec![
        clean(&session.from_uri),
        clean(&session.to_uri),
        session.status(),
        time(session.duration as u64),
        look.shown_rate(session),
        format!("{}/{}", scaled(caller as f64), scaled(callee as f64)),
        format!("{:.0}%", session.in_kernel() * 100.0),
        session.relay(),
        session.call_id(),
    ]
}

#[cfg(test)]
mod tests;
