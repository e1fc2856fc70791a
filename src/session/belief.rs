//! What one relay port believes of the party that sends to it: where it is, by what evidence, and who else claims to
//! be it (rules E1 to E9 of docs/protocol.md). Does not forward, and does not know what SIP and SDP say but by
//! [`Evidence`].

use std::net::SocketAddrV4;
use std::time::Duration;

use super::candidate::{Candidate, Candidates, Mark};
use super::checks::Checks;
use super::drops::Drop;
use super::evidence::{Evidence, Rank};
use super::stream::Move;

/// After a party has moved its old source is not believed for so long: stragglers of it are still under way. If it
/// still sends then, it is the party after all (a NAT that kept its mapping).
pub const STRAGGLERS: Duration = Duration::from_secs(5);
/// A source that has sent nothing for so long gives way to a better one: a few packet times.
const PAUSE: Duration = Duration::from_millis(100);
/// A party that has got another address is followed once in this time, and a flow is taken back from the kernel for
/// somebody else's sake once in this time.
const SELDOM: Duration = Duration::from_secs(5);
/// A flow that was taken back for a claim is kept for this longer than the claim needs.
const WATCHED: Duration = Duration::from_secs(1);
/// By how much sequence numbers may be ahead of the last ones seen, and behind.
const AHEAD: u64 = 6000;
const BEHIND: u64 = 100;
/// Remembered of each kind for one port.
const KEPT: usize = 4;

/// Who is believed without evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Learning {
    /// The first who sends.
    Open,
    /// Who sends one stream for a while, where nobody better does.
    #[default]
    Guarded,
    Strict,
}

/// What the administrator decides of learning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub learning: Learning,
    /// From `learning_wait`.
    pub wait: Duration,
    /// Whether a party whose NAT gives it another address is followed, and after how long a silence of the old one.
    pub relearn: Option<Duration>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            learning: Learning::default(),
            wait: Duration::from_millis(300),
            relearn: Some(Duration::from_secs(2)),
        }
    }
}

/// How an address was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Checks of a source that nothing speaks for: only checks are sent there (E5).
    Trial,
    /// A connectivity check: the party may yet choose another path (M3).
    Stun,
    Media,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Learned {
    address: SocketAddrV4,
    by: By,
    /// When it sent last, as far as user space knows.
    heard: Duration,
    /// Its last packet of media here, and how many the kernel has relayed since.
    mark: Option<Mark>,
    uncounted: u64,
    /// Another branch has answered since, and this may be the party as well as the one before (M5).
    doubtful: bool,
}

/// Rarely needed, and for few ports.
#[derive(Clone, Debug, Default)]
struct Doubts {
    candidates: Candidates,
    proven: Vec<SocketAddrV4>,
    /// Not believed until then; without a time as long as the SDP names another (M5).
    refused: Vec<(SocketAddrV4, Option<Duration>)>,
    checks: Checks,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Belief {
    learned: Option<Learned>,
    /// When the party was last followed to another address, and when its flow was last taken back.
    followed: Option<Duration>,
    taken_back: Option<Duration>,
    /// Until when user space is to see this component, because somebody claims to be the party.
    watched: Option<Duration>,
    doubts: Option<Box<Doubts>>,
}

/// What a packet is to who decides whom to believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
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
pub struct Look {
    pub rules: Rules,
    pub evidence: Evidence,
    /// The kernel forwards: whether the learned source is silent cannot be seen.
    pub blind: bool,
    /// Since when media is expected; none before an answer.
    pub expected: Option<Duration>,
    pub now: Duration,
}

/// How a packet taught an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    First,
    /// Better evidence than that of the old address (E4).
    Better(SocketAddrV4),
    /// The same stream from another address (E8).
    Followed(SocketAddrV4),
}

/// Whether a packet is the party's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The known source.
    Known,
    /// This packet taught the address.
    Learned(How),
    /// The party's, and teaches nothing.
    Passing,
    Refused(Drop),
    /// The same, and user space should see what the kernel forwards, to find out who is who.
    Claimed(Drop),
}

impl Belief {
    /// Whether a packet of media is the known source's, which nearly all are.
    pub fn is_known(&mut self, from: SocketAddrV4, signal: Signal, now: Duration) -> bool {
        let Some(learned) = &mut self.learned else {
            return false;
        };
        let known = learned.address == from && learned.by == By::Media;
        if known {
            learned.heard = now;
            if let Signal::Media(Some(mark)) = signal {
                learned.mark = Some(mark);
                learned.uncounted = 0;
            }
        }
        known
    }

