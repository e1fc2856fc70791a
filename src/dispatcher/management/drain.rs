//! `drain` and `resume`: which relays get new calls, by the administrator's word.
//!
//! It holds for this dispatcher, whatever becomes of the relay's links and over restarts, until `resume`. The relay is
//! not told: other dispatchers may want it. A relay that is to end by itself is sent HUP on its own host.

use super::answer::Who;
use crate::dispatcher::drained::MAX_DRAINED;
use crate::dispatcher::registry::Held;
use crate::dispatcher::relay_id::RelayKey;
use crate::dispatcher::shared::Dispatcher;
use crate::sys::sync::lock;

/// What is said where the last one was drained.
const NONE_LEFT: &str = "\nwarning: NO RELAY IS LEFT THAT TAKES CALLS, new ones are refused: resume this one, or start another";

/// A relay gets no new calls. A second line warns where none is left that does.
pub(super) fn drain(dispatcher: &Dispatcher, who: &Who, relay: &str) -> Result<String, String> {
    let mut registry = lock(&dispatcher.registry);
    let key = the_one(
        registry.relays.named(relay),
        relay,
        &registry.relays.known(),
    )?;
    let drained = registry.relays.drained();
    if drained.len() >= MAX_DRAINED && !drained.contains(&key) {
        return Err(format!(
            "{MAX_DRAINED} relays are drained already; resume those that do not exist any more: summary shows them"
        ));
    }
    let is_news = registry.relays.drain(&key);
    let calls = registry.relays.load(&key).live;
    let others = registry.relays.has_other(&[]);
    drop(registry);
    if is_news {
        log::warn!("relay {key}: drained by {who}: no new calls, {calls} left");
    }
    let warning = if others {
        ""
    } else {
        log::warn!("no relay is left that takes calls: new ones are refused");
        NONE_LEFT
    };
    let left = match calls {
        0 => "no call of this dispatcher is left there".to_owned(),
        1 => "1 call is left there".to_owned(),
        more => format!("{more} calls are left there"),
    };
    let lost = match kept(dispatcher) {
        Ok(()) => String::new(),
        Err(why) => format!("; A RESTART OF THE DISPATCHER WOULD GIVE IT CALLS AGAIN: {why}"),
    };
    Ok(format!(
        "drained: relay {key} gets no new calls, {left}{lost}{warning}"
    ))
}

/// It gets calls again.
pub(super) fn resume(dispatcher: &Dispatcher, who: &Who, relay: &str) -> Result<String, String> {
    let mut registry = lock(&dispatcher.registry);
    let key = the_one(
        registry.relays.named(relay),
        relay,
        &registry.relays.known(),
    )?;
    let is_news = registry.relays.resume(&key);
    let (held, is_connected) = registry.relays.held(&key);
    drop(registry);
    if is_news {
        log::warn!("relay {key}: resumed by {who}: gets new calls again");
    }
    let but = match held {
        _ if !is_connected => ", once it is connected",
        Held { halting: true, .. } => {
            ", once it is started again: it drains by its own (HUP), which only its restart ends"
        }
        Held {
            timed_out: true, ..
        } => ", once it answers again",
        _ => "",
    };
    let state = if is_news { "resumed" } else { "not drained" };
    let lost = match kept(dispatcher) {
        Ok(()) => String::new(),
        Err(why) => format!("; A RESTART OF THE DISPATCHER WOULD DRAIN IT AGAIN: {why}"),
    };
    Ok(format!("{state}: relay {key} gets new calls{but}{lost}"))
}

/// Brings it to disk; the log has why that failed, too.
fn kept(dispatcher: &Dispatcher) -> Result<(), String> {
    let kept = dispatcher.keep_drained();
    kept.inspect_err(|why| log::error!("{why}; it is tried again every second"))
}

/// The answer where no relay has this name.
pub(super) fn no_such_relay(name: &str, known: &[RelayKey]) -> String {
    let name = name.escape_debug();
    match known {
        [] => format!("no relay \"{name}\": none is known"),
        known => format!("no relay \"{name}\"; known: {}", listed(known)),
    }
}

fn the_one(found: Vec<RelayKey>, name: &str, known: &[RelayKey]) -> Result<RelayKey, String> {
    match found.as_slice() {
        [] => Err(no_such_relay(name, known)),
        [one] => Ok(one.clone()),
        several => Err(format!(
            "\"{}\" means several relays, give a name: {}",
            name.escape_debug(),
            listed(several)
        )),
    }
}

fn listed(relays: &[RelayKey]) -> String {
    let relays: Vec<String> = relays.iter().map(RelayKey::to_string).collect();
    relays.join(", ")
}
