//! What one relay port believes of the party that sends to it: where it is, by what evidence, and who else claims to
//! be it (rules E1 to E9 of docs/protocol.md). Does not forward, and does not know what SIP and SDP say but by
//! [`Evidence`].

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::candidate::{Candidate, Candidates, Mark};
use super::checks::{Checks, Transaction};
use super::drops::DropReason;
use super::evidence::{Evidence, Rank};
use super::settings::{Learning, LearningRules};
use crate::moment::Moment;
use crate::proto::saved::is_usual;

/// After a party has moved its old source is not believed for so long: stragglers of it are still under way. If it
/// still sends then, it is the party after all (a NAT that kept its mapping).
pub(super) const STRAGGLERS: Duration = Duration::from_secs(5);
/// A source that has sent nothing for so long gives way to a better one: a few packet times.
const SILENT_AFTER: Duration = Duration::from_millis(100);
/// A party that has got another address is followed once in this time, and a flow is taken back from the kernel for
/// somebody else's sake once in this time.
const FOLLOWED_EVERY: Duration = Duration::from_secs(5);
/// A flow that was taken back for a claim is kept for this longer than the claim needs.
const WATCHED_LONGER: Duration = Duration::from_secs(1);
/// By how much sequence numbers may be ahead of the last ones seen, and behind.
const SEQUENCES_AHEAD: u64 = 6000;
const SEQUENCES_BEHIND: u64 = 100;
/// Remembered of each kind for one port.
const ADDRESSES_KEPT: usize = 4;

/// Why a party is somewhere else than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// Another offer was agreed on: the party itself has moved.
    Agreed,
    /// The INVITE that opens the session was answered once more, from somewhere else: this may be another branch of a
    /// fork, and the party that was heard so far a stranger.
    OtherBranch,
}

/// How an address was latched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LatchedBy {
    /// Checks of a source that nothing speaks for: only checks are sent there (E5).
    Trial,
    /// A connectivity check: the party may yet choose another path (M3).
    Stun,
    Media,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LatchedSource {
    address: SocketAddr,
    by: LatchedBy,
    /// When it sent last, as far as user space knows.
    heard: Moment,
    /// Its last packet of media here, and how many the kernel has relayed since.
    #[serde(default, skip_serializing_if = "is_usual")]
    mark: Option<Mark>,
    #[serde(default, skip_serializing_if = "is_usual")]
    uncounted: u64,
    /// Another branch has answered since, and this may be the party as well as the one before (M5).
    #[serde(default, skip_serializing_if = "is_usual")]
    doubtful: bool,
}

/// Rarely needed, and for few ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Doubts {
    #[serde(skip_serializing_if = "is_usual")]
    candidates: Candidates,
    #[serde(skip_serializing_if = "is_usual")]
    proven: Vec<SocketAddr>,
    /// Not believed until then; without a time as long as the SDP names another (M5).
    #[serde(skip_serializing_if = "is_usual")]
    refused: Vec<(SocketAddr, Option<Moment>)>,
    #[serde(skip_serializing_if = "is_usual")]
    checks: Checks,
}

/// See the module.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Belief {
    #[serde(skip_serializing_if = "is_usual")]
    latched: Option<LatchedSource>,
    /// When the party was last followed to another address, and when its flow was last taken back.
    #[serde(skip_serializing_if = "is_usual")]
    followed: Option<Moment>,
    #[serde(skip_serializing_if = "is_usual")]
    taken_back: Option<Moment>,
    /// Until when user space is to see this component, because somebody claims to be the party.
    #[serde(skip_serializing_if = "is_usual")]
    watched: Option<Moment>,
    #[serde(skip_serializing_if = "is_usual")]
    doubts: Option<Box<Doubts>>,
}

/// What a packet is to who decides whom to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Check,
    /// What shows it to be of one stream, where it has that.
    Media(Option<Mark>),
    /// Not what this stream carries: it teaches nothing (E6).
    Noise,
}

impl Signal {
    fn mark(self) -> Option<Mark> {
        match self {
            Signal::Check => Some(Mark::Check),
            Signal::Media(mark) => mark,
            Signal::Noise => None,
        }
    }
}

