//! What all kinds of databases have in common: batches, one by one where a batch fails, and what a duplicate is.

use std::borrow::Cow;
use std::time::Duration;

use log::warn;

use super::table::{Row, Shape};
use crate::accounting::{Backend, DeliveryResult, Record, Unavailable};
use crate::moment::Moment;
use crate::proto::record;
use crate::sys::clock;

/// Nothing new is begun in a delivery that takes longer; what is under way has [`STATEMENT_LIMIT`] each.
const DELIVERY_LIMIT: Duration = Duration::from_secs(12);
/// For the answer to one statement. Locks on the server are waited for shorter ([`LOCK_LIMIT`]), so that
/// it is the server that gives up: nothing is done later behind our back.
pub(super) const STATEMENT_LIMIT: Duration = Duration::from_secs(6);
pub(super) const LOCK_LIMIT: Duration = Duration::from_secs(4);

/// In one statement or transaction.
const MAX_ROWS: usize = 100;
/// Less than the smallest packet that servers are set to take.
const MAX_BYTES: usize = 256 * 1024;

/// Why a statement failed, in the database's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// A row with that key is there.
    Duplicate(String),
    /// The row itself, now and later.
    Row(String),
    /// Anything else: the connection is given up, and all of it comes again.
    Unavailable(String),
}

/// One kind of database, where the configuration says.
pub(super) trait Driver: Send {
    /// Connects within some 20 s, and makes the table where there is none.
    ///
    /// # Errors
    /// In words for the log; no password in them.
    fn connect(&self) -> Result<Box<dyn Link>, String>;
}

/// A connection, and the table behind it.
pub(super) trait Link: Send {
    fn shape(&self) -> &Shape;

    /// Whether it is still the right one, after it was not used for so long.
    fn is_alive(&mut self, idle: Duration) -> bool;

    /// Adds all rows, or none of them. Rows of a failed batch may be there where the table knows no transactions.
    fn insert(&mut self, rows: &[Row]) -> Result<(), Failure>;

    /// The statistics of some rows with the key of this one.
    fn find(&mut self, row: &Row) -> Result<Vec<Vec<u8>>, Failure>;

    /// Keeps out everybody, an earlier connection of ours included, who adds this session at the same time: it may
    /// be working on still when we have given it up.
    fn lock(&mut self, session_id: &str) -> Result<(), Failure>;

    /// What was done since `lock` holds from now on.
    fn unlock(&mut self) -> Result<(), Failure>;
}

/// See the module.
pub(super) struct Database {
    name: String,
    driver: Box<dyn Driver>,
    link: Option<Box<dyn Link>>,
    /// When the connection was last used.
    used: Moment,
    /// Of a table that knows no duplicates.
    warned: bool,
}

impl Database {
    pub(super) fn new(name: String, driver: Box<dyn Driver>) -> Database {
        Database {
            name,
            driver,
            link: None,
            used: Moment::START,
            warned: false,
        }
    }

    /// The connection, a new one where there is none or it was lost while nobody looked.
    fn connected(&mut self) -> Result<Box<dyn Link>, Unavailable> {
        if let Some(mut link) = self.link.take() {
            if link.is_alive(clock::moment().since(self.used)) {
                return Ok(link);
            }
        }
        let link = self.driver.connect().map_err(Unavailable)?;
        if !link.shape().unique && !self.warned {
            self.warned = true;
            warn!(
                "accounting: {}: no unique index on call_id, from_tag and to_tag: each record is looked for before it \
                 is added, which takes longer",
                self.name
            );
        }
        Ok(link)
    }
}

impl Backend for Database {
    fn name(&self) -> &str {
        &self.name
    }

    fn prepare(&mut self) -> Result<(), Unavailable> {
        self.link = Some(self.connected()?);
        self.used = clock::moment();
        Ok(())
    }

    fn deliver(
        &mut self,
        records: &[Record],
        verdicts: &mut Vec<DeliveryResult>,
    ) -> Result<(), Unavailable> {
        let mut link = self.connected()?;
        let end = clock::moment() + DELIVERY_LIMIT;
        let is_whole = settle(&mut *link, records, verdicts, end)?;
        self.link = Some(link);
        self.used = clock::moment();
        if is_whole {
            Ok(())
        } else {
            Err(Unavailable(format!(
                "it answers too slowly: {} of {} records in {} s",
                verdicts.len(),
                records.len(),
                DELIVERY_LIMIT.as_secs()
            )))
        }
    }
}

