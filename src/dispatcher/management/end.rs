//! `end`: a call is ended where its dialog is, at the SIP proxy, so that both phones get a BYE; where there is none
//! to be ended, on its relay.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::answer::Who;
use super::lookup::FoundSession;
use super::naming::Meant;
use crate::dispatcher::dialog::{Outcome, Proxy, Told};
use crate::dispatcher::link::{Ask, Removal};
use crate::dispatcher::registry::{About, CallLocation, Through};
use crate::dispatcher::shared::Dispatcher;
use crate::proto::control::Remove;
use crate::proto::link::write_remove;
use crate::proto::name::{Name, is_spelled};
use crate::proto::{CallId, DialogId, Tag, Text};
use crate::sys::clock;
use crate::sys::sync::{Slot, lock};

/// How long the proxy may take: two requests of 3 s each, and a little.
const DIALOG_LIMIT: Duration = Duration::from_secs(7);

/// A phone that talks is heard more often.
const HEARD: Duration = Duration::from_secs(5);

/// What is to be ended, as the administrator says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndRequest {
    pub call_id: String,
    /// Of the sessions of that Call-ID the one that this tag opened; else all of them.
    pub from_tag: Option<String>,
    /// On the relay, whatever the SIP proxy says of its dialog.
    pub media_only: bool,
}

/// Ends a call; what has been done, in a sentence.
///
/// # Errors
/// Why it goes on, and what else can be tried.
pub(super) fn end(
    dispatcher: &Dispatcher,
    who: &Who,
    wanted: &EndRequest,
) -> Result<String, String> {
    let text = wanted.call_id.as_str();
    let (call_id, known, place) = {
        let registry = lock(&dispatcher.registry);
        let call_id = registry.calls.live.meant(text);
        let (known, place) = (
            registry.calls.live.about(&call_id),
            registry.place(&call_id),
        );
        (call_id, known, place)
    };
    let over = |call_id: &CallId, fate: &str| Err(format!("call {call_id} {fate}"));
    if let CallLocation::Expired = place {
        let fate = dispatcher.fate_of(&call_id);
        return over(&call_id, fate.as_deref().unwrap_or("has ended already"));
    }
    let (call_id, mut sessions) = match place {
        CallLocation::On(..) | CallLocation::Away(_) if !known.is_empty() => (call_id, known),
        _ => match dispatcher.call_named(text)? {
            Meant::Over(call_id, fate) => return over(&call_id, &fate),
            Meant::Live(call_id, found) => {
                let known = lock(&dispatcher.registry).calls.live.about(&call_id);
                let told = || found.iter().map(|found| told_by_relay(&call_id, found));
                let sessions = if known.is_empty() {
                    told().collect()
                } else {
                    known
                };
                (call_id, sessions)
            }
        },
    };
    if let Some(from_tag) = &wanted.from_tag {
        let all = from_tags(&sessions);
        let is_it = |tag: &Tag| is_spelled(&tag.0, from_tag) || tag.0.escaped() == *from_tag;
        sessions.retain(|session| session.name.caller.as_ref().is_some_and(is_it));
        if sessions.is_empty() {
            let shown = from_tag.escape_debug();
            return Err(format!(
                "call {call_id} has no session of from_tag \"{shown}\": there is {all}"
            ));
        }
    }
    log::warn!("[session {call_id}] to be ended by the order of {who}");
    let ended = sessions.iter();
    let ended = ended.map(|session| end_one(dispatcher, session, wanted.media_only));
    let (ended, failed): (Vec<_>, Vec<_>) = ended.partition(Result::is_ok);
    let ended: Vec<String> = ended.into_iter().flatten().collect();
    let failed: Vec<String> = failed.into_iter().filter_map(Result::err).collect();
    let ended = ended.join("; ");
    match (failed.is_empty(), ended.is_empty()) {
        (true, _) => Ok(format!("ended: {ended}")),
        (false, true) => Err(failed.join("; ")),
        (false, false) => Err(format!("{}; ended: {ended}", failed.join("; "))),
    }
}

fn from_tags(sessions: &[About]) -> String {
    let tags = sessions.iter().filter_map(|one| one.name.caller.as_ref());
    tags.map(Tag::to_string).collect::<Vec<_>>().join(", ")
}