/// What is known besides the packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub rules: LearningRules,
    pub evidence: Evidence,
    /// The kernel forwards: whether the latched source is silent cannot be seen.
    pub blind: bool,
    /// Since when media is expected; none before an answer.
    pub expected: Option<Moment>,
    pub now: Moment,
}

/// How a packet taught an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HowLatched {
    First,
    /// Better evidence than that of the old address (E4).
    Better(SocketAddr),
    /// The same stream from another address (E8).
    Followed(SocketAddr),
}

/// Whether a packet is the party's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The known source.
    Known,
    /// This packet taught the address.
    Latched(HowLatched),
    /// The party's, and teaches nothing.
    Passing,
    Refused(DropReason),
    /// The same, and user space should see what the kernel forwards, to find out who is who.
    Claimed(DropReason),
}

impl Belief {
    /// Returns true if a packet of media is the known source's, which nearly all are.
    pub(super) fn is_known(&mut self, from: SocketAddr, signal: Signal, now: Moment) -> bool {
        let Some(latched) = &mut self.latched else {
            return false;
        };
        let known = latched.address == from && latched.by == LatchedBy::Media;
        if known {
            latched.heard = now;
            if let Signal::Media(Some(mark)) = signal {
                latched.mark = Some(mark);
                latched.uncounted = 0;
            }
        }
        known
    }

    /// Judges a packet by its source and by what it is.
    pub(super) fn judge(&mut self, from: SocketAddr, signal: Signal, look: &Look) -> Judgement {
        if self.is_known(from, signal, look.now) {
            return Judgement::Known;
        }
        let rank = self.rank(from, &look.evidence);
        let is_open = look.rules.learning == Learning::Open;
        let by_media = self
            .latched
            .filter(|latched| latched.by == LatchedBy::Media);
        if self.is_refused(from, rank, look.now) {
            if let Some(mark) = signal.mark() {
                self.hear(from, mark, look.now);
            }
            let why = match by_media {
                Some(_) => DropReason::WrongSource,
                None => DropReason::Straggler,
            };
            return Judgement::Refused(why);
        }
        if let Some(latched) = by_media {
            return self.challenge(latched, from, (signal, rank), look);
        }
        let known = self.latched.filter(|latched| latched.address == from);
        let is_trusted =
            is_open || rank >= Rank::Near || known.is_some_and(|known| known.by == LatchedBy::Stun);
        match signal {
            Signal::Check if known.is_some() => Judgement::Known,
            Signal::Check if is_trusted => {
                let old = self.latched.filter(|_| !is_open);
                let best = old.map(|old| self.rank(old.address, &look.evidence));
                if best.is_none_or(|best| rank >= best) {
                    self.latch(from, LatchedBy::Stun, None, look.now)
                } else {
                    Judgement::Passing
                }
            }
            Signal::Media(mark) if is_trusted => self.latch(from, LatchedBy::Media, mark, look.now),
            Signal::Noise if is_open => self.latch(from, LatchedBy::Media, None, look.now),
            Signal::Noise if is_trusted => Judgement::Passing,
            _ => self.consider(from, signal, look),
        }
    }

    /// A source that nothing speaks for, while nobody is known by media (E3).
    fn consider(&mut self, from: SocketAddr, signal: Signal, look: &Look) -> Judgement {
        let refused = Judgement::Refused(DropReason::Unproven);
        let (mark, by) = match signal {
            Signal::Check => (Mark::Check, LatchedBy::Trial),
            Signal::Media(Some(mark)) => (mark, LatchedBy::Media),
            Signal::Media(None) | Signal::Noise => return refused,
        };
        let candidate = self.hear(from, mark, look.now);
        let is_best = match self.latched {
            None => true,
            Some(old) => {
                by == LatchedBy::Media && self.rank(old.address, &look.evidence) == Rank::Other
            }
        };
        let wait = look.rules.wait;
        let is_time = look.expected.is_some_and(|since| look.now >= since + wait);
        let may = look.rules.learning != Learning::Strict && is_best && is_time;
        if may && candidate.is_stream(wait, look.now) {
            let mark = (by == LatchedBy::Media).then_some(mark);
            return self.latch(from, by, mark, look.now);
        }
        refused
    }

