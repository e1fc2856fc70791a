//! What time brings about: silent relays, clean-up, certificates that are no longer good.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::Dispatcher;
use super::link::{Ask, Link};
use super::management::draining::Watch;
use super::waiting::lock;
use crate::sys::clock;

/// How often the clock is looked at.
const INTERVAL: Duration = Duration::from_millis(250);

/// The upkeep thread.
pub fn run(dispatcher: &Arc<Dispatcher>) {
    let interval = dispatcher.settings.verify_interval;
    let mut verify_at = clock::mono() + interval;
    let mut drained = Watch::default();
    loop {
        thread::sleep(INTERVAL);
        dispatcher.upkeep.beat();
        let now = clock::mono();
        look_after_links(dispatcher, now);
        tick(dispatcher, now);
        drained.look(dispatcher, now);
        if now >= verify_at {
            verify_at = now + interval;
            verify(dispatcher);
        }
    }
}

fn look_after_links(dispatcher: &Dispatcher, now: Duration) {
    let settings = &dispatcher.settings;
    let patience = settings.relay_timeout + settings.relay_recover_interval;
    let on_disk = dispatcher.finisher.on_disk();
    let links = lock(&dispatcher.registry).links();
    for link in links {
        link.flush(on_disk);
        dispatcher.look_for_silence(&link, now);
        let Some(limit) = now.checked_sub(patience) else {
            continue;
        };
        let is_attempt = |ask: &Ask| matches!(ask, Ask::Update(updating) if updating.is_new);
        let forgotten = link.forget(limit);
        for _ in forgotten.iter().filter(|ask| is_attempt(ask)) {
            lock(&dispatcher.registry).attempt_over(link.id);
        }
    }
}

fn tick(dispatcher: &Dispatcher, now: Duration) {
    let elapsed = {
        let mut registry = lock(&dispatcher.registry);
        registry.set_wall(clock::now());
        registry.tick(now)
    };
    for (_, link) in elapsed.dead {
        let seconds = dispatcher.settings.relay_recover_interval.as_secs_f32();
        link.close(&format!("it has not recovered for {seconds} s"));
    }
    dispatcher.finish(elapsed.finished);
    lock(&dispatcher.past).tick(now);
}

/// Closes the links of relays whose certificate would not be accepted any more.
fn verify(dispatcher: &Dispatcher) {
    dispatcher.store.reload_if_changed();
    let context = dispatcher.store.current();
    let passport = dispatcher.settings.passport.as_ref();
    let refused = |link: &Link| {
        let certificates = link.certificates.as_ref()?;
        context.verify_again(certificates, passport).err()
    };
    let links = lock(&dispatcher.registry).links();
    for link in links {
        if let Some(reason) = refused(&link) {
            link.close(&format!("its certificate was refused: {reason}"));
        }
    }
}