    /// Judges a packet by its source and by what it is.
    pub fn judge(&mut self, from: SocketAddrV4, signal: Signal, look: &Look) -> Verdict {
        if self.is_known(from, signal, look.now) {
            return Verdict::Known;
        }
        let rank = self.rank(from, &look.evidence);
        let is_open = look.rules.learning == Learning::Open;
        let by_media = self.learned.filter(|learned| learned.by == By::Media);
        if self.is_refused(from, rank, look.now) {
            if let Some(mark) = signal.mark() {
                self.hear(from, mark, look.now);
            }
            let why = match by_media {
                Some(_) => Drop::WrongSource,
                None => Drop::Straggler,
            };
            return Verdict::Refused(why);
        }
        if let Some(learned) = by_media {
            return self.challenge(learned, from, (signal, rank), look);
        }
        let known = self.learned.filter(|learned| learned.address == from);
        let is_trusted =
            is_open || rank >= Rank::Near || known.is_some_and(|known| known.by == By::Stun);
        match signal {
            Signal::Check if known.is_some() => Verdict::Known,
            Signal::Check if is_trusted => {
                let old = self.learned.filter(|_| !is_open);
                let best = old.map(|old| self.rank(old.address, &look.evidence));
                match best.is_none_or(|best| rank >= best) {
                    true => self.learn(from, By::Stun, None, look.now),
                    false => Verdict::Passing,
                }
            }
            Signal::Media(mark) if is_trusted => self.learn(from, By::Media, mark, look.now),
            Signal::Noise if is_open => self.learn(from, By::Media, None, look.now),
            Signal::Noise if is_trusted => Verdict::Passing,
            _ => self.consider(from, signal, look),
        }
    }

    /// A source that nothing speaks for, while nobody is known by media (E3).
    fn consider(&mut self, from: SocketAddrV4, signal: Signal, look: &Look) -> Verdict {
        let refused = Verdict::Refused(Drop::Unproven);
        let (mark, by) = match signal {
            Signal::Check => (Mark::Check, By::Trial),
            Signal::Media(Some(mark)) => (mark, By::Media),
            Signal::Media(None) | Signal::Noise => return refused,
        };
        let candidate = self.hear(from, mark, look.now);
        let is_best = match self.learned {
            None => true,
            Some(old) => by == By::Media && self.rank(old.address, &look.evidence) == Rank::Other,
        };
        let wait = look.rules.wait;
        let is_time = look.expected.is_some_and(|since| look.now >= since + wait);
        let may = look.rules.learning != Learning::Strict && is_best && is_time;
        if may && candidate.is_stream(wait, look.now) {
            let mark = (by == By::Media).then_some(mark);
            return self.learn(from, by, mark, look.now);
        }
        refused
    }

    /// Somebody else than the source that media came from (E4, E8).
    fn challenge(
        &mut self,
        learned: Learned,
        from: SocketAddrV4,
        (signal, rank): (Signal, Rank),
        look: &Look,
    ) -> Verdict {
        let now = look.now;
        if let (true, Some(learned)) = (look.blind, &mut self.learned) {
            learned.heard = now;
        }
        let mark = signal.mark();
        if let Some(mark) = mark {
            self.hear(from, mark, now);
        }
        let why = match rank {
            Rank::Other => Drop::WrongSource,
            Rank::Near => Drop::OtherPort,
            Rank::Proven | Rank::Exact => Drop::Waiting,
        };
        let old_rank = self.rank(learned.address, &look.evidence);
        let is_open = look.rules.learning == Learning::Open;
        let replaces =
            rank.replaces(old_rank) || learned.doubtful && rank >= old_rank.max(Rank::Near);
        let speaks = match signal {
            Signal::Check => old_rank == Rank::Other,
            Signal::Media(_) => true,
            Signal::Noise => false,
        };
        let is_better = replaces && speaks && !is_open;
        let patience = look
            .rules
            .relearn
            .filter(|_| learned.goes_on(from, mark, look.blind));
        if !is_better && patience.is_none() {
            return Verdict::Refused(why);
        }
        if look.blind {
            return match self.taken_back.is_none_or(|at| now >= at + SELDOM) {
                true => Verdict::Claimed(why),
                false => Verdict::Refused(why),
            };
        }
        let silent = now.saturating_sub(learned.heard);
        // Against who was believed for want of better, evidence needs no pause.
        if is_better && (old_rank == Rank::Other || silent >= PAUSE) {
            if learned.doubtful {
                self.refuse(learned.address, None);
            }
            let by = match signal {
                Signal::Check => By::Stun,
                _ => By::Media,
            };
            return self.replace(learned, from, by, mark.filter(|_| by == By::Media), now);
        }
        if let Some(patience) = patience {
            let is_time = self.followed.is_none_or(|at| now >= at + SELDOM);
            if silent >= patience && is_time {
                self.followed = Some(now);
                self.set(from, By::Media, mark, now);
                return Verdict::Learned(How::Followed(learned.address));
            }
            if silent >= PAUSE {
                self.watched = Some(now + WATCHED);
            }
        }
        Verdict::Refused(why)
    }