    /// Somebody else than the source that media came from (E4, E8).
    fn challenge(
        &mut self,
        latched: LatchedSource,
        from: SocketAddr,
        (signal, rank): (Signal, Rank),
        look: &Look,
    ) -> Judgement {
        let now = look.now;
        if let (true, Some(latched)) = (look.blind, &mut self.latched) {
            latched.heard = now;
        }
        let mark = signal.mark();
        if let Some(mark) = mark {
            self.hear(from, mark, now);
        }
        let why = match rank {
            Rank::Other => DropReason::WrongSource,
            Rank::Near => DropReason::OtherPort,
            Rank::Proven | Rank::Exact => DropReason::Waiting,
        };
        let old_rank = self.rank(latched.address, &look.evidence);
        let is_open = look.rules.learning == Learning::Open;
        let replaces =
            rank.replaces(old_rank) || latched.doubtful && rank >= old_rank.max(Rank::Near);
        let speaks = match signal {
            Signal::Check => old_rank == Rank::Other,
            Signal::Media(_) => true,
            Signal::Noise => false,
        };
        let is_better = replaces && speaks && !is_open;
        let patience = look
            .rules
            .relearn
            .filter(|_| latched.goes_on(from, mark, look.blind));
        if !is_better && patience.is_none() {
            return Judgement::Refused(why);
        }
        if look.blind {
            return if self.taken_back.is_none_or(|at| now >= at + FOLLOWED_EVERY) {
                Judgement::Claimed(why)
            } else {
                Judgement::Refused(why)
            };
        }
        let silent = now.since(latched.heard);
        // Against who was believed for want of better, evidence needs no pause.
        if is_better && (old_rank == Rank::Other || silent >= SILENT_AFTER) {
            if latched.doubtful {
                self.refuse(latched.address, None);
            }
            let by = match signal {
                Signal::Check => LatchedBy::Stun,
                _ => LatchedBy::Media,
            };
            return self.replace(
                latched,
                from,
                by,
                mark.filter(|_| by == LatchedBy::Media),
                now,
            );
        }
        if let Some(patience) = patience {
            let is_time = self.followed.is_none_or(|at| now >= at + FOLLOWED_EVERY);
            if silent >= patience && is_time {
                self.followed = Some(now);
                self.set(from, LatchedBy::Media, mark, now);
                return Judgement::Latched(HowLatched::Followed(latched.address));
            }
            if silent >= SILENT_AFTER {
                self.watched = Some(now + WATCHED_LONGER);
            }
        }
        Judgement::Refused(why)
    }

    fn replace(
        &mut self,
        latched: LatchedSource,
        from: SocketAddr,
        by: LatchedBy,
        mark: Option<Mark>,
        now: Moment,
    ) -> Judgement {
        self.set(from, by, mark, now);
        Judgement::Latched(HowLatched::Better(latched.address))
    }

    fn latch(
        &mut self,
        from: SocketAddr,
        by: LatchedBy,
        mark: Option<Mark>,
        now: Moment,
    ) -> Judgement {
        self.set(from, by, mark, now);
        Judgement::Latched(HowLatched::First)
    }

    fn set(&mut self, address: SocketAddr, by: LatchedBy, mark: Option<Mark>, now: Moment) {
        self.watched = None;
        if let Some(doubts) = &mut self.doubts {
            doubts.candidates.forget(address);
            if by == LatchedBy::Media {
                // From now on it is one wrong source among others.
                doubts.refused.retain(|(_, until)| until.is_none());
            }
        }
        self.latched = Some(LatchedSource {
            address,
            by,
            heard: now,
            mark,
            uncounted: 0,
            doubtful: false,
        });
    }

    fn hear(&mut self, from: SocketAddr, mark: Mark, now: Moment) -> Candidate {
        self.doubts().candidates.hear(from, mark, now)
    }

