//! The management port and socket (docs/protocol.md section 6).
//!
//! ```text
//!  who is let in, and who has to go                         entrance
//!  one thread for each client: reads lines                  command, filter
//!    sessions, summary      here
//!    metrics                super::metrics
//!    explain                one call in full                explain, text, verdict; which one: naming, lookup
//!    end, drain, resume     who may change something does   end, drain
//!  answers, in either format, piece by piece                answer
//! ```
//!
//! Relays are asked all at once; what they send goes to the client piece by piece. A client holds no lock while it
//! reads, and one that reads slowly is closed.

mod answer;
pub(super) mod command;
mod drain;
mod end;
pub(super) mod entrance;
mod explain;
mod explained;
mod filter;
mod lookup;
mod naming;
pub(super) mod text;
mod verdict;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::de::IgnoredAny;

use self::answer::{Client, List};
use self::command::{Bad, Command, HELP};
use self::filter::Filter;
use super::link::{Ask, Link, Shown};
use super::registry::{CallLocation, Connected, Load};
use super::relay_commands::write_plain;
use super::relay_id::RelayKey;
use super::shared::Dispatcher;
use super::statistics::each;
use crate::door::Visit;
use crate::moment::Moment;
use crate::proto::Excerpt;
use crate::proto::line::Lines;
use crate::proto::link::Sequence;
use crate::proto::name::spelled;
use crate::sys::clock;
use crate::sys::sync::{Slot, lock};
use crate::tls::Reader;

/// Bytes in a command: a call-id may be long, and longer as a JSON string.
const MAX_LINE: usize = 64 * 1024;

/// Bytes read at a time.
const READ_SIZE: usize = 1024;

/// How long a client may take to read one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// What a relay was asked for.
type Connection = Connected<Arc<Link>>;

