//! Accounting to RADIUS servers (RFC 2866), as docs/protocol.md section 8 says.
//!
//! ```text
//!  client       the configuration in the form of radiusclient: servers, secrets      files, lines
//!  dictionary   the numbers of attributes
//!  attributes   what is told of a session
//!  packet       requests and answers, signed and checked
//!  exchange     requests under way with one server: windows, repetitions; pure
//!  server       its socket, its rest when it does not answer                         lookup
//! ```
//!
//! A server that does not answer is followed by the next, and asked last for a while. On the wire a session may
//! come twice: when an answer was lost for good, or a server answers only after another was asked.

mod attributes;
pub mod client;
pub mod dictionary;
mod exchange;
mod files;
mod lines;
mod lookup;
pub mod packet;
mod server;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use log::{info, warn};

use client::{Client, Secrets};
use dictionary::{Attribute, Dictionary};
use exchange::{Pace, Request};
use server::{Server, Settled};

use super::{Backend, DeliveryResult, Record, Unavailable};
use crate::config::RadiusSection;
use crate::moment::Moment;
use crate::proto::Visible;
use crate::sys::clock;

/// Longest that one delivery takes, but for a look-up of a name.
const DELIVERY_LIMIT: Duration = Duration::from_secs(25);

/// A server that would have less time to answer is not asked any more.
const MIN_ANSWER_TIME: Duration = Duration::from_secs(1);

/// How often a session gets no answer while others do, until it is one that the servers do not want. Needs batches
/// of a hundred records where there are as many: each time takes others that are still to be sent.
const MAX_UNANSWERED: u32 = 3;

/// What is remembered of sessions that were answered before their turn; more than a batch has.
const MAX_SETTLED: usize = 100_000;

/// The backend.
#[derive(Debug)]
pub struct Radius {
    servers: Vec<Server>,
    dictionary: Dictionary,
    /// As configured.
    pace: Pace,
    /// Sessions that were settled while one before them was not: they are not sent again.
    settled: Settled,
    /// How often a session got no answer while others did.
    passed_over: HashMap<String, u32>,
    /// Who else may read its secrets, and the command against it.
    pub open_secrets: Option<String>,
}

impl Radius {
    /// Reads the configuration and all files that it names. Asks no server and no name server.
    ///
    /// # Errors
    /// What is wrong, with file and line, and what is allowed.
    pub fn open(section: &RadiusSection) -> Result<Radius, String> {
        let client = Client::parse(&section.config_file, &files::read(&section.config_file)?)?;
        let (text, open_secrets) = files::read_secrets(&client.secrets)?;
        let secrets = Secrets::parse(&client.secrets, &text)?;
        let mut servers = Vec::new();
        for address in &client.servers {
            let secret = secrets.of(&address.host).ok_or_else(|| {
                let (config, file) = (section.config_file.display(), client.secrets.display());
                format!("{file}: no secret for {}, the acctserver in {config}; allowed: a line with the host and its \
                         secret", address.text)
            })?;
            servers.push(Server::new(address.clone(), secret.clone(), client.bind));
        }
        let pace = Pace {
            interval: client.timeout,
            tries: client.retries + 1,
        };
        let dictionaries = client
            .dictionary
            .iter()
            .chain([&section.additional_dictionary]);
        let radius = Radius {
            servers,
            dictionary: read_dictionaries(dictionaries.map(|path| path.as_path()))?,
            pace,
            settled: HashMap::new(),
            passed_over: HashMap::new(),
            open_secrets,
        };
        radius.say_what_is_cut(&section.config_file);
        Ok(radius)
    }

    fn say_what_is_cut(&self, file: &Path) {
        let share = DELIVERY_LIMIT / u32::try_from(self.servers.len()).unwrap_or(u32::MAX);
        let pace = within(self.pace, share);
        if pace != self.pace {
            info!(
                "{}: radius_timeout: an answer is waited for {:.1} s, so that asking {} times takes {} s at most",
                file.display(),
                pace.interval.as_secs_f32(),
                pace.tries,
                share.as_secs()
            );
        }
    }

    /// The requests of what is not settled yet; what cannot be told is settled by that.
    fn encode(&mut self, records: &[Record]) -> Vec<Request> {
        let mut requests = Vec::new();
        for record in records {
            if self.settled.contains_key(&record.session_id) {
                continue;
            }
            let session_id = record.session_id.clone();
            match attributes::encode(record, &self.dictionary) {
                Ok(attributes) => requests.push(Request {
                    session_id,
                    attributes,
                }),
                Err(why) => {
                    self.settled
                        .insert(session_id, DeliveryResult::Rejected(why));
                }
            }
        }
        requests
    }