    fn replace(
        &mut self,
        learned: Learned,
        from: SocketAddrV4,
        by: By,
        mark: Option<Mark>,
        now: Duration,
    ) -> Verdict {
        self.set(from, by, mark, now);
        Verdict::Learned(How::Better(learned.address))
    }

    fn learn(&mut self, from: SocketAddrV4, by: By, mark: Option<Mark>, now: Duration) -> Verdict {
        self.set(from, by, mark, now);
        Verdict::Learned(How::First)
    }

    fn set(&mut self, address: SocketAddrV4, by: By, mark: Option<Mark>, now: Duration) {
        self.watched = None;
        if let Some(doubts) = &mut self.doubts {
            doubts.candidates.forget(address);
            if by == By::Media {
                // From now on it is one wrong source among others.
                doubts.refused.retain(|(_, until)| until.is_none());
            }
        }
        self.learned = Some(Learned {
            address,
            by,
            heard: now,
            mark,
            uncounted: 0,
            doubtful: false,
        });
    }

    fn hear(&mut self, from: SocketAddrV4, mark: Mark, now: Duration) -> Candidate {
        self.doubts().candidates.hear(from, mark, now)
    }

    fn doubts(&mut self) -> &mut Doubts {
        self.doubts.get_or_insert_default()
    }

    /// What speaks for a source.
    pub fn rank(&self, from: SocketAddrV4, evidence: &Evidence) -> Rank {
        let is_proven = self
            .doubts
            .as_ref()
            .is_some_and(|doubts| doubts.proven.contains(&from));
        match is_proven {
            true => evidence.rank(from).max(Rank::Proven),
            false => evidence.rank(from),
        }
    }

    /// M5, E9. Returns true for a former source that is not believed at the moment; one that the SDP names is, at once.
    pub fn is_refused(&self, from: SocketAddrV4, rank: Rank, now: Duration) -> bool {
        let refused = self.doubts.iter().flat_map(|doubts| &doubts.refused);
        let mut found = refused.filter(|(address, _)| *address == from);
        rank != Rank::Exact && found.any(|(_, until)| until.is_none_or(|until| now < until))
    }

    fn refuse(&mut self, address: SocketAddrV4, until: Option<Duration>) {
        let refused = &mut self.doubts().refused;
        refused.retain(|(other, _)| *other != address);
        if refused.len() == KEPT {
            refused.remove(0);
        }
        refused.push((address, until));
    }

    /// Where the party is, as far as it has shown: media may go there.
    pub fn address(&self) -> Option<SocketAddrV4> {
        let learned = self.learned.filter(|learned| learned.by != By::Trial)?;
        Some(learned.address)
    }

    /// The same for connectivity checks.
    pub fn check_address(&self) -> Option<SocketAddrV4> {
        self.learned.map(|learned| learned.address)
    }

    /// The address from which media came; none while only STUN did.
    pub fn media_address(&self) -> Option<SocketAddrV4> {
        let learned = self.learned.filter(|learned| learned.by == By::Media)?;
        Some(learned.address)
    }

    /// Whether the kernel may have it: nobody else claims to be the party at the moment.
    pub fn is_settled(&self, now: Duration) -> bool {
        self.watched.is_none_or(|until| until <= now)
    }

    /// Somebody has claimed to be the party since its address was learned. Until the kernel has given its flow up, it
    /// cannot be judged who is.
    pub fn is_claimed(&self) -> bool {
        self.watched.is_some()
    }

    /// The kernel has relayed this much more from the learned source.
    pub fn on_kernel_traffic(&mut self, packets: u64, now: Duration) {
        if let Some(learned) = &mut self.learned {
            learned.heard = now;
            learned.uncounted += packets;
        }
    }