impl Client<'_> {
    /// Serves until the client quits, closes or breaks a limit.
    fn talk(&mut self, mut reader: Reader, visit: &Visit) -> io::Result<()> {
        let mut lines = Lines::new(MAX_LINE);
        let mut buffer = [0; READ_SIZE];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(io::Error::other("closed: no command came for 300 s"));
                }
                Err(error) => return Err(error),
            };
            lines.extend(buffer.get(..count).unwrap_or_default());
            loop {
                let line = match lines.next_line() {
                    Ok(Some(line)) => line.trim_ascii(),
                    Ok(None) => break,
                    Err(too_long) => {
                        self.say("error")?;
                        return Err(io::Error::other(too_long.to_string()));
                    }
                };
                visit.touch();
                self.is_still_accepted()?;
                // Relays may take relay_timeout to answer; that is not the client's time.
                self.allow(self.dispatcher.settings.relay_timeout + ANSWER_LIMIT);
                match command::parse(line) {
                    Ok(Command::Quit) => return Ok(()),
                    Ok(command) => self.obey(command)?,
                    Err(Bad::Usage(text)) => self.fail(&text)?,
                    Err(Bad::Unknown(told)) => {
                        log::debug!("management: unknown command \"{}\"", Excerpt(line));
                        self.fail(&told)?;
                    }
                }
            }
        }
    }

    /// A client may stay for as long as it asks.
    fn is_still_accepted(&self) -> io::Result<()> {
        let Some(certificates) = &self.who.certificates else {
            return Ok(());
        };
        let passport = self.dispatcher.settings.management_passport.as_ref();
        let context = self.dispatcher.store.fresh();
        let accepted = context.verify_again(certificates, passport);
        accepted.map_err(|reason| {
            io::Error::other(format!("closed, its certificate was refused: {reason}"))
        })
    }

    fn obey(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::Sessions(filter) => self.sessions(filter),
            Command::Summary => self.summary(),
            // What Prometheus would get.
            Command::Metrics => self.lines(self.dispatcher.metrics().lines()),
            Command::Version => self.say(env!("CARGO_PKG_VERSION")),
            Command::Help => self.lines(HELP),
            Command::Explain { call_id, json } => self.explain(&call_id, json),
            Command::End(wanted) => self.change("end", |client| {
                end::end(client.dispatcher, &client.who, &wanted)
            }),
            Command::Drain(relay) => self.change("drain", |client| {
                drain::drain(client.dispatcher, &client.who, &relay)
            }),
            Command::Resume(relay) => self.change("resume", |client| {
                drain::resume(client.dispatcher, &client.who, &relay)
            }),
            Command::Quit => Ok(()),
        }
    }

    /// Does something that not everybody may do.
    fn change(
        &mut self,
        word: &str,
        act: impl FnOnce(&Self) -> Result<String, String>,
    ) -> io::Result<()> {
        if !self.who.may_change {
            log::warn!("{}: {word} refused: this client may only look", self.who);
            return self.fail(&format!(
                "{word} needs the management socket on the dispatcher's host, or TLS with a certificate that \
                 management_passport allows ([Dispatcher] management_use_tls, management_passport)"
            ));
        }
        match act(self) {
            Ok(done) => self.lines(done.lines()),
            Err(why) => self.fail(&why),
        }
    }

    fn sessions(&mut self, mut filter: Filter) -> io::Result<()> {
        // Answers may be megabytes each: so many clients at once have theirs collected, no more.
        let Some(_pass) = self.dispatcher.listings.enter(None) else {
            if let Some(left_out) = lock(&self.dispatcher.unlisted).due() {
                log::warn!("management: too many clients list sessions at once{left_out}");
            }
            return self.say("error");
        };
        let relays = match self.dispatcher.relays_for(&mut filter) {
            Ok(relays) => relays,
            Err(why) => return self.fail(&why),
        };
        let mut list = List::new(self);
        for (relay, answer) in list.client.dispatcher.ask_all(relays, "sessions") {
            let Some(sessions) = answer.take() else {
                log::warn!("management: relay {relay} has not listed its sessions");
                continue;
            };
            let mut failed = None;
            let read = each(&sessions, |session| {
                if !filter.fits(session.get(), relay.address) {
                    return Ok(());
                }
                list.add(session.get()).map_err(|error| {
                    let text = error.to_string();
                    failed = Some(error);
                    text
                })
            });
            match (failed, read) {
                (Some(error), _) => return Err(error),
                (None, Err(error)) => {
                    log::warn!("management: relay {relay}: sessions that cannot be read: {error}");
                }
                (None, Ok(())) => {}
            }
        }
        list.end()
    }

    fn summary(&mut self) -> io::Result<()> {
        let (relays, away, drained) = {
            let registry = lock(&self.dispatcher.registry);
            (
                registry.relays.connected(),
                registry.relays.away(),
                registry.relays.drained(),
            )
        };
        let mut list = List::new(self);
        for (relay, answer) in list.client.dispatcher.ask_all(relays, "summary") {
            let summary = answer.take().and_then(|bytes| object(&bytes));
            let (held, load) = {
                let registry = lock(&list.client.dispatcher.registry);
                (registry.relays.held(&relay).0, registry.relays.load(&relay))
            };
            let summary = summary.unwrap_or_else(|| failed_summary(&relay, false));
            list.add(&as_held(completed(summary, load), held.drained))?;
        }
        for (relay, calls) in away {
            // How those are is not known.
            let load = Load {
                live: calls,
                unanswered: 0,
            };
            let summary = completed(failed_summary(&relay, true), load);
            list.add(&as_held(summary, drained.contains(&relay)))?;
        }
        list.end()
    }
}

/// What a relay was asked for the management port.
struct Answer {
    /// None where it could not be asked.
    slot: Option<Arc<Shown>>,
    deadline: Moment,
}

impl Answer {
    /// Waits for it; none when the relay has failed.
    fn take(self) -> Option<Vec<u8>> {
        self.take_whatever().filter(|answer| answer != b"error")
    }

    /// The same, `error` included.
    fn take_whatever(self) -> Option<Vec<u8>> {
        self.slot?.take_until(self.deadline)?
    }
}

impl Dispatcher {
    /// The connected relays whose sessions may fit; the filter gets all names of the call that it wants.
    fn relays_for(&self, filter: &mut Filter) -> Result<Vec<Connection>, String> {
        let registry = lock(&self.registry);
        let mut relays = registry.relays.connected();
        if let Some(name) = &filter.relay {
            let named = registry.relays.named(name);
            if named.is_empty() {
                return Err(drain::no_such_relay(name, &registry.relays.known()));
            }
            relays.retain(|one| named.contains(&one.relay));
        }
        if let Some(call_id_text) = &filter.call_id {
            let call_id = registry.calls.live.meant(call_id_text);
            let links = registry.links_of(&call_id);
            if !links.is_empty() {
                relays.retain(|one| links.contains(&one.handle.id));
            }
            if matches!(registry.place(&call_id), CallLocation::Unknown) {
                filter.beginning = naming::beginning(call_id_text);
            }
            if !call_id.0.is_utf8() {
                filter.spellings = spelled(&call_id.0).into();
            }
        }
        Ok(relays)
    }

