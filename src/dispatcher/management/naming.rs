//! Which call an administrator means: the one of exactly this Call-ID, live or over, or else the only one whose Call-ID
//! begins so.

use std::collections::BTreeSet;
use std::time::Duration;

use super::lookup::{FoundSession, listed};
use crate::dispatcher::recent_calls::Fate;
use crate::dispatcher::registry::CallLocation;
use crate::dispatcher::shared::Dispatcher;
use crate::proto::CallId;
use crate::proto::name::Name;
use crate::sys::clock;
use crate::sys::sync::lock;

/// Fewer characters are not taken for the beginning of a Call-ID.
const SHORTEST: usize = 4;

/// So many of those that a beginning may mean are named.
const NAMED: usize = 5;

/// A call that is meant.
pub enum Meant {
    Live(CallId, Vec<FoundSession>),
    /// And what became of it: `ended 12 s ago: ..`.
    Over(CallId, String),
}

/// What a text is as the beginning of a Call-ID: without what tables put in the place of what they cut off. None where
/// it is too short.
pub(super) fn beginning(text: &str) -> Option<String> {
    let prefix = text.strip_suffix('…').unwrap_or(text);
    (prefix.chars().count() >= SHORTEST).then(|| prefix.to_owned())
}

impl Dispatcher {
    /// The call of this name, from its relay, or what became of it.
    ///
    /// # Errors
    /// A sentence: there is none, there are several, or who was not heard.
    pub fn call_named(&self, text: &str) -> Result<Meant, String> {
        let (call_id, place) = {
            let registry = lock(&self.registry);
            let call_id = registry.calls.live.meant(text);
            let place = registry.place(&call_id);
            (call_id, place)
        };
        let is_unknown = matches!(place, CallLocation::Unknown);
        let why = match self.found_or_over(&call_id) {
            Ok(meant) => return Ok(meant),
            Err(why) => why,
        };
        match is_unknown.then(|| self.of_beginning(text)).transpose()? {
            Some(Some(call_id)) => self.found_or_over(&call_id),
            _ => Err(why),
        }
    }

    fn found_or_over(&self, call_id: &CallId) -> Result<Meant, String> {
        self.look_for(call_id)
            .map(|found| Meant::Live(call_id.clone(), found))
            .or_else(|why| {
                let told = self.fate_of(call_id).ok_or(why)?;
                Ok(Meant::Over(call_id.clone(), told))
            })
    }

    /// What became of a call that is over: `ended 12 s ago: ..`. None of one that may go on: a live call whose update
    /// was refused is not over.
    pub fn fate_of(&self, call_id: &CallId) -> Option<String> {
        let place = lock(&self.registry).place(call_id);
        let past = lock(&self.recent_calls);
        let is_over = |fate: &Fate| match place {
            CallLocation::On(..) | CallLocation::Away(_) => false,
            CallLocation::Expired => matches!(fate, Fate::Ended(_)),
            CallLocation::Unknown => true,
        };
        let fates = past.of(call_id, clock::moment());
        let fates: Vec<_> = fates.filter(|(_, fate, _)| is_over(fate)).collect();
        let told = |(name, fate, ago): &(&Name, &Fate, Duration)| match (&name.caller, fates.len())
        {
            (Some(tag), 2..) => format!("(from_tag {tag}) {}", fate.told(*ago)),
            _ => fate.told(*ago),
        };
        let told: Vec<String> = fates.iter().map(told).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// Why an update of this session was refused a short time ago: `5 s ago: ..`.
    pub fn refusal_of(&self, call_id: &CallId, found: &FoundSession) -> Option<String> {
        let past = lock(&self.recent_calls);
        let mut fates = past.of(call_id, clock::moment());
        fates.find_map(|(name, fate, ago)| match fate {
            Fate::Refused(why) if found.is_of(name) => {
                Some(format!("{} s ago: {why}", ago.as_secs()))
            }
            _ => None,
        })
    }

    /// The only call whose Call-ID begins so: a live one, or else one that is over.
    fn of_beginning(&self, text: &str) -> Result<Option<CallId>, String> {
        let Some(prefix) = beginning(text) else {
            return Ok(None);
        };
        let prefix = prefix.as_str();
        let (known, relays) = {
            let registry = lock(&self.registry);
            (
                registry.calls.live.beginning(prefix),
                registry.relays.connected(),
            )
        };
        let mut found: BTreeSet<CallId> = known.into_iter().collect();
        let Some(_pass) = self.listings.enter(None) else {
            return Err("too many clients list sessions at once, try again".to_owned());
        };
        // Other dispatchers' calls, which began after the relays connected to this one.
        for (_, answer) in self.ask_all(relays, "sessions") {
            let sessions = answer.take().unwrap_or_default();
            found.extend(listed(&sessions, prefix));
        }
        if found.is_empty() {
            found.extend(lock(&self.recent_calls).beginning(prefix));
        }
        the_only(found, prefix)
    }
}

fn the_only(found: BTreeSet<CallId>, prefix: &str) -> Result<Option<CallId>, String> {
    if found.len() <= 1 {
        return Ok(found.into_iter().next());
    }
    let names: Vec<String> = found.iter().take(NAMED).map(CallId::to_string).collect();
    let more = match found.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Err(format!(
        "\"{}\" is the beginning of several Call-IDs, give more of one: {}{more}",
        prefix.escape_debug(),
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_several_is_refused_and_they_are_named() {
        let calls = |count: usize| {
            let calls = (0..count).map(|n| CallId(format!("call-{n}").as_str().into()));
            calls.collect::<BTreeSet<CallId>>()
        };
        assert_eq!(the_only(calls(0), "call"), Ok(None));
        assert_eq!(
            the_only(calls(1), "call"),
            Ok(Some(CallId("call-0".into())))
        );
        assert_eq!(
            the_only(calls(7), "call").unwrap_err(),
            "\"call\" is the beginning of several Call-IDs, give more of one: call-0, call-1, call-2, call-3, call-4 and \
             2 more"
        );
        assert_eq!(beginning("abcd…").as_deref(), Some("abcd"));
        assert_eq!(beginning("abcde").as_deref(), Some("abcde"));
        assert_eq!((beginning("abc"), beginning("abc…")), (None, None));
    }
}
