//! Sessions and removals that have missed each other: sessions that ended without the SIP proxy, which has yet to remove
//! them; removals of sessions that were not known, which a relay that is away may have (docs/protocol.md section 2).

use std::time::Duration;

use super::remembered::{Remembered, Word};
use crate::dispatcher::statistics::Statistics;
use crate::moment::{Moment, UnixTime};
use crate::proto::control::Remove;
use crate::proto::name::{Fit, Mention, Name};
use crate::proto::{CallId, Tag};

/// How long a removal of a call that was not known is kept for a relay that may have it.
const MISSED_AGE: Duration = Duration::from_secs(3600);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Removals {
    /// Sessions that the proxy has yet to remove.
    expired: Remembered<Name>,
    /// Calls that were not known when the proxy removed them, with the time.
    missed: Remembered<(Remove, UnixTime)>,
}

impl Removals {
    /// A session has ended, and the proxy has yet to remove it.
    pub(super) fn expect(&mut self, name: Name, word: Word, now: Moment) {
        self.expired.take(&name.call_id, |one| *one == name);
        let (call_id, tags) = (name.call_id.clone(), name.tags());
        self.expired.add(call_id, name, tags, word, now);
    }

    /// Returns true if a session of this Call-ID has ended that the proxy has yet to remove.
    pub(super) fn has_expired(&self, call_id: &CallId) -> bool {
        self.expired.of(call_id).next().is_some()
    }

    /// How well a message fits a session of that kind.
    pub(super) fn expired_fit(&self, mention: Mention<'_>) -> Fit {
        let fits = self.expired.of(mention.call_id);
        fits.map(|name| name.fit(mention)).max().unwrap_or(Fit::Not)
    }

    /// Returns true if this very session has ended and the proxy has yet to remove it.
    pub(super) fn is_expected(&self, name: &Name) -> bool {
        self.expired.of(&name.call_id).any(|one| one.is_of(name))
    }

    /// The proxy has removed a session that its relay ended before. True when that was so: by other tags than its own it
    /// is no removal of it.
    pub(super) fn remove_expired(&mut self, remove: &Remove) -> bool {
        let fit = self.expired_fit(remove.mention());
        let is_it = |name: &Name| name.fit(remove.mention()) == fit;
        (fit.is_own() || fit == Fit::Untold) && self.expired.take(&remove.call_id, is_it).is_some()
    }

    /// The proxy has removed a session that is not known. Some relay may have it: one that has not
    /// listed it yet, or does not hear of this.
    pub(super) fn miss(&mut self, remove: Remove, ended: UnixTime, now: Moment) {
        let is_noted = |(missed, _): &(Remove, UnixTime)| is_of_one(missed, &remove);
        if self.missed.of(&remove.call_id).any(is_noted) {
            return;
        }
        let call_id = remove.call_id.clone();
        let to_tag = remove.to_tag.as_ref();
        let to_tag = to_tag.map_or(0, |tag| tag.0.as_bytes().len());
        let tags = Name::opened_by(remove.mention()).tags() + to_tag;
        self.missed
            .add(call_id, (remove, ended), tags, Word::Own, now);
    }

    /// The removals that mean a session which a relay lists.
    pub(super) fn missed_of(&self, name: &Name) -> impl Iterator<Item = &Remove> {
        let missed = self.missed.of(&name.call_id).map(|(remove, _)| remove);
        missed.filter(|remove| name.fit(remove.mention()) != Fit::Not)
    }

    /// When the proxy has removed a session that was not known then.
    pub(super) fn take_missed(
        &mut self,
        call_id: &CallId,
        statistics: &Statistics,
    ) -> Option<UnixTime> {
        let is_it = |(remove, _): &(Remove, UnixTime)| statistics.is_meant_by(remove);
        let (_, at) = self.missed.take(call_id, is_it)?;
        Some(at)
    }

    /// A relay does not know the session of this removal.
    pub(super) fn refused(&mut self, remove: &Remove) {
        let is_it = |(missed, _): &(Remove, UnixTime)| missed == remove;
        self.missed.take(&remove.call_id, is_it);
    }

    /// A session of this name has begun: what is remembered of earlier ones does not mean it.
    pub(super) fn begun(&mut self, name: &Name) {
        let call_id = &name.call_id;
        // An end before, of which the proxy has yet to tell, is known by both tags.
        let is_open =
            |one: &Name| one.is_of(name) && (one.callee.is_none() || name.callee == one.callee);
        while self.expired.take(call_id, is_open).is_some() {}
        let is_missed = |(remove, _): &(Remove, UnixTime)| name.fit(remove.mention()) != Fit::Not;
        while self.missed.take(call_id, is_missed).is_some() {}
    }

    /// Forgets what is too old: ended sessions after so long.
    pub(super) fn forget(&mut self, expired_age: Duration, now: Moment) {
        if let Some(time) = now.checked_sub(expired_age) {
            self.expired.forget_until(time);
        }
        if let Some(time) = now.checked_sub(MISSED_AGE) {
            self.missed.forget_until(time);
        }
    }
}

/// Returns true if both remove one session, as far as their tags tell.
fn is_of_one(one: &Remove, other: &Remove) -> bool {
    let opened = |tag: &Tag| Name {
        call_id: one.call_id.clone(),
        caller: Some(tag.clone()),
        callee: None,
    };
    let tags = [Some(&one.from_tag), one.to_tag.as_ref()];
    let mut tags = tags.into_iter().flatten();
    tags.any(|tag| opened(tag).fit(other.mention()) != Fit::Not)
}