    fn doubts(&mut self) -> &mut Doubts {
        self.doubts.get_or_insert_default()
    }

    /// What speaks for a source.
    pub(super) fn rank(&self, from: SocketAddr, evidence: &Evidence) -> Rank {
        let rank = evidence.rank(from);
        if self.is_proven(from) {
            rank.max(Rank::Proven)
        } else {
            rank
        }
    }

    /// Returns true if the other party has answered a check of this source with success.
    pub(super) fn is_proven(&self, from: SocketAddr) -> bool {
        let doubts = self.doubts.as_ref();
        doubts.is_some_and(|doubts| doubts.proven.contains(&from))
    }

    /// M5, E9. Returns true for a former source that is not believed at the moment; one that the SDP names is, at once.
    pub(super) fn is_refused(&self, from: SocketAddr, rank: Rank, now: Moment) -> bool {
        let refused = self.doubts.iter().flat_map(|doubts| &doubts.refused);
        let mut found = refused.filter(|(address, _)| *address == from);
        rank != Rank::Exact && found.any(|(_, until)| until.is_none_or(|until| now < until))
    }

    fn refuse(&mut self, address: SocketAddr, until: Option<Moment>) {
        let refused = &mut self.doubts().refused;
        refused.retain(|(other, _)| *other != address);
        if refused.len() == ADDRESSES_KEPT {
            refused.remove(0);
        }
        refused.push((address, until));
    }

