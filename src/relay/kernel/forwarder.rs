//! What becomes of workers' orders: which flows the mechanism is given and when they are taken from it again. Does not
//! know how it forwards (`mechanism`) nor what a call is.
//!
//! Whatever fails, the call goes on in user space.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use log::{info, warn};

use super::flow::{Ends, Flow, FlowKey};
use super::flows::Flows;
use super::mechanism::{Adopted, Heard, Mechanism, Refusal, Removal, Repaired, Unread};
use super::news::NewsQueue;
use super::reading::{self, Takeover};
use super::removals::Removals;
use super::takeover::TakenOver;
use super::trust::Trust;
use crate::counters::Counters;
use crate::logging::sparse::Sparse;
use crate::moment::Moment;
use crate::proto::{Component, Party, PerParty};
use crate::session::{FlowNews, Installed, Loss};

/// How long flows are left alone that cannot be read.
const BLIND: Duration = Duration::from_secs(10);

/// How long a stuck flow shows how far its packets come: one of a usual stream or two, which are lost.
pub(super) const WATCHED: Duration = Duration::from_millis(30);

/// A stuck flow of which it is found out how far its packets come.
#[derive(Clone, Copy, Debug)]
struct Watch {
    key: FlowKey,
    ends: Ends,
    party: Party,
    /// How many flows were stuck.
    count: usize,
    loss: Loss,
    until: Moment,
}

/// See the module.
pub(super) struct Forwarder<M: ?Sized> {
    flows: Flows,
    removals: Removals,
    trust: Trust,
    /// All addresses of this host.
    locals: HashSet<IpAddr>,
    news: NewsQueue,
    /// The flow that is kept a little longer, to find out why it is stuck.
    watch: Option<Watch>,
    /// Flows that were wanted back before [`Forwarder::adopt`]; none once that is done.
    early: Option<Vec<FlowKey>>,
    /// Since when nothing could be read.
    unread_since: Option<Moment>,
    refused: Sparse,
    unread: Sparse,
    deleted: Sparse,
    bypassed: Sparse,
    pub mechanism: Box<M>,
}

impl<M: Mechanism + ?Sized> Forwarder<M> {
    pub(super) fn new(mechanism: Box<M>, workers: usize, locals: Vec<IpAddr>) -> Forwarder<M> {
        Forwarder {
            flows: Flows::default(),
            removals: Removals::default(),
            trust: Trust::default(),
            locals: locals.into_iter().collect(),
            news: NewsQueue::new(workers),
            watch: None,
            early: None,
            unread_since: None,
            refused: Sparse::default(),
            unread: Sparse::default(),
            deleted: Sparse::default(),
            bypassed: Sparse::default(),
            mechanism,
        }
    }

    /// Before an earlier relay's flows are claimed: what is wanted back until then may be one of these.
    pub(super) fn expect_claims(&mut self) {
        self.early = Some(Vec::new());
    }

    /// What workers are to be told since this was asked last, each by its number.
    pub(super) fn take_news(&mut self) -> Vec<Vec<FlowNews>> {
        self.news.take()
    }

    /// Flows that the kernel has.
    pub(super) fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Returns true if there is anything in the kernel that readings could tell of.
    pub(super) fn has_work(&self) -> bool {
        self.flows.len() > 0 || self.mechanism.has_debris() || !self.mechanism.is_able()
    }

    /// When [`Forwarder::tick`] has something to do.
    pub(super) fn due(&self) -> Option<Moment> {
        let watched = self.watch.as_ref().map(|watch| watch.until);
        let due = [watched, self.mechanism.removed_at()];
        due.into_iter().flatten().min()
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Moment) {
        self.end_watch(now);
        if self.mechanism.removed_at().is_some_and(|at| now >= at) {
            self.complete_removals(now);
        }
    }

    /// This host has other addresses than before.
    pub(super) fn set_addresses(&mut self, locals: Vec<IpAddr>) {
        self.mechanism.set_addresses(&locals);
        self.locals = locals.into_iter().collect();
    }