    /// Asks relays all at once, under one deadline.
    fn ask_all(&self, relays: Vec<Connection>, word: &str) -> Vec<(RelayKey, Answer)> {
        let ask = |one: Connection| {
            let answer = self.ask(&one.handle, |out, sequence| {
                write_plain(out, word, sequence)
            });
            (one.relay, answer)
        };
        relays.into_iter().map(ask).collect()
    }

    /// Asks a relay something for a client.
    fn ask(&self, link: &Link, write: impl FnOnce(&mut Vec<u8>, Sequence) -> bool) -> Answer {
        let now = clock::moment();
        let slot = Arc::new(Slot::new());
        let ask = Ask::Show(Arc::clone(&slot));
        let sent = link.send(now, ask, |out, sequence, _| write(out, sequence));
        Answer {
            slot: sent.is_ok().then_some(slot),
            deadline: now + self.settings.relay_timeout,
        }
    }
}

/// The text of a JSON object, where it is one.
fn object(bytes: &[u8]) -> Option<String> {
    serde_json::from_slice::<HashMap<String, IgnoredAny>>(bytes).ok()?;
    String::from_utf8(bytes.to_vec()).ok()
}

fn failed_summary(relay: &RelayKey, is_away: bool) -> String {
    let mut summary = serde_json::json!({"status": "error", "ip": relay.address.to_string()});
    if is_away {
        summary["away"] = true.into();
    }
    if let Some(name) = &relay.name {
        summary["name"] = serde_json::Value::from(&**name);
    }
    summary.to_string()
}

/// With every key that readers of MediaProxy's summaries count on, whatever was told: CDRTool dies where one is not
/// there. So many calls of the relay are known here, and so many of them nobody has answered.
fn completed(mut summary: String, load: Load) -> String {
    let told: HashMap<String, IgnoredAny> = serde_json::from_str(&summary).unwrap_or_default();
    let (calls, unanswered) = (load.live.to_string(), load.unanswered.to_string());
    for (key, value) in [
        ("version", "\"\""),
        ("status", "\"active\""),
        ("uptime", "0"),
        ("session_count", &calls),
        ("stream_count", "{}"),
        ("bps_relayed", "0"),
        ("unanswered", &unanswered),
    ] {
        if !told.contains_key(key) {
            summary = with(&summary, key, value);
        }
    }
    summary
}

/// A relay's summary, and whether it is drained.
fn as_held(summary: String, is_drained: bool) -> String {
    if is_drained {
        with(&summary, "drained", "true")
    } else {
        summary
    }
}

/// A relay's own object with one key more.
fn with(object: &str, key: &str, value: &str) -> String {
    match object.trim_end().strip_suffix('}') {
        Some(open) if open.trim_end().ends_with('{') => format!("{open}\"{key}\":{value}}}"),
        Some(open) => format!("{open},\"{key}\":{value}}}"),
        None => object.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drained_relays_summary_says_so_and_stays_as_it_is_otherwise() {
        let with_drained = |summary: &str| as_held(summary.to_owned(), true);
        assert_eq!(with_drained("{}"), "{\"drained\":true}");
        assert_eq!(with_drained("{ }"), "{ \"drained\":true}");
        let object = "{\"ip\":  \"192.0.2.1\", \"n\": 1.50} ";
        let want = "{\"ip\":  \"192.0.2.1\", \"n\": 1.50,\"drained\":true}";
        assert_eq!(with_drained(object), want);
        assert!(serde_json::from_str::<serde_json::Value>(want).is_ok());
    }

    #[test]
    fn every_summary_has_all_keys() {
        let relay = RelayKey {
            address: [192, 0, 2, 1].into(),
            name: None,
        };
        let load = Load {
            live: 3,
            unanswered: 2,
        };
        let failed = completed(failed_summary(&relay, true), load);
        let want = serde_json::json!({"ip": "192.0.2.1", "version": "", "status": "error", "uptime": 0,
            "session_count": 3, "stream_count": {}, "bps_relayed": 0, "unanswered": 2, "away": true});
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&failed).unwrap(),
            want
        );
        let told = r#"{"uptime": 7, "session_count": 9, "stream_count": {"audio": 9}}"#;
        let want = r#"{"uptime": 7, "session_count": 9, "stream_count": {"audio": 9},"version":"","status":"active","bps_relayed":0,"unanswered":2}"#;
        assert_eq!(completed(told.into(), load), want);
    }
}
