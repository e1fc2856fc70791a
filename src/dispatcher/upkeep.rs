//! What time brings about: silent relays, clean-up, certificates that are no longer good.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::drained_upkeep::Watch;
use super::link::{Ask, Link};
use super::link_end::judge;
use super::relay_commands::{write_explain, write_plain};
use super::shared::Dispatcher;
use crate::moment::Moment;
use crate::sys::clock;
use crate::sys::sync::lock;
use crate::tls;

/// How often the clock is looked at.
const INTERVAL: Duration = Duration::from_millis(250);

/// The upkeep thread.
pub(super) fn run(dispatcher: &Arc<Dispatcher>) {
    let start = clock::moment();
    let mut certificates = tls::Watch::new(dispatcher.settings.verify_interval, start);
    let mut look_at = start;
    let mut drained = Watch::default();
    loop {
        thread::sleep(INTERVAL);
        dispatcher.upkeep.beat();
        let now = clock::moment();
        look_after_links(dispatcher, now);
        tick(dispatcher, now);
        drained.look(dispatcher, now);
        if now >= look_at {
            look_at = now + tls::LOOK_INTERVAL;
            if let Some(context) = certificates.look(&dispatcher.store, now) {
                verify(dispatcher, &context);
            }
        }
    }
}

pub(super) fn look_after_links(dispatcher: &Dispatcher, now: Moment) {
    let settings = &dispatcher.settings;
    let patience = settings.relay_timeout + settings.relay_recover_interval;
    let on_disk = dispatcher.finisher.on_disk();
    let links = lock(&dispatcher.registry).relays.links();
    for link in links {
        link.flush(on_disk);
        dispatcher.look_for_silence(&link, now);
        ask_for_doubted(dispatcher, &link, now);
        let Some(limit) = now.checked_sub(patience) else {
            continue;
        };
        for ask in link.forget(limit) {
            match ask {
                Ask::Update(updating) if updating.is_new => {
                    lock(&dispatcher.registry).relays.attempt_over(link.id);
                }
                Ask::Check(doubts) => lock(&dispatcher.registry).unanswered(link.id, doubts, now),
                Ask::Purge => dispatcher.remove_owed(&link),
                _ => {}
            }
        }
    }
}

/// Asks a relay whether it has the calls that it did not know by the tags of their removal.
fn ask_for_doubted(dispatcher: &Dispatcher, link: &Link, now: Moment) {
    let explains = link.explains();
    let doubts = lock(&dispatcher.registry).doubts(link.id, explains, now);
    for doubts in doubts {
        let call_id = doubts.calls.first().filter(|_| explains).cloned();
        let sent = link.send(
            now,
            Ask::Check(doubts.clone()),
            |out, sequence, _| match call_id {
                Some(call_id) => write_explain(out, &call_id, sequence),
                None => write_plain(out, "sessions", sequence),
            },
        );
        if sent.is_err() {
            lock(&dispatcher.registry).unanswered(link.id, doubts, now);
        }
    }
}

pub(super) fn tick(dispatcher: &Dispatcher, now: Moment) {
    let elapsed = {
        let mut registry = lock(&dispatcher.registry);
        registry.calls.live.set_wall(clock::now());
        registry.tick(now)
    };
    for (_, link) in elapsed.dead {
        let seconds = dispatcher.settings.relay_recover_interval.as_secs_f32();
        link.close(&format!("it has not recovered for {seconds} s"));
    }
    dispatcher.finish(elapsed.finished);
    lock(&dispatcher.recent_calls).tick(now);
    dispatcher.tell_failures(now);
}

/// Closes the links of relays whose certificate would not be accepted any more.
fn verify(dispatcher: &Dispatcher, context: &tls::Context) {
    let links = lock(&dispatcher.registry).relays.links();
    for link in links {
        judge(dispatcher, context, &link);
    }
}