    /// Asks one server after the other until all is settled. Returns which sessions got no answer although others
    /// did; appends why servers gave none at all.
    fn ask_all(
        &mut self,
        mut requests: Vec<Request>,
        deadline: Moment,
        failures: &mut Vec<String>,
    ) -> Vec<String> {
        let mut passed_over = Vec::new();
        let order = self.order(clock::moment());
        let mut left = u32::try_from(order.len()).unwrap_or(u32::MAX);
        for index in order {
            requests.retain(|request| !self.settled.contains_key(&request.session_id));
            let time = deadline.since(clock::moment());
            let Some(server) = self.servers.get_mut(index) else {
                break;
            };
            if requests.is_empty() || time < MIN_ANSWER_TIME {
                break;
            }
            // Each may be silent for its share of the time that is left, and take all of it while it answers.
            let share = time / left.max(1);
            left -= 1;
            let before = self.settled.len();
            let result = server.ask(
                &requests,
                within(self.pace, share),
                deadline,
                &mut self.settled,
            );
            if self.settled.len() > before && server.answered() {
                info!("RADIUS server {} answers again", server.name());
            }
            match result {
                Ok(mut silent_on) => passed_over.append(&mut silent_on),
                Err(why) => {
                    let now = clock::moment();
                    if left > 0 && server.rests_until(now).is_none() {
                        warn!("RADIUS server {why}; the next one is asked");
                    }
                    server.failed(now);
                    failures.push(why);
                }
            }
        }
        passed_over
    }

    /// In the order of the configuration; those that rest come last, the longest-rested first.
    fn order(&self, now: Moment) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.servers.len()).collect();
        let rest = |&index: &usize| {
            self.servers
                .get(index)
                .map(|server| server.rests_until(now))
        };
        order.sort_by_key(rest);
        order
    }

    /// Counts how often a session alone got no answer. Whether one is given up.
    fn give_up(&mut self, passed_over: &[String], failures: &mut Vec<String>) -> bool {
        let settled = self.settled.len();
        for session_id in passed_over {
            if self.settled.contains_key(session_id) {
                continue;
            }
            let count = self.passed_over.entry(session_id.clone()).or_default();
            *count += 1;
            if *count < MAX_UNANSWERED {
                let session_id = Visible(session_id.as_bytes());
                failures.push(format!(
                    "session {session_id} alone got no answer, {count} of {MAX_UNANSWERED} times"
                ));
            } else {
                let why = format!(
                    "RADIUS servers answer for other sessions, but {MAX_UNANSWERED} times not for this one"
                );
                let rejected = DeliveryResult::Rejected(why);
                self.settled.insert(session_id.clone(), rejected);
            }
        }
        self.settled.len() > settled
    }

    /// The verdicts of all records before the first that has none.
    fn hand_over(&mut self, records: &[Record], verdicts: &mut Vec<DeliveryResult>) -> usize {
        let known = records
            .iter()
            .map_while(|record| self.settled.get(&record.session_id));
        let before = verdicts.len();
        verdicts.extend(known.cloned());
        let count = verdicts.len() - before;
        for server in &mut self.servers {
            server.forget(&self.settled);
        }
        for record in records.iter().take(count) {
            self.settled.remove(&record.session_id);
            self.passed_over.remove(&record.session_id);
        }
        if self.settled.len().max(self.passed_over.len()) > MAX_SETTLED {
            self.settled.clear();
            self.passed_over.clear();
        }
        count
    }
}

impl Backend for Radius {
    fn name(&self) -> &str {
        "radius"
    }

    fn deliver(
        &mut self,
        records: &[Record],
        verdicts: &mut Vec<DeliveryResult>,
    ) -> Result<(), Unavailable> {
        let deadline = clock::moment() + DELIVERY_LIMIT;
        let mut failures = Vec::new();
        loop {
            let requests = self.encode(records);
            let passed_over = self.ask_all(requests, deadline, &mut failures);
            // What waited behind a session that is given up goes on at once.
            if !self.give_up(&passed_over, &mut failures) {
                break;
            }
        }
        let count = self.hand_over(records, verdicts);
        if count == records.len() {
            return Ok(());
        }
        Err(Unavailable(if failures.is_empty() {
            format!(
                "{count} of {} sessions were answered for in {} s",
                records.len(),
                DELIVERY_LIMIT.as_secs()
            )
        } else {
            failures.join("; ")
        }))
    }
}

/// A pace of as many tries that takes no longer than `share`.
fn within(pace: Pace, share: Duration) -> Pace {
    let interval = pace.interval.min(share / pace.tries.max(1));
    Pace { interval, ..pace }
}

fn read_dictionaries<'a>(paths: impl Iterator<Item = &'a Path>) -> Result<Dictionary, String> {
    let mut dictionary = Dictionary::default();
    for path in paths {
        if !dictionary.read(path, &mut files::open)? {
            warn!(
                "RADIUS dictionary {} is not there: attributes that no other one names have their usual numbers",
                path.display()
            );
        }
        for why in dictionary.take_warnings() {
            warn!("RADIUS dictionary {why}");
        }
    }
    dictionary.check()?;
    let [from, to] = [Attribute::SipFromTag, Attribute::SipToTag];
    if !dictionary.is_told(from) && !dictionary.is_told(to) {
        info!(
            "RADIUS: no dictionary names Sip-From-Tag and Sip-To-Tag: they are sent as {} and {}; OpenSIPS 3.2 and later \
             has 206 and 207, in the dictionary that its client.conf names",
            dictionary.number(from),
            dictionary.number(to)
        );
    }
    Ok(dictionary)
}

#[cfg(test)]
mod tests;