/// Ends one session.
fn end_one(dispatcher: &Dispatcher, session: &About, media_only: bool) -> Result<String, String> {
    let name = &session.name;
    let call_id = &name.call_id;
    let mut why = match session {
        _ if media_only => "no phone is told",
        About {
            answered: false, ..
        } => "no phone is told, for nobody has answered it",
        _ => "no phone is told, for no dialog of it is known",
    };
    let mut gone = None;
    // A dialog that was never answered cannot be ended by anybody but the phones.
    let is_endable = session.answered && !media_only;
    if let Some(dialog_id) = session.dialog_id.as_ref().filter(|_| is_endable) {
        match end_dialog(dispatcher, name, dialog_id) {
            Some(Outcome::Ended(proxy)) => {
                return Ok(format!("call {call_id}, dialog {dialog_id} by {proxy}"));
            }
            Some(Outcome::Gone(proxy)) => {
                gone = Some(proxy);
                why = "no phone is told, for its dialog is over already at the SIP proxy";
            }
            Some(Outcome::Failed(why)) => {
                return Err(format!(
                    "dialog {dialog_id} of call {call_id} is not ended: {why}; end media would end its media alone"
                ));
            }
            None => {}
        }
    }
    let ended = end_session(dispatcher, name, gone)?;
    Ok(format!("{ended}; {why}"))
}

/// What the relay of a session knows of it, where this dispatcher does not know it.
fn told_by_relay(call_id: &CallId, found: &FoundSession) -> About {
    let dialog_id = found.object.get("dialog_id").and_then(Value::as_str);
    let answered = found.object.get("answered").and_then(Value::as_bool);
    About {
        name: Name {
            call_id: call_id.clone(),
            caller: from_tag(&found.object),
            callee: None,
        },
        dialog_id: dialog_id
            .filter(|_| answered.is_some())
            .map(|id| DialogId(id.into())),
        answered: answered != Some(false),
    }
}

/// None where dialogs cannot be ended.
fn end_dialog(dispatcher: &Dispatcher, name: &Name, dialog_id: &DialogId) -> Option<Outcome> {
    let enders = dispatcher.enders.get()?;
    let (told, outcome) = crossbeam_channel::bounded(1);
    // Kamailio removes the call before it answers, OpenSIPS once the phones have answered.
    lock(&dispatcher.registry)
        .calls
        .by_admin(name, Through::Proxy);
    enders.end(&name.call_id, dialog_id, Told::Asker(told));
    let outcome = outcome.recv_timeout(DIALOG_LIMIT);
    let outcome = outcome.unwrap_or_else(|_| {
        let seconds = DIALOG_LIMIT.as_secs();
        Outcome::Failed(format!(
            "the SIP proxy was not asked within {seconds} s, many other dialogs wait to be ended"
        ))
    });
    if !matches!(outcome, Outcome::Ended(_)) {
        lock(&dispatcher.registry).calls.not_by_admin(name);
    }
    Some(outcome)
}

/// Removes a session from its relay; not where the proxy has lost the dialog of phones that still talk.
fn end_session(
    dispatcher: &Dispatcher,
    name: &Name,
    gone: Option<Proxy>,
) -> Result<String, String> {
    let call_id = &name.call_id;
    let deadline = clock::moment() + dispatcher.settings.relay_timeout;
    // The proxy's own requests for this call come before or after.
    let Some(turn) = dispatcher.call_queues.enter(call_id, deadline) else {
        return Err(format!("call {call_id} has requests under way, try again"));
    };
    let mut ended = Vec::new();
    let mut sessions = dispatcher.look_for(call_id)?;
    sessions.retain(|found| found.is_of(name));
    if let Some(proxy) = gone.filter(|_| sessions.iter().any(|found| is_heard(&found.object))) {
        return Err(format!(
            "{proxy} does not have the dialog of call {call_id} any more (was it restarted without its dialogs?), so no \
             phone can be told, and they still talk; end media would end its media alone"
        ));
    }
    if sessions.is_empty() {
        // Whoever ended the other one has ended it as well.
        return Ok(format!("call {call_id}, its session is over already"));
    }
    for found in sessions {
        remove(dispatcher, name, &found)?;
        ended.push(found.at.relay.to_string());
    }
    drop(turn);
    Ok(format!(
        "call {call_id}, its session on relay {}",
        ended.join(", ")
    ))
}