    /// Where the party is, as far as it has shown: media may go there.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let latched = self
            .latched
            .filter(|latched| latched.by != LatchedBy::Trial)?;
        Some(latched.address)
    }

    /// The same for connectivity checks.
    pub(super) fn check_address(&self) -> Option<SocketAddr> {
        self.latched.map(|latched| latched.address)
    }

    /// The address from which media came; none while only STUN did.
    pub(super) fn media_address(&self) -> Option<SocketAddr> {
        let latched = self
            .latched
            .filter(|latched| latched.by == LatchedBy::Media)?;
        Some(latched.address)
    }

    /// Returns true if the kernel may have it: nobody else claims to be the party at the moment.
    pub(super) fn is_settled(&self, now: Moment) -> bool {
        self.watched.is_none_or(|until| until <= now)
    }

    /// Somebody has claimed to be the party since its address was latched. Until the kernel has given its flow up, it
    /// cannot be judged who is.
    pub(super) fn is_claimed(&self) -> bool {
        self.watched.is_some()
    }

    /// The kernel has relayed this much more from the latched source.
    pub(super) fn on_kernel_traffic(&mut self, packets: u64, now: Moment) {
        if let Some(latched) = &mut self.latched {
            latched.heard = now;
            latched.uncounted += packets;
        }
    }

    /// So many packets of the latched source were relayed of which nothing else is known.
    pub(super) fn on_unseen(&mut self, packets: u64) {
        if let Some(latched) = &mut self.latched {
            latched.uncounted = latched.uncounted.saturating_add(packets);
        }
    }

    /// Nobody has listened for a while: whether the latched source has sent is not known.
    pub(super) fn skip_gap(&mut self, now: Moment) {
        if let Some(latched) = &mut self.latched {
            latched.heard = now;
        }
    }

    /// The flow is taken back from the kernel because of a claim.
    pub(super) fn on_taken_back(&mut self, rules: &LearningRules, now: Moment) {
        self.taken_back = Some(now);
        self.watch(rules, now);
    }

    /// The kernel has given the flow up. A claim can be judged from now on, however long that took.
    pub(super) fn on_withdrawn(&mut self, rules: &LearningRules, now: Moment) {
        if self.is_claimed() {
            self.watch(rules, now);
        }
    }

    fn watch(&mut self, rules: &LearningRules, now: Moment) {
        let patience = rules.relearn.unwrap_or(SILENT_AFTER);
        self.watched = Some(now + patience + WATCHED_LONGER);
    }

    /// The party's SDP names another address than `superseded` (M5).
    pub(super) fn moved(
        &mut self,
        why: Move,
        superseded: Option<SocketAddr>,
        evidence: &Evidence,
        now: Moment,
    ) {
        if let Some(doubts) = &mut self.doubts {
            doubts.proven.clear();
            doubts.candidates.clear();
            if why == Move::Agreed {
                doubts.refused.retain(|(_, until)| until.is_some());
            }
        }
        self.watched = None;
        let former = self.latched.map(|latched| latched.address);
        if evidence.named.is_some() && former == evidence.named {
            return;
        }
        let until = match why {
            Move::OtherBranch if evidence.named.is_some() => None,
            _ => Some(now + STRAGGLERS),
        };
        if why == Move::OtherBranch {
            if let Some(old) = superseded.filter(|old| evidence.named != Some(*old)) {
                self.refuse(old, until);
            }
            let rank = former.map(|former| evidence.rank(former));
            if let (Some(Rank::Near), Some(latched)) = (rank, &mut self.latched) {
                if superseded != Some(latched.address) {
                    latched.doubtful = true;
                    return;
                }
            }
        }
        if let Some(former) = former {
            self.refuse(former, until);
        }
        self.latched = None;
    }

    /// The party fell silent: it is latched anew.
    pub(super) fn forget(&mut self) {
        self.latched = None;
        self.watched = None;
    }

    /// Connectivity checks of this party that wait for their answers.
    pub(super) fn checks(&mut self) -> &mut Checks {
        &mut self.doubts().checks
    }

    /// Who asked for what this answers; none where nothing was asked.
    pub(super) fn asker(&self, transaction: Transaction, now: Moment) -> Option<SocketAddr> {
        self.doubts.as_ref()?.checks.asker(transaction, now)
    }

    /// The other party has answered a check of this source with success (E5). True where this taught the address.
    pub(super) fn prove(&mut self, asker: SocketAddr, evidence: &Evidence, now: Moment) -> bool {
        let rank = self.rank(asker, evidence);
        if self.is_refused(asker, rank, now) {
            return false;
        }
        let proven = &mut self.doubts().proven;
        if !proven.contains(&asker) {
            if proven.len() == ADDRESSES_KEPT {
                proven.remove(0);
            }
            proven.push(asker);
        }
        self.trust(asker, evidence, now)
    }

    /// The same where the other party is on trial itself: media may go there, as to any source that nothing speaks for.
    pub(super) fn trust(&mut self, asker: SocketAddr, evidence: &Evidence, now: Moment) -> bool {
        let is_new = match self.latched {
            None => true,
            Some(old) if old.address == asker => old.by == LatchedBy::Trial,
            Some(old) => {
                let rank = self.rank(asker, evidence);
                old.by != LatchedBy::Media && rank > self.rank(old.address, evidence)
            }
        };
        if is_new {
            self.set(asker, LatchedBy::Stun, None, now);
        }
        is_new
    }

    /// Who else has sent here, the last few.
    pub(super) fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.doubts
            .iter()
            .flat_map(|doubts| doubts.candidates.iter())
    }
}

impl LatchedSource {
    /// Returns true if a packet from elsewhere may be the same stream's (E8).
    fn goes_on(&self, from: SocketAddr, mark: Option<Mark>, blind: bool) -> bool {
        let (Some(last), Some(next)) = (self.mark, mark) else {
            return false;
        };
        if !matches!(last, Mark::Rtp { .. }) {
            // Without an SSRC: a NAT gives another port of the same address.
            return last.ahead(next).is_some() && from.ip() == self.address.ip();
        }
        // What the kernel relayed was counted; what was lost on the way was not, nor what it relayed since.
        let loss = self.uncounted / 8;
        let ahead = SEQUENCES_AHEAD + loss + if blind { SEQUENCES_AHEAD } else { 0 };
        let behind = SEQUENCES_BEHIND + loss;
        let expected = self.uncounted as u16;
        last.ahead(next).is_some_and(|ahead_of_last| {
            let beyond = (ahead_of_last as u16).wrapping_sub(expected);
            u64::from(beyond) <= ahead.min(0x7fff)
                || u64::from(beyond.wrapping_neg()) <= behind.min(0x7fff)
        })
    }
}