    /// Takes over what an earlier relay's flows have become; see [`super::order::Order::Adopt`].
    pub(super) fn adopt(
        &mut self,
        claimed: &[(Flow, PerParty<Counters>)],
        now: Moment,
    ) -> TakenOver {
        let flows: Vec<Flow> = claimed.iter().map(|(flow, _)| *flow).collect();
        let adoption = self.mechanism.adopt(&flows);
        let mut taken = TakenOver {
            swept: adoption.swept,
            ..TakenOver::default()
        };
        for ((flow, told), adopted) in claimed.iter().zip(adoption.flows) {
            match adopted {
                Adopted::Running(found) => {
                    self.flows.insert_adopted(flow, *told, &found);
                    taken.adopted += 1;
                }
                Adopted::Gone(left) => {
                    let last = PerParty::of(|party| left[party].since(told[party]));
                    let lost = FlowNews::Lost(flow.key.flow, Loss::Deleted, last);
                    self.news.tell(flow.key.worker, lost);
                    taken.lost += 1;
                }
            }
        }
        // Those that were wanted back before it was known what had become of them.
        if let Some(early) = self.early.take() {
            self.withdraw(&early, now);
        }
        taken
    }

    /// Hands flows over.
    pub(super) fn install(&mut self, wanted: &[Flow], now: Moment) {
        let mut able = Vec::new();
        for flow in wanted {
            match self.objection(flow, now) {
                Some(answer) => self.answer(flow, answer),
                None => able.push(*flow),
            }
        }
        let results = self.mechanism.install(&able);
        for (flow, result) in able.iter().zip(results) {
            match result {
                Ok(()) => {
                    self.flows.insert(flow);
                    self.answer(flow, Installed::Taken);
                }
                Err(Refusal::Never) => self.answer(flow, Installed::Never),
                Err(Refusal::InUse) => self.answer(flow, Installed::NotNow),
                Err(Refusal::Failed(error)) => {
                    self.say_refused(&error);
                    self.answer(flow, Installed::NotNow);
                }
            }
        }
    }

    fn answer(&mut self, flow: &Flow, answer: Installed) {
        let FlowKey { worker, flow } = flow.key;
        self.news.tell(worker, FlowNews::Installed(flow, answer));
    }

    /// Why a flow is not handed over.
    fn objection(&mut self, flow: &Flow, now: Moment) -> Option<Installed> {
        let is_here = |ip: IpAddr| ip.is_loopback() || self.locals.contains(&ip);
        // Such packets take another way through the kernel, where nothing of ours turns them round.
        if flow.ends.iter().any(|end| is_here(end.remote.ip())) {
            return Some(Installed::Never);
        }
        if !self.mechanism.is_able() {
            return Some(Installed::NotNow);
        }
        // RTCP would show for seconds neither that media leaves nor that it does not.
        let has_much = flow.key.flow.component == Component::Rtp;
        let look = || self.mechanism.outlook();
        if !self.trust.admits(&flow.ends, now, has_much, look) {
            return Some(Installed::Suspended);
        }
        self.flows.contains(&flow.key).then_some(Installed::NotNow)
    }

    fn say_refused(&mut self, error: &io::Error) {
        if let Some(left_out) = self.refused.due() {
            let why = self.mechanism.explain_refusal(error);
            warn!("a flow stays in user space: {why}{left_out}");
        }
    }

    /// Takes flows back, as workers want it.
    pub(super) fn withdraw(&mut self, keys: &[FlowKey], now: Moment) {
        let mut going = Vec::new();
        for key in keys {
            if let Some(flow) = self.flows.remove(key) {
                self.removals.withdraw(*key, flow);
                going.push(*key);
            } else if let Some(early) = &mut self.early {
                early.push(*key);
            } else if !self.removals.is_going(key) {
                let nothing = PerParty::<Counters>::default();
                self.news
                    .tell(key.worker, FlowNews::Withdrawn(key.flow, nothing));
            }
        }
        self.remove(&going, Removal::Wanted, now);
    }