    /// The flow is taken back from the kernel because of a claim.
    pub fn on_taken_back(&mut self, rules: &Rules, now: Duration) {
        self.taken_back = Some(now);
        self.watch(rules, now);
    }

    /// The kernel has given the flow up. A claim can be judged from now on, however long that took.
    pub fn on_withdrawn(&mut self, rules: &Rules, now: Duration) {
        if self.is_claimed() {
            self.watch(rules, now);
        }
    }

    fn watch(&mut self, rules: &Rules, now: Duration) {
        let patience = rules.relearn.unwrap_or(PAUSE);
        self.watched = Some(now + patience + WATCHED);
    }

    /// The party's SDP names another address than `superseded` (M5).
    pub fn moved(
        &mut self,
        why: Move,
        superseded: Option<SocketAddrV4>,
        evidence: &Evidence,
        now: Duration,
    ) {
        if let Some(doubts) = &mut self.doubts {
            doubts.proven.clear();
            doubts.candidates.clear();
            if why == Move::Agreed {
                doubts.refused.retain(|(_, until)| until.is_some());
            }
        }
        self.watched = None;
        let former = self.learned.map(|learned| learned.address);
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
            if let (Some(Rank::Near), Some(learned)) = (rank, &mut self.learned) {
                if superseded != Some(learned.address) {
                    learned.doubtful = true;
                    return;
                }
            }
        }
        if let Some(former) = former {
            self.refuse(former, until);
        }
        self.learned = None;
    }

    /// The party fell silent: it is learned anew.
    pub fn forget(&mut self) {
        self.learned = None;
        self.watched = None;
    }

    /// Connectivity checks of this party that wait for their answers.
    pub fn checks(&mut self) -> &mut Checks {
        &mut self.doubts().checks
    }

    /// Who asked for what this answers; none where nothing was asked.
    pub fn asker(
        &self,
        transaction: super::checks::Transaction,
        now: Duration,
    ) -> Option<SocketAddrV4> {
        self.doubts.as_ref()?.checks.asker(transaction, now)
    }

    /// The other party has answered a check of this source with success (E5). True where this taught the address.
    pub fn prove(&mut self, asker: SocketAddrV4, evidence: &Evidence, now: Duration) -> bool {
        let rank = self.rank(asker, evidence);
        if self.is_refused(asker, rank, now) {
            return false;
        }
        let proven = &mut self.doubts().proven;
        if !proven.contains(&asker) {
            if proven.len() == KEPT {
                proven.remove(0);
            }
            proven.push(asker);
        }
        self.trust(asker, evidence, now)
    }

    /// The same where the other party is on trial itself: media may go there, as to any source that nothing speaks for.
    pub fn trust(&mut self, asker: SocketAddrV4, evidence: &Evidence, now: Duration) -> bool {
        let is_new = match self.learned {
            None => true,
            Some(old) if old.address == asker => old.by == By::Trial,
            Some(old) => {
                let rank = self.rank(asker, evidence);
                old.by != By::Media && rank > self.rank(old.address, evidence)
            }
        };
        if is_new {
            self.set(asker, By::Stun, None, now);
        }
        is_new
    }

    /// Who else has sent here, the last few.
    pub fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.doubts
            .iter()
            .flat_map(|doubts| doubts.candidates.iter())
    }
}

impl Learned {
    /// Whether a packet from elsewhere may be the same stream's (E8).
    fn goes_on(&self, from: SocketAddrV4, mark: Option<Mark>, blind: bool) -> bool {
        let (Some(last), Some(next)) = (self.mark, mark) else {
            return false;
        };
        if !matches!(last, Mark::Rtp { .. }) {
            // Without an SSRC: a NAT gives another port of the same address.
            return last.ahead(next).is_some() && from.ip() == self.address.ip();
        }
        // What the kernel relayed was counted; what was lost on the way was not, nor what it relayed since.
        let loss = self.uncounted / 8;
        let ahead = AHEAD + loss + if blind { AHEAD } else { 0 };
        let behind = BEHIND + loss;
        let expected = self.uncounted as u16;
        last.ahead(next).is_some_and(|ahead_of_last| {
            let beyond = (ahead_of_last as u16).wrapping_sub(expected);
            u64::from(beyond) <= ahead.min(0x7fff)
                || u64::from(beyond.wrapping_neg()) <= behind.min(0x7fff)
        })
    }
}