fn remove(dispatcher: &Dispatcher, name: &Name, found: &FoundSession) -> Result<(), String> {
    let call_id = &name.call_id;
    let (relay, link) = (&found.at.relay, &found.at.handle);
    let Some(from_tag) = from_tag(&found.object) else {
        return Err(format!("relay {relay} does not tell call {call_id}'s tags"));
    };
    let remove = Remove {
        call_id: call_id.clone(),
        from_tag,
        to_tag: None,
    };
    let slot = Arc::new(Slot::new());
    let ask = Ask::Remove(remove.clone(), Some(Arc::clone(&slot)));
    let now = clock::moment();
    lock(&dispatcher.registry)
        .calls
        .by_admin(name, Through::Relay);
    let sent = link.send(now, ask, |out, sequence, compatibility| {
        write_remove(out, &remove, sequence, compatibility)
    });
    let removal = match sent {
        Ok(()) => slot.take_until(now + dispatcher.settings.relay_timeout),
        Err(refused) => {
            lock(&dispatcher.registry).calls.not_by_admin(name);
            return Err(format!("relay {relay}: {refused}"));
        }
    };
    lock(&dispatcher.registry).calls.not_by_admin(name);
    let failed = match removal {
        Some(Removal::Removed) => return Ok(()),
        Some(Removal::NotThere | Removal::Error) => "has no such call any more",
        Some(Removal::LinkLost) => "lost its link",
        None => "does not answer",
    };
    Err(format!("call {call_id}: relay {relay} {failed}"))
}

/// A party was heard a moment ago, as far as its relay tells.
fn is_heard(session: &Map<String, Value>) -> bool {
    let streams = session.get("streams").and_then(Value::as_array);
    let mut legs = streams.into_iter().flatten().flat_map(|stream| {
        let leg = |party: &str| stream.get(party)?.get("last_media")?.as_f64();
        [leg("caller"), leg("callee")]
    });
    legs.any(|ago| ago.is_some_and(|seconds| seconds < HEARD.as_secs_f64()))
}

/// A session's tag, byte for byte where its relay tells it so.
fn from_tag(session: &Map<String, Value>) -> Option<Tag> {
    let shown = session.get("exact").and_then(|exact| exact.get("from_tag"));
    let shown = shown.and_then(Value::as_str).and_then(Text::from_shown);
    let text = session.get("from_tag").and_then(Value::as_str);
    shown.or(text.map(Text::from)).map(Tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_party_that_was_heard_just_now() {
        let heard = |json: &str| is_heard(&serde_json::from_str(json).unwrap());
        let ago = |caller: &str, callee: &str| {
            heard(&format!(
                r#"{{"streams": [{{}}, {{"caller": {{"last_media": {caller}}}, "callee": {{"last_media": {callee}}}}}]}}"#
            ))
        };
        assert!(ago("0.02", "null") && ago("null", "4.9") && ago("70", "0"));
        assert!(!ago("5.1", "null") && !ago("null", "null"));
        // An older relay's have no such key.
        assert!(!heard("{}") && !heard(r#"{"streams": [{"status": "active"}, 7]}"#));
    }

    #[test]
    fn a_tag_is_what_its_relay_tells_most_exactly() {
        let tag = |json: &str| from_tag(&serde_json::from_str(json).unwrap());
        let odd = Tag(b"t\xe9"[..].into());
        let exact = r#"{"from_tag": "t\ufffd", "exact": {"call_id": "a", "from_tag": "t\\xe9"}}"#;
        assert_eq!(tag(exact), Some(odd));
        // The call-id alone is odd.
        let plain = r#"{"from_tag": "t", "exact": {"call_id": "\\xe9", "from_tag": "t"}}"#;
        assert_eq!(tag(plain), Some(Tag("t".into())));
        assert_eq!(tag(r#"{"from_tag": "t\\xe9"}"#), Some(Tag("t\\xe9".into())));
        for none in ["{}", r#"{"from_tag": 7, "exact": []}"#] {
            assert_eq!(tag(none), None);
        }
    }
}
