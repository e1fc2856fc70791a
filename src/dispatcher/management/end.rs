//! `end`: a call is ended where its dialog is, at the SIP proxy, so that both phones get a BYE; where there is none
//! to be ended, on its relay.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::answer::Who;
use super::explain::Found;
use super::naming::Meant;
use crate::dispatcher::Dispatcher;
use crate::dispatcher::dialog::{Outcome, Proxy, Told};
use crate::dispatcher::link::{Ask, Removal};
use crate::dispatcher::registry::{About, Place, Through};
use crate::dispatcher::waiting::{Slot, lock};
use crate::dispatcher::wire::write_remove;
use crate::proto::control::Remove;
use crate::proto::{CallId, DialogId, Tag, Text};
use crate::sys::clock;

/// How long the proxy may take: two requests of 3 s each, and a little.
const DIALOG_LIMIT: Duration = Duration::from_secs(7);

/// A phone that talks is heard more often.
const HEARD: Duration = Duration::from_secs(5);

/// Ends a call; what has been done, in a sentence.
///
/// # Errors
/// Why it goes on, and what else can be tried.
pub fn end(
    dispatcher: &Dispatcher,
    who: &Who,
    text: &str,
    media_only: bool,
) -> Result<String, String> {
    let (call_id, about, place) = {
        let registry = lock(&dispatcher.registry);
        let call_id = registry.meant(text);
        let (about, place) = (registry.about(&call_id), registry.place(&call_id));
        (call_id, about, place)
    };
    let over = |call_id: &CallId, fate: &str| Err(format!("call {call_id} {fate}"));
    if let Place::Expired = place {
        let fate = dispatcher.fate_of(&call_id);
        return over(&call_id, fate.as_deref().unwrap_or("has ended already"));
    }
    let (call_id, about) = match place {
        Place::On(..) | Place::Away(_) if about.is_some() => (call_id, about),
        _ => match dispatcher.call_named(text)? {
            Meant::Over(call_id, fate) => return over(&call_id, &fate),
            Meant::Live(call_id, found) => {
                let about = lock(&dispatcher.registry).about(&call_id);
                let told = || told_by_relay(&found);
                let about = about.or_else(told);
                (call_id, about)
            }
        },
    };
    log::warn!("[session {call_id}] to be ended by the order of {who}");
    let mut why = match &about {
        _ if media_only => "no phone is told",
        Some(About {
            answered: false, ..
        }) => "no phone is told, for nobody has answered it",
        _ => "no phone is told, for no dialog of it is known",
    };
    let mut gone = None;
    // A dialog that was never answered cannot be ended by anybody but the phones.
    let dialog = about.filter(|about| about.answered && !media_only);
    if let Some(dialog_id) = dialog.and_then(|about| about.dialog_id) {
        match end_dialog(dispatcher, &call_id, &dialog_id) {
            Some(Outcome::Ended(proxy)) => {
                return Ok(format!(
                    "ended: call {call_id}, dialog {dialog_id} by {proxy}"
                ));
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
    let ended = end_session(dispatcher, &call_id, gone)?;
    Ok(format!("{ended}; {why}"))
}

/// What the relay of a call knows of its dialog, where this dispatcher does not know the call.
fn told_by_relay(found: &[Found]) -> Option<About> {
    found.iter().find_map(|found| {
        let dialog_id = found.object.get("dialog_id")?.as_str()?;
        Some(About {
            dialog_id: Some(DialogId(dialog_id.into())),
            answered: found.object.get("answered")?.as_bool()?,
        })
    })
}

/// None where dialogs cannot be ended.
fn end_dialog(dispatcher: &Dispatcher, call_id: &CallId, dialog_id: &DialogId) -> Option<Outcome> {
    let enders = dispatcher.enders.get()?;
    let (told, outcome) = crossbeam_channel::bounded(1);
    // Kamailio removes the call before it answers, OpenSIPS once the phones have answered.
    lock(&dispatcher.registry).by_admin(call_id, Through::Proxy);
    enders.end(call_id, dialog_id, Told::Asker(told));
    let outcome = outcome.recv_timeout(DIALOG_LIMIT);
    let outcome = outcome.unwrap_or_else(|_| {
        let seconds = DIALOG_LIMIT.as_secs();
        Outcome::Failed(format!(
            "the SIP proxy was not asked within {seconds} s, many other dialogs wait to be ended"
        ))
    });
    if !matches!(outcome, Outcome::Ended(_)) {
        lock(&dispatcher.registry).not_by_admin(call_id);
    }
    Some(outcome)
}

/// Removes all sessions of a call from their relays; not where the proxy has lost the dialog of phones that still talk.
fn end_session(
    dispatcher: &Dispatcher,
    call_id: &CallId,
    gone: Option<Proxy>,
) -> Result<String, String> {
    let deadline = clock::mono() + dispatcher.settings.relay_timeout;
    // The proxy's own requests for this call come before or after.
    let Some(turn) = dispatcher.turns.enter(call_id, deadline) else {
        return Err(format!("call {call_id} has requests under way, try again"));
    };
    let mut ended = Vec::new();
    let sessions = dispatcher.look_for(call_id)?;
    if let Some(proxy) = gone.filter(|_| sessions.iter().any(|found| is_heard(&found.object))) {
        return Err(format!(
            "{proxy} does not have the dialog of call {call_id} any more (was it restarted without its dialogs?), so no \
             phone can be told, and they still talk; end media would end its media alone"
        ));
    }
    for found in sessions {
        remove(dispatcher, call_id, &found)?;
        ended.push(found.at.relay.to_string());
    }
    drop(turn);
    Ok(format!(
        "ended: call {call_id}, its session on relay {}",
        ended.join(", ")
    ))
}

fn remove(dispatcher: &Dispatcher, call_id: &CallId, found: &Found) -> Result<(), String> {
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
    let now = clock::mono();
    lock(&dispatcher.registry).by_admin(call_id, Through::Relay);
    let sent = link.send(now, ask, |out, sequence, compatibility| {
        write_remove(out, &remove, sequence, compatibility)
    });
    let removal = match sent {
        Ok(()) => slot.take_until(now + dispatcher.settings.relay_timeout),
        Err(refused) => {
            lock(&dispatcher.registry).not_by_admin(call_id);
            return Err(format!("relay {relay}: {refused}"));
        }
    };
    lock(&dispatcher.registry).not_by_admin(call_id);
    let failed = match removal {
        Some(Removal::Removed) => return Ok(()),
        Some(Removal::Error) => "has no such call any more",
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