    /// Packets of these flows come to user space. Where the mechanism says that they should not, user space takes over.
    pub(super) fn suspect(&mut self, keys: &[FlowKey], now: Moment) {
        let mut bypassed = Vec::new();
        for key in keys {
            // Where it was lost meanwhile, its packets had to come to user space.
            if self.flows.contains(key) && self.mechanism.is_bypassed(key) {
                bypassed.push(*key);
            }
        }
        if !bypassed.is_empty() {
            self.lose(&bypassed, Loss::Bypassed, now);
            self.on_bypass(now);
        }
    }

    /// Takes flows out that are no good any more, and tells their workers.
    fn lose(&mut self, keys: &[FlowKey], loss: Loss, now: Moment) {
        let mut going = Vec::new();
        for key in keys {
            if let Some(flow) = self.flows.remove(key) {
                self.removals.lose(*key, flow, loss);
                going.push(*key);
            }
        }
        self.remove(&going, Removal::Failed, now);
    }

    fn remove(&mut self, keys: &[FlowKey], why: Removal, now: Moment) {
        if !keys.is_empty() {
            self.mechanism.remove(keys, why, now);
            self.complete_removals(now);
        }
    }

    fn complete_removals(&mut self, now: Moment) {
        for (key, totals) in self.mechanism.take_removed(now) {
            self.removals.complete(&key, totals, &mut self.news);
        }
    }

    /// Packets that should be the kernel's come to user space.
    fn on_bypass(&mut self, now: Moment) {
        let entered = self.flows.entered();
        let is_news = entered == 0 && self.trust.health.on_trouble(now);
        let left_out = self.bypassed.due();
        if let Some(left_out) = left_out.filter(|_| entered > 0 || is_news) {
            let why = self.mechanism.words().bypassed;
            warn!("{why}{left_out}");
        }
    }

    /// Hears what others have done, and has it put right.
    ///
    /// # Errors
    /// Where nothing more can be heard.
    pub(super) fn hear(&mut self, now: Moment) -> io::Result<Heard> {
        let heard = self.mechanism.hear()?;
        if heard.is_changed {
            self.repair(now);
        }
        Ok(heard)
    }

    /// Has the mechanism repaired. Where it cannot be, user space takes over.
    fn repair(&mut self, now: Moment) {
        match self.mechanism.repair() {
            Repaired::Kept => {}
            Repaired::Anew { was_out } => {
                self.flows.restart_counting();
                self.news.tell_all(FlowNews::CountedAnew);
                if was_out {
                    self.news.tell_all(FlowNews::Mended);
                }
            }
            Repaired::Out => {
                self.flows.restart_counting();
                self.lose_all(now);
            }
        }
    }

    fn lose_all(&mut self, now: Moment) {
        let keys = self.flows.keys();
        self.lose(&keys, Loss::Deleted, now);
    }

    /// Reads all counters, tells what was relayed, and finds out what is not as it should be.
    pub(super) fn read(&mut self, now: Moment) {
        if !self.mechanism.is_able() {
            self.repair(now);
        }
        match self.mechanism.read(&mut self.flows, now) {
            Ok(()) => {}
            Err(Unread::Broken) => return self.repair(now),
            Err(Unread::Failed(error)) => return self.on_unread(&error, now),
        }
        self.unread_since = None;
        self.act_on_reading(now);
        self.repair(now);
        self.news.tell_all(FlowNews::Heard(now));
    }

    /// Without readings no silence is ever noticed: after a while user space takes over.
    fn on_unread(&mut self, error: &io::Error, now: Moment) {
        if let Some(left_out) = self.unread.due() {
            warn!("the kernel's counters cannot be read: {error}{left_out}");
        }
        let since = *self.unread_since.get_or_insert(now);
        if now >= since + BLIND {
            warn!("user space takes over what cannot be watched");
            self.trust.health.on_trouble(now);
            self.lose_all(now);
        }
    }

