//! Asks relays for the sessions of a call.
//!
//! A relay that has not said that it can explain calls is asked for its sessions, and shows what that has.

use serde_json::{Map, Value};

use super::{Answer, Connection};
use crate::dispatcher::registry::CallLocation;
use crate::dispatcher::relay_commands::{write_explain, write_plain};
use crate::dispatcher::shared::Dispatcher;
use crate::dispatcher::statistics::each;
use crate::proto::name::{Fit, Name, spelled};
use crate::proto::record::RecordHead;
use crate::proto::{CallId, Excerpt, Text};
use crate::sys::sync::lock;

/// A session that a relay has, and what it says of it.
pub struct FoundSession {
    pub at: Connection,
    pub object: Map<String, Value>,
}

impl FoundSession {
    /// Returns true if it is the session of this name.
    pub fn is_of(&self, name: &Name) -> bool {
        self.fit(name) != Fit::Not
    }

    pub fn fit(&self, name: &Name) -> Fit {
        name.fit_told(self.object.get("from_tag").and_then(Value::as_str))
    }
}

impl Dispatcher {
    /// The sessions of a call, from the relay that has it, or from any where it is not known which.
    ///
    /// # Errors
    /// A sentence: where it is not, and who was not heard.
    pub fn look_for(&self, call_id: &CallId) -> Result<Vec<FoundSession>, String> {
        let (place, relays) = {
            let registry = lock(&self.registry);
            let mut relays = registry.relays.connected();
            let links = registry.links_of(call_id);
            if !links.is_empty() {
                relays.retain(|one| links.contains(&one.handle.id));
            }
            (registry.place(call_id), relays)
        };
        match place {
            CallLocation::On(..) => {}
            CallLocation::Expired => {
                return Err(format!(
                    "call {call_id} has ended; the SIP proxy has not removed it yet"
                ));
            }
            CallLocation::Away(relay) => {
                return Err(format!(
                    "call {call_id} is on relay {relay}, which is not connected: its media may go on there, nothing can be \
                     told or changed until the relay is back; look at that host and at its link to this one"
                ));
            }
            CallLocation::Unknown => {}
        }
        // Lists may be megabytes each.
        let is_listing = relays.iter().any(|one| !one.handle.explains());
        let pass = is_listing.then(|| self.listings.enter(None));
        if matches!(pass, Some(None)) {
            return Err("too many clients list sessions at once, try again".to_owned());
        }
        let asked: Vec<(Connection, Answer)> = relays
            .into_iter()
            .map(|one| {
                let answer = self.ask_about(&one, call_id);
                (one, answer)
            })
            .collect();
        collect(call_id, asked)
    }

    fn ask_about(&self, one: &Connection, call_id: &CallId) -> Answer {
        self.ask(&one.handle, |out, sequence| {
            if one.handle.explains() {
                write_explain(out, call_id, sequence)
            } else {
                write_plain(out, "sessions", sequence)
            }
        })
    }
}

/// Waits for all answers; what relays said of this call.
fn collect(
    call_id: &CallId,
    asked: Vec<(Connection, Answer)>,
) -> Result<Vec<FoundSession>, String> {
    let mut found = Vec::new();
    let mut silent = Vec::new();
    let mut asked_any = false;
    for (at, answer) in asked {
        asked_any = true;
        let Some(bytes) = answer.take_whatever() else {
            silent.push(at.relay.to_string());
            continue;
        };
        if bytes == b"error" && at.handle.explains() {
            continue;
        }
        if bytes.starts_with(b"error: ") {
            silent.push(format!("{} (it said \"{}\")", at.relay, Excerpt(&bytes)));
            continue;
        }
        match sessions_of(call_id, &bytes) {
            Ok(objects) => found.extend(objects.into_iter().map(|object| FoundSession {
                at: at.clone(),
                object,
            })),
            Err(error) => {
                let relay = &at.relay;
                log::warn!("management: relay {relay}: sessions that cannot be read: {error}");
                silent.push(relay.to_string());
            }
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    Err(if !silent.is_empty() {
        format!(
            "call {call_id} was not found, and no answer came from relay {}",
            silent.join(", ")
        )
    } else if asked_any {
        format!(
            "no active call {call_id}; it may be over (calls are remembered for 15 minutes after their end; of older ones \
             tell accounting and the dispatcher's log)"
        )
    } else {
        format!("no active call {call_id} is known, and no relay is connected")
    })
}

/// The objects in a relay's array that are of this call.
fn sessions_of(
    call_id: &CallId,
    list: &[u8],
) -> Result<Vec<Map<String, Value>>, serde_json::Error> {
    let spellings = spelled(&call_id.0);
    let exact = call_id.0.escaped();
    let mut found = Vec::new();
    each(list, |element| {
        let seen = RecordHead::parse(element.get())?;
        let is_it = match &seen.exact {
            Some(told) => told.call_id == exact,
            None => spellings.iter().any(|text| *text == seen.call_id),
        };
        if is_it {
            found.push(serde_json::from_str(element.get())?);
        }
        Ok::<(), serde_json::Error>(())
    })?;
    Ok(found)
}

/// The calls in a relay's list whose Call-IDs begin so. What cannot be read has none.
pub(super) fn listed(list: &[u8], prefix: &str) -> Vec<CallId> {
    let mut found = Vec::new();
    let _ = each(list, |element| {
        let seen = RecordHead::parse(element.get())?;
        let exact = seen.exact_call_id();
        if exact.starts_with(prefix) {
            let bytes = Text::from_shown(exact);
            found.push(CallId(bytes.unwrap_or_else(|| exact.into())));
        }
        Ok::<(), serde_json::Error>(())
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_found_by_how_they_begin() {
        let list = r#"[{"call_id": "abcd-1"}, {"call_id": "abce"}, {"call_id": "caf\ufffd-2", "exact":
            {"call_id": "caf\\xe9-2"}}]"#;
        let found = |prefix: &str| listed(list.as_bytes(), prefix);
        assert_eq!(found("abc").len(), 2);
        assert_eq!(found("caf\\xe9"), [CallId(b"caf\xe9-2"[..].into())]);
        assert_eq!(listed(b"error", "abcd"), []);
    }

    #[test]
    fn a_call_is_found_whatever_a_relay_makes_of_its_bytes() {
        let found = |call_id: &[u8], list: &str| {
            let call_id = CallId(call_id.into());
            sessions_of(&call_id, list.as_bytes()).unwrap().len()
        };
        let list = r#"[{"call_id": "a"}, {"call_id": "caf\ufffd"}, {"call_id": "caf?"}, {"call_id": "a", "n": 2}]"#;
        assert_eq!(found(b"a", list), 2);
        assert_eq!(found(b"caf\xe9", list), 2);
        assert_eq!(found(b"caf", list), 0);
        // Of those that look alike, the one whose relay tells its bytes.
        let list = r#"[{"call_id": "caf\ufffd", "exact": {"call_id": "caf\\xe9"}},
            {"call_id": "caf\ufffd", "exact": {"call_id": "caf\\xe8"}}, {"call_id": "a", "exact": {"call_id": "a"}}]"#;
        assert_eq!((found(b"caf\xe9", list), found(b"a", list)), (1, 1));
        for odd in ["error", "{}", "[7]", "[{}]", "[{\"call_id\": \"a\"}"] {
            let call_id = CallId("a".into());
            assert!(sessions_of(&call_id, odd.as_bytes()).is_err(), "{odd}");
        }
    }
}