/// False when the time was over before all were told of.
fn settle(
    link: &mut dyn Link,
    records: &[Record],
    verdicts: &mut Vec<DeliveryResult>,
    end: Moment,
) -> Result<bool, Unavailable> {
    let shape = link.shape().clone();
    let mut records = records.iter().peekable();
    while records.peek().is_some() {
        let mut batch = Vec::new();
        let mut bytes = 0;
        // One that must be looked for, or does not fit, is a batch of its own.
        let single = loop {
            let Some(record) = records.next_if(|record| {
                batch.is_empty() || batch.len() < MAX_ROWS && bytes + record.info.len() < MAX_BYTES
            }) else {
                break None;
            };
            match shape.row(record) {
                Ok(row) if !shape.needs_a_look(&row) => {
                    bytes += row.info.len();
                    batch.push(row);
                }
                other => break Some(other),
            }
        };
        if is_past(end) || !add(link, &batch, verdicts, end)? {
            return Ok(false);
        }
        match single {
            Some(Ok(_)) if is_past(end) => return Ok(false),
            Some(Ok(row)) => verdicts.push(add_unless_there(link, &row)?),
            Some(Err(reason)) => verdicts.push(DeliveryResult::Rejected(reason)),
            None => (),
        }
    }
    Ok(true)
}

fn is_past(end: Moment) -> bool {
    clock::moment() >= end
}

/// All at once, else one by one. Where one of them is there already, so may be others: they are looked for first then,
/// which is quicker than another failure for each. False when the time was over before.
fn add(
    link: &mut dyn Link,
    rows: &[Row],
    verdicts: &mut Vec<DeliveryResult>,
    end: Moment,
) -> Result<bool, Unavailable> {
    let mut looking = false;
    if rows.len() > 1 {
        match link.insert(rows) {
            Ok(()) => {
                verdicts.extend(rows.iter().map(|_| DeliveryResult::Delivered));
                return Ok(true);
            }
            Err(Failure::Unavailable(why)) => return Err(Unavailable(why)),
            Err(Failure::Duplicate(_)) => looking = true,
            Err(Failure::Row(_)) => (),
        }
    }
    for row in rows {
        if is_past(end) {
            return Ok(false);
        }
        let there = if looking {
            compare(&link.find(row).map_err(unavailable)?, row.session_id)
        } else {
            None
        };
        verdicts.push(match there {
            Some(verdict) => verdict,
            None => {
                let added = link.insert(std::slice::from_ref(row));
                judge(link, row, added)?
            }
        });
    }
    Ok(true)
}

fn judge(
    link: &mut dyn Link,
    row: &Row,
    added: Result<(), Failure>,
) -> Result<DeliveryResult, Unavailable> {
    match added {
        Ok(()) => Ok(DeliveryResult::Delivered),
        Err(Failure::Duplicate(words)) => {
            let there = link.find(row).map_err(unavailable)?;
            Ok(compare(&there, row.session_id).unwrap_or(DeliveryResult::Rejected(words)))
        }
        Err(Failure::Row(words)) => Ok(DeliveryResult::Rejected(words)),
        Err(Failure::Unavailable(why)) => Err(Unavailable(why)),
    }
}

/// For a row that the database does not keep from being there twice.
fn add_unless_there(link: &mut dyn Link, row: &Row) -> Result<DeliveryResult, Unavailable> {
    link.lock(row.session_id).map_err(unavailable)?;
    let there = link.find(row).map_err(unavailable)?;
    let verdict = match compare(&there, row.session_id) {
        // Of calls without a final answer there may be several.
        Some(DeliveryResult::Rejected(_)) if row.to_tag.is_none() => None,
        other => other,
    };
    let verdict = match verdict {
        Some(verdict) => verdict,
        None => match link.insert(std::slice::from_ref(row)) {
            Ok(()) => DeliveryResult::Delivered,
            // By an index that is not the one that was looked by. It cannot be looked again: a transaction with a
            // failure in it takes no further question.
            Err(Failure::Duplicate(words) | Failure::Row(words)) => DeliveryResult::Rejected(words),
            Err(Failure::Unavailable(why)) => return Err(Unavailable(why)),
        },
    };
    link.unlock().map_err(unavailable)?;
    Ok(verdict)
}

fn unavailable(failure: Failure) -> Unavailable {
    match failure {
        Failure::Duplicate(why) | Failure::Row(why) | Failure::Unavailable(why) => Unavailable(why),
    }
}

/// What it means that these statistics are in the table under the same key; none where there are none.
fn compare(there: &[Vec<u8>], session_id: &str) -> Option<DeliveryResult> {
    let stored = there.iter().map(|info| record::session_id(info));
    let sessions: Vec<Option<Cow<'_, str>>> = stored.collect();
    let other = match sessions.first()? {
        _ if sessions.iter().flatten().any(|other| other == session_id) => {
            return Some(DeliveryResult::Known);
        }
        Some(other) => format!("with the session {other}"),
        None => "in a row without session_id, which another program wrote".into(),
    };
    Some(DeliveryResult::Rejected(format!(
        "its call_id, from_tag and to_tag are in the table already, {other}"
    )))
}

#[cfg(test)]
mod tests;
