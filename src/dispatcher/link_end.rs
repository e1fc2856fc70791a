//! How a relay's link ends, and who is told.

use super::link::{Ask, Link, Removal};
use super::pending_update::UpdateFailure;
use super::shared::{Dispatcher, is_stopping};
use crate::sys::clock;
use crate::sys::sync::lock;
use crate::tls;

/// Its relay has no link any more, where this was it.
pub(super) fn lose(dispatcher: &Dispatcher, link: &Link, reason: &str) {
    let lost = lock(&dispatcher.registry).link_lost(link.id, clock::moment());
    match lost {
        _ if is_stopping(dispatcher) => log::debug!("relay {link}: closed"),
        Some(lost) => {
            log::warn!("relay {}: down: {reason}", lost.relay);
            for call in &lost.calls {
                dispatcher.finisher.note(call);
            }
        }
        None if link.has_spoken() => log::info!("relay {link}: link closed: {reason}"),
        None => {
            log::info!("relay {link}: went without a word, as media-admin doctor does: {reason}")
        }
    }
}

/// Tells everybody who waits for this link that it is gone.
pub(super) fn end(dispatcher: &Dispatcher, link: &Link, why: &str) {
    let (asked, reason) = link.end();
    lose(dispatcher, link, reason.as_deref().unwrap_or(why));
    for ask in asked {
        match ask {
            Ask::Update(updating) => updating.fail(link.id, UpdateFailure::LinkLost),
            Ask::Remove(_, Some(slot)) => slot.put(Removal::LinkLost),
            Ask::Show(slot) => slot.put(None),
            Ask::Remove(_, None)
            | Ask::TakeBack(_)
            | Ask::Purge
            | Ask::Check(_)
            | Ask::PortShortage => {}
        }
    }
}

/// Closes a link whose relay's certificate would not be accepted any more.
pub(super) fn judge(dispatcher: &Dispatcher, context: &tls::Context, link: &Link) {
    let Some(certificates) = &link.certificates else {
        return;
    };
    let passport = dispatcher.settings.passport.as_ref();
    if let Err(reason) = context.verify_again(certificates, passport) {
        link.close(&format!("its certificate was refused: {reason}"));
    }
}