    fn act_on_reading(&mut self, now: Moment) {
        let findings = self.flows.conclude();
        let watched = self.watch.as_ref().map(|watch| watch.key);
        let judged = reading::judge(&findings, &self.flows, &mut self.trust, watched, now);
        for (key, more) in judged.traffic {
            self.news
                .tell(key.worker, FlowNews::Traffic(key.flow, more));
        }
        if judged.is_mended {
            self.news.tell_all(FlowNews::Mended);
        }
        for takeover in judged.takeovers {
            self.take_over(takeover, now);
        }
        self.lose(&judged.gone, Loss::Deleted, now);
        if !judged.gone.is_empty() {
            if let Some(left_out) = self.deleted.due() {
                let (count, gone) = (judged.gone.len(), self.mechanism.words().gone);
                info!("{count} {gone}{left_out}");
            }
        }
    }

    /// Takes flows over; one of those that are stuck is watched for a moment and then said to be stuck.
    fn take_over(&mut self, takeover: Takeover, now: Moment) {
        let Takeover {
            mut keys,
            first,
            loss,
        } = takeover;
        let first = first.and_then(|first| {
            Some(Watch {
                key: first.key,
                ends: self.flows.get(&first.key)?.ends,
                party: first.party,
                count: first.count,
                loss,
                until: now + WATCHED,
            })
        });
        let unwatched = first.filter(|watch| !self.begin_watch(watch));
        keys.retain(|key| self.watch.is_none_or(|watch| watch.key != *key));
        self.lose(&keys, loss, now);
        if let Some(watch) = unwatched {
            self.say_stuck(&watch, None);
        }
    }

    /// False where it cannot be.
    fn begin_watch(&mut self, watch: &Watch) -> bool {
        if self.watch.is_some() {
            return false;
        }
        if self.mechanism.watch(&watch.key, watch.party).is_err() {
            self.mechanism.end_watch();
            return false;
        }
        self.watch = Some(*watch);
        true
    }

    /// Takes the flow over that was watched, once it was for long enough, and says why it is stuck.
    fn end_watch(&mut self, now: Moment) {
        if let Some(watch) = self.watch.take_if(|watch| now >= watch.until) {
            let reached_forward = self.mechanism.end_watch();
            self.lose(&[watch.key], watch.loss, now);
            self.say_stuck(&watch, reached_forward);
        }
    }

    fn say_stuck(&mut self, watch: &Watch, reached_forward: Option<bool>) {
        let Watch {
            ends, party, count, ..
        } = watch;
        let why = self.mechanism.explain_stuck(ends, *party, reached_forward);
        warn!(
            "{count} flows enter the kernel and do not leave it, user space takes them over: {why}"
        );
    }

    /// Ends and leaves all flows to be taken over within this time.
    pub(super) fn leave(&mut self, time: Duration) {
        if self.watch.take().is_some() {
            self.mechanism.end_watch();
        }
        let count = self.flows.len();
        match self.mechanism.leave(time) {
            Ok(()) => info!(
                "the kernel goes on forwarding {count} flows for {} s",
                time.as_secs()
            ),
            Err(error) => warn!(
                "the kernel goes on forwarding {count} flows, for an hour at most: it cannot be told to stop after {} s \
                 ({error})",
                time.as_secs()
            ),
        }
    }

    /// Takes everything back and leaves nothing behind.
    pub(super) fn quit(&mut self, now: Moment) {
        let keys = self.flows.keys();
        self.withdraw(&keys, now);
        self.mechanism.close();
        // What it knew only later is known by now.
        self.complete_removals(now);
    }
}

#[cfg(test)]
impl<M: ?Sized> Forwarder<M> {
    pub(super) fn trust(&mut self) -> &mut Trust {
        &mut self.trust
    }

    pub(super) fn watch_ends(&self) -> Option<Moment> {
        Some(self.watch.as_ref()?.until)
    }
}
