//! The network between the phones, the SIP proxy in it, and who does what next. The proxy words each message as its mediaproxy module
//! does: what it tells the relay is all that the relay ever knows.

use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};

use super::super::{Lab, open};
use super::phones::{Chance, Half, Invite, Message, Offer, Role, Sdp, Side, Supply, What};
use crate::proto::link::UpdateReply;
use crate::session::Settings;
use std::time::Duration;

pub(super) const CALLER_TAG: &str = "caller";
pub(super) const TAGS: [&str; 3] = ["b1", "b2", "b3"];

/// A message, and what became of it.
struct Sent {
    message: Message,
    /// How often the proxy saw it.
    passed: usize,
    /// How often it may yet come once more.
    repeats: usize,
    told: Vec<u16>,
    /// Branches whose phones (or, upstream, whose dialog) have it.
    received: [bool; 3],
}

/// A copy of a message under way.
struct Flight {
    id: usize,
    branch: usize,
    /// From the phone to the proxy, or else from there on.
    to_proxy: bool,
}

/// What the proxy has seen of a dialog's offers and answers.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    /// An offer in a request waits for its answer: the caller's, the callee's.
    pub request: [bool; 2],
    /// One in a reply does.
    pub reply: Option<Side>,
    pub agreed: bool,
    pub answered: bool,
}

impl Seen {
    pub(super) fn is_waiting(&self) -> bool {
        self.request != [false; 2] || self.reply.is_some()
    }

    fn words(&self) -> String {
        let waits = match (self.request, self.reply) {
            ([true, true], _) => "both offer",
            ([true, false], _) => "caller offers",
            ([false, true], _) => "callee offers",
            (_, Some(Side::Caller)) => "caller offers in a reply",
            (_, Some(Side::Callee)) => "callee offers in a reply",
            _ if self.agreed => "agreed",
            _ => "nothing",
        };
        let phase = match (self.answered, self.agreed) {
            (true, _) => "answered",
            (false, true) => "early",
            (false, false) => "new",
        };
        format!("{phase}, {waits}")
    }
}

/// What the flow is like as a whole.
struct Plan {
    branches: usize,
    /// The INVITE has no offer.
    late: bool,
    /// The script removes the call when it sees the CANCEL, not when the call has failed.
    removes_on_cancel: bool,
    /// The tags of a `remove` are the BYE's, not the dialog's.
    tags_of_bye: bool,
}

#[derive(Clone, Copy, Debug, Hash)]
enum Act {
    Carry(usize),
    Lose(usize),
    Repeat(usize),
    Listen,
    RingLong,
    CancelCall,
    Ring(usize),
    ReliableRing(usize, Side),
    Answer(usize, Side),
    Refuse(usize, Side),
    AnswerUpdate(usize, Side),
    RefuseUpdate(usize, Side),
    Update(usize, Side),
    Reinvite(usize, Side, bool),
    Cancel(usize, Side),
    Bye(Side),
}

/// FNV-1a: the same number everywhere and always.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        Chance(self.0).next()
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Who was caught doing what, by the words of [`Seen`] and of the message.
pub(super) type Coverage = BTreeSet<(String, String)>;

pub(super) struct World<'a> {
    pub lab: Lab,
    plan: Plan,
    supply: Supply,
    pub halves: [Vec<Half>; 2],
    sent: Vec<Sent>,
    air: Vec<Flight>,
    pub seen: Vec<Seen>,
    refused: Vec<bool>,
    /// The first whose final answer passed the proxy.
    pub winner: Option<usize>,
    /// The branch whose media is heard while it rings, as far as that can be known.
    pub ringing: Option<usize>,
    /// Branches that have sent an SDP, and those whose tag came with one.
    spoke: [bool; 3],
    tagged: [bool; 3],
    /// Branches that have answered the INVITE's offer in a reliable 183.
    early: [bool; 3],
    last_spoke: usize,
    /// Two offers waited at once since the last answer.
    glare: bool,
    /// Nobody but the phones can know what is agreed.
    pub unknown: bool,
    /// Nothing was offered since the last answer.
    pub clean: bool,
    /// There were updates, so there is a session.
    pub begun: bool,
    pub ended: bool,
    /// The call was removed under the phones' feet.
    pub cut: bool,
    /// The port that each stream has, told to the caller and to the callee.
    ports: HashMap<u32, [Option<u16>; 2]>,
    /// Streams whose ports may change.
    loose: BTreeSet<u32>,
    last_sdp: usize,
    /// Media was sent.
    pub sounded: bool,
    pub log: Option<Vec<String>>,
    coverage: &'a mut Coverage,
}

pub(super) fn tag(branch: usize, side: Side) -> &'static str {
    match side {
        Side::Caller => CALLER_TAG,
        Side::Callee => TAGS[branch],
    }
}

fn media(sdp: &Sdp) -> String {
    let item = |line: &super::phones::Line| {
        let (ip, port) = match (line.is_on(), line.hidden) {
            (false, _) => (line.at.ip().to_string(), 0),
            (true, true) => ("0.0.0.0".into(), line.at.port()),
            (true, false) => (line.at.ip().to_string(), line.at.port()),
        };
        let direction = format!("{:?}", line.direction).to_lowercase();
        format!("{}:{ip}:{port}:{direction}:ice=no", line.kind)
    };
    let items: Vec<String> = sdp.iter().map(item).collect();
    items.join(",")
}

impl<'a> World<'a> {
    /// The caller has sent its INVITE.
    pub(super) fn new(start: u64, coverage: &'a mut Coverage, logs: bool) -> World<'a> {
        let mut chance = Chance(start);
        let branches = [1, 1, 2, 2, 3][chance.below(5)];
        let plan = Plan {
            branches,
            late: chance.one_in(4),
            removes_on_cancel: chance.one_in(8),
            tags_of_bye: chance.one_in(2),
        };
        let mut supply = Supply {
            streams: 0,
            ports: 4000,
        };
        let mut callers: Vec<Half> = (0..branches)
            .map(|branch| Half::new(Side::Caller, branch, 1))
            .collect();
        let callees = (0..branches)
            .map(|branch| Half::new(Side::Callee, branch, [0, 1, 50][chance.below(3)]))
            .collect();
        let sdp = if plan.late {
            Vec::new()
        } else {
            callers[0].first_offer(&mut supply, &mut chance)
        };
        for half in &mut callers {
            half.my_invite = Some(Invite {
                cseq: 1,
                opening: true,
                exchanged: false,
                cancelled: false,
            });
            if !plan.late {
                half.offer = Offer::Sent(What::Invite, 1, sdp.clone());
            }
        }
        let mut lab = Lab::with(Settings {
            setup_timeout: Duration::from_secs(2000),
            routable_private_ranges: vec!["198.18.0.0/15".parse().unwrap()],
            // A line at 0.0.0.0 names nobody, and what else speaks for a phone is not the subject here.
            ..open()
        });
        // Of the quarter of a million steps of all flows, a thousand.
        lab.shadow_every = 199;
        let mut world = World {
            lab,
            supply,
            halves: [callers, callees],
            sent: Vec::new(),
            air: Vec::new(),
            seen: vec![Seen::default(); branches],
            refused: vec![false; branches],
            winner: None,
            ringing: None,
            spoke: [false; 3],
            tagged: [false; 3],
            early: [false; 3],
            last_spoke: 0,
            glare: false,
            unknown: false,
            clean: true,
            begun: false,
            ended: false,
            cut: false,
            ports: HashMap::new(),
            loose: BTreeSet::new(),
            last_sdp: 0,
            sounded: false,
            log: logs.then(Vec::new),
            coverage,
            plan,
        };
        world.send(Message {
            what: What::Invite,
            from: Side::Caller,
            branch: 0,
            cseq: 1,
            opening: true,
            role: if sdp.is_empty() {
                Role::Nothing
            } else {
                Role::Offer
            },
            sdp,
        });
        world
    }

    pub(super) fn note(&mut self, words: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(words());
        }
    }

    /// Several branches have sent an SDP while it rang.
    pub(super) fn is_forked(&self) -> bool {
        self.spoke.iter().filter(|&&spoke| spoke).count() > 1
    }

    pub(super) fn half(&self, side: Side, branch: usize) -> &Half {
        &self.halves[side as usize][branch]
    }

    fn send(&mut self, message: Message) {
        let id = self.sent.len();
        let branch = message.branch;
        let repeats = usize::from(message.role != Role::Nothing || message.what == What::Ok);
        self.sent.push(Sent {
            message,
            passed: 0,
            repeats,
            told: Vec::new(),
            received: [false; 3],
        });
        self.air.push(Flight {
            id,
            branch,
            to_proxy: true,
        });
    }

    // What can happen next.

    /// Another dialog of the same call has offers that wait, while nobody has answered the call: which of them a message
    /// without a tag belongs to could not be known.
    fn is_busy_elsewhere(&self, branch: usize) -> bool {
        let others = (0..self.plan.branches).filter(|&other| other != branch);
        self.winner.is_none()
            && others.into_iter().any(|other| {
                let halves = [Side::Caller, Side::Callee].map(|side| self.half(side, other));
                halves.iter().any(|half| {
                    let waits = match half.offer {
                        Offer::None => false,
                        Offer::Sent(what, ..) | Offer::Got(what, ..) => what != What::Invite,
                    };
                    waits && !half.over
                })
            })
    }

    /// What this phone owes in a request has passed the proxy: else its next offer would be taken for that.
    fn is_settled(&self, side: Side, branch: usize) -> bool {
        let mut owed = self.air.iter().map(|flight| &self.sent[flight.id]);
        !owed.any(|sent| {
            let m = &sent.message;
            let owed = m.what.is_request() && m.role == Role::Answer && sent.passed == 0;
            owed && m.from == side && m.branch == branch
        })
    }

    /// Another dialog has been answered, as far as this phone knows.
    fn is_lost(&self, side: Side, branch: usize) -> bool {
        let mut callers = self.halves[Side::Caller as usize].iter();
        side == Side::Caller && callers.any(|half| half.confirmed && half.branch != branch)
    }

    fn acts(&self) -> Vec<(Act, u64)> {
        let mut acts = Vec::new();
        for slot in 0..self.air.len().min(3) {
            acts.push((Act::Carry(slot), [12, 4, 2][slot]));
            let flight = &self.air[slot];
            if !flight.to_proxy && self.sent[flight.id].repeats > 0 {
                acts.push((Act::Lose(slot), 1));
            }
        }
        let recent = self.sent.len().saturating_sub(10);
        for (id, sent) in self.sent.iter().enumerate().skip(recent) {
            if sent.repeats > 0 && sent.passed > 0 {
                acts.push((Act::Repeat(id), 1));
            }
        }
        acts.push((Act::Listen, 3));
        if !self.sounded && self.winner.is_none() {
            acts.push((Act::RingLong, 1));
        }
        let is_calling = |half: &Half| {
            let invite = half.my_invite.filter(|invite| invite.opening);
            half.over || invite.is_some_and(|invite| !invite.cancelled)
        };
        if self.sent[0].passed > 0 && self.halves[0].iter().all(is_calling) {
            acts.push((Act::CancelCall, 1));
        }
        for branch in 0..self.plan.branches {
            for side in [Side::Caller, Side::Callee] {
                self.acts_of(self.half(side, branch), &mut acts);
            }
        }
        acts
    }

    fn acts_of(&self, half: &Half, acts: &mut Vec<(Act, u64)>) {
        let (side, branch) = (half.me, half.branch);
        if half.over || self.is_lost(side, branch) {
            return;
        }
        let is_busy = self.is_busy_elsewhere(branch);
        if half.may_ring() {
            acts.push((Act::Ring(branch), 3));
        }
        if half.may_ring_reliably() && !(is_busy && matches!(half.offer, Offer::None)) {
            acts.push((Act::ReliableRing(branch, side), 3));
        }
        if half.may_answer() {
            acts.push((Act::Answer(branch, side), 3));
        }
        if half.may_refuse() {
            let is_opening = half.their_invite.is_some_and(|invite| invite.opening);
            acts.push((Act::Refuse(branch, side), if is_opening { 1 } else { 3 }));
        }
        if half.has_update() {
            acts.push((Act::AnswerUpdate(branch, side), 6));
            acts.push((Act::RefuseUpdate(branch, side), 3));
        }
        if self.is_settled(side, branch) && !is_busy {
            if half.may_update() {
                acts.push((Act::Update(branch, side), 3));
            }
            if half.may_reinvite() {
                acts.push((Act::Reinvite(branch, side, true), 3));
                acts.push((Act::Reinvite(branch, side, false), 1));
            }
        }
        if half.may_cancel() {
            acts.push((Act::Cancel(branch, side), 1));
        }
        if self.winner == Some(branch) && half.confirmed && !half.wait_ack {
            acts.push((Act::Bye(side), 1));
        }
    }

    /// One thing happens; which one, the number says.
    pub(super) fn step(&mut self, number: u64) -> Result<(), String> {
        if self.ended {
            return Ok(());
        }
        let score = |act: &Act, weight: u64| {
            let mut hasher = Fnv(number);
            act.hash(&mut hasher);
            // The greatest of so many equal chances, without drawing them all.
            let part = (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64;
            part.ln() / weight as f64
        };
        let acts = self.acts().into_iter();
        let best = acts
            .map(|(act, weight)| (score(&act, weight), act))
            .max_by(|(one, _), (two, _)| one.total_cmp(two));
        let (_, act) = best.expect("one can always listen");
        let mut chance = Chance(number);
        self.act(act, &mut chance)
    }

    fn act(&mut self, act: Act, chance: &mut Chance) -> Result<(), String> {
        let (branch, side) = match act {
            Act::Carry(slot) => return self.carry(slot, chance),
            Act::Lose(slot) => {
                // The sender sends it once more, and it passes the proxy once more.
                self.air[slot].to_proxy = true;
                let id = self.air[slot].id;
                self.sent[id].repeats -= 1;
                return Ok(());
            }
            Act::Repeat(id) => {
                self.sent[id].repeats -= 1;
                let branch = self.sent[id].message.branch;
                self.air.push(Flight {
                    id,
                    branch,
                    to_proxy: true,
                });
                return Ok(());
            }
            Act::Listen => {
                self.settle(chance)?;
                return self.listen();
            }
            Act::RingLong => {
                self.note(|| "(100 s pass, no media)".into());
                self.lab.pass(100);
                let alive = self.lab.engine.sessions().live_count() > 0;
                return if self.begun && !self.cut && !alive {
                    Err("the call ended while it rang".into())
                } else {
                    Ok(())
                };
            }
            Act::CancelCall => {
                self.send(Message {
                    what: What::Cancel,
                    from: Side::Caller,
                    branch: 0,
                    cseq: 1,
                    opening: true,
                    role: Role::Nothing,
                    sdp: Vec::new(),
                });
                for half in &mut self.halves[0] {
                    half.my_invite.iter_mut().for_each(|i| i.cancelled = true);
                }
                return Ok(());
            }
            Act::Bye(side) => (self.winner.expect("answered"), side),
            Act::Ring(branch) => (branch, Side::Callee),
            Act::ReliableRing(branch, side)
            | Act::Answer(branch, side)
            | Act::Refuse(branch, side)
            | Act::AnswerUpdate(branch, side)
            | Act::RefuseUpdate(branch, side)
            | Act::Update(branch, side)
            | Act::Reinvite(branch, side, _)
            | Act::Cancel(branch, side) => (branch, side),
        };
        let half = &mut self.halves[side as usize][branch];
        let supply = &mut self.supply;
        let message = match act {
            Act::Ring(_) => half.ring(supply, chance),
            Act::ReliableRing(..) => half.ring_reliably(supply, chance),
            Act::Answer(..) => half.answer_invite(supply, chance),
            Act::Refuse(..) => half.refuse(),
            Act::AnswerUpdate(..) => half.answer_update(supply, chance),
            Act::RefuseUpdate(..) => half.refuse_update(),
            Act::Update(..) => half.update(supply, chance),
            Act::Reinvite(_, _, offers) => half.reinvite(offers, supply, chance),
            Act::Cancel(..) => half.cancel(),
            _ => half.bye(),
        };
        self.send(message);
        Ok(())
    }

    /// All that is under way arrives, in order.
    pub(super) fn settle(&mut self, chance: &mut Chance) -> Result<(), String> {
        while !self.air.is_empty() && !self.ended {
            self.carry(0, chance)?;
        }
        Ok(())
    }

    fn carry(&mut self, slot: usize, chance: &mut Chance) -> Result<(), String> {
        let flight = self.air.remove(slot);
        if flight.to_proxy {
            return self.pass(flight.id);
        }
        let Flight { id, branch, .. } = flight;
        if std::mem::replace(&mut self.sent[id].received[branch], true) {
            return Ok(());
        }
        let message = self.sent[id].message.clone();
        let side = message.from.other();
        if message.what == What::Cancel && message.opening && !self.sent[0].received[branch] {
            // The proxy waits until the branch has shown that it has the INVITE (RFC 3261 section 9.1).
            self.sent[id].received[branch] = false;
            self.air.push(flight);
            return Ok(());
        }
        self.note(|| {
            let name = tag(branch, side);
            format!("    {name} gets {:?} {}", message.what, message.cseq)
        });
        let is_late = message.what == What::Ok && message.opening && self.winner != Some(branch);
        if self.is_lost(side, branch) && !is_late {
            return Ok(());
        }
        let told = self.sent[id].told.clone();
        let may_offer = !self.is_busy_elsewhere(branch);
        let half = &mut self.halves[side as usize][branch];
        half.may_offer_in_prack = may_offer;
        if message.opening && message.what == What::Refuse {
            half.over = true;
            return Ok(());
        }
        if is_late {
            half.offer = Offer::None;
        }
        let reply = half.receive(&message, &told, &mut self.supply, chance);
        let bye = (is_late && reply.is_some()).then(|| half.bye());
        if is_late {
            half.confirmed = false;
            half.over = true;
        }
        if let Some(reply) = reply {
            self.send(reply);
        }
        if let Some(bye) = bye {
            self.send(bye);
        }
        Ok(())
    }

    // The proxy.

    fn forward(&mut self, id: usize, branch: usize) {
        self.air.push(Flight {
            id,
            branch,
            to_proxy: false,
        });
    }

    /// CANCEL to the branches that have not answered; to none of them by a phone.
    fn cancel_branches(&mut self, but: Option<usize>) {
        for branch in 0..self.plan.branches {
            if self.refused[branch] || Some(branch) == but {
                continue;
            }
            let mut message = self.sent[0].message.clone();
            (message.what, message.branch) = (What::Cancel, branch);
            (message.role, message.sdp) = (Role::Nothing, Vec::new());
            let id = self.sent.len();
            self.send(message);
            self.air.pop();
            self.sent[id].passed = 1;
            self.forward(id, branch);
        }
    }

    fn pass(&mut self, id: usize) -> Result<(), String> {
        let message = self.sent[id].message.clone();
        let (branch, what) = (message.branch, message.what);
        self.sent[id].passed += 1;
        let again = self.sent[id].passed > 1;
        self.watch(&message, again);
        match what {
            What::Refuse if message.opening => {
                self.note(|| format!("{} refuses the call", tag(branch, Side::Callee)));
                self.refused[branch] = true;
                if self.winner.is_none() && !self.refused.contains(&false) {
                    self.ended = true;
                    return self.remove(CALLER_TAG, "", self.begun);
                }
                return Ok(());
            }
            What::Cancel if message.opening => {
                self.note(|| "the caller cancels the call".into());
                if self.winner.is_some() {
                    return Ok(());
                }
                self.cancel_branches(None);
                if self.plan.removes_on_cancel {
                    self.cut = true;
                    self.lab.remove(CALLER_TAG, "");
                }
                return Ok(());
            }
            What::Bye => {
                let mut tags = (CALLER_TAG, TAGS[branch]);
                if self.plan.tags_of_bye && message.from == Side::Callee {
                    tags = (tags.1, tags.0);
                }
                self.forward(id, branch);
                return self.remove(tags.0, tags.1, self.winner == Some(branch));
            }
            What::Ok if message.opening && self.winner.is_none() => {
                self.winner = Some(branch);
                self.cancel_branches(Some(branch));
                let others = (0..3).any(|other| other != branch && self.spoke[other]);
                let last = self.tagged[branch] && self.last_spoke == branch;
                // Its 183 is told from those of others by where it came from.
                let early = self.early[branch] && !self.tagged[branch];
                let known = message.role != Role::Nothing || last || early;
                self.unknown = others && !known;
                if others {
                    self.ports.clear();
                }
            }
            _ => {}
        }
        if message.role != Role::Nothing || what == What::Ok {
            self.update(id, again)?;
        } else {
            self.note(|| {
                let name = tag(branch, message.from);
                format!("{name}: {what:?} {}", message.cseq)
            });
        }
        if what == What::Invite && message.opening {
            (0..self.plan.branches).for_each(|branch| self.forward(id, branch));
        } else {
            self.forward(id, branch);
        }
        Ok(())
    }

    /// Notes what a message means for what waits and counts in its dialog.
    fn watch(&mut self, message: &Message, again: bool) {
        let Message {
            what, role, branch, ..
        } = *message;
        let words = self.seen[branch].words();
        let event = format!(
            "{} {what:?}{}{}",
            match message.from {
                Side::Caller => "caller",
                Side::Callee => "callee",
            },
            match role {
                Role::Nothing => String::new(),
                role => format!(" {role:?}"),
            },
            if again { " once more" } else { "" }
        );
        self.coverage.insert((words, event));
        let is_opening_invite = message.opening && what == What::Invite;
        let callee_spoke = message.from == Side::Callee && role != Role::Nothing;
        if self.winner.is_none() && (callee_spoke || role == Role::Answer) {
            let is_new = !std::mem::replace(&mut self.spoke[branch], true);
            let one = self.spoke.iter().filter(|&&spoke| spoke).count() == 1;
            let has_tag = !message.opening && !what.is_provisional();
            self.tagged[branch] |= has_tag && role == Role::Answer;
            self.early[branch] |= what == What::ReliableRing && role == Role::Answer;
            let mixed = self.tagged.contains(&true) || self.plan.late;
            let stays = self.ringing == Some(branch) && !again;
            self.ringing = (one || (!mixed && (is_new || stays))).then_some(branch);
            if role != Role::Offer && !again {
                self.last_spoke = branch;
            }
        }
        if again {
            return;
        }
        let requester = message.requester() as usize;
        let range = if is_opening_invite {
            0..self.plan.branches
        } else {
            branch..branch + 1
        };
        for seen in &mut self.seen[range] {
            match role {
                Role::Offer if what.is_request() => seen.request[requester] = true,
                Role::Offer => seen.reply = Some(message.from),
                Role::Preview => seen.agreed = true,
                Role::Answer => {
                    if what.is_request() {
                        seen.reply = None
                    } else {
                        seen.request[requester] = false
                    }
                    seen.agreed = true;
                }
                Role::Again | Role::Nothing => {}
            }
            match what {
                What::Refuse | What::RefuseUpdate => seen.request[requester] = false,
                What::Ok => seen.answered = true,
                _ => {}
            }
        }
        if role == Role::Offer {
            self.clean = false;
            self.glare |= self.seen[branch].request == [true; 2];
        } else if role == Role::Answer && self.winner.is_none_or(|winner| winner == branch) {
            // What a provisional answer rejects is kept until the final one (C4).
            // Nor can it be known that the other offer of a glare was refused before.
            let was_glare = std::mem::take(&mut self.glare);
            self.clean = !self.seen[branch].is_waiting() && !what.is_provisional() && !was_glare;
            if self.winner.is_some() && std::mem::take(&mut self.unknown) {
                self.ports.clear();
            }
        }
    }

    /// Tells the relay of a message, as the mediaproxy module words it, and puts the relay's ports into the SDP.
    fn update(&mut self, id: usize, again: bool) -> Result<(), String> {
        let message = self.sent[id].message.clone();
        let (branch, requester) = (message.branch, message.requester());
        let kind = if message.what.is_request() {
            "request"
        } else {
            "reply"
        };
        let is_first = message.opening && message.what == What::Invite;
        let to_tag = if is_first || message.what.is_provisional() {
            ""
        } else {
            tag(branch, requester.other())
        };
        let tags = (tag(branch, requester), to_tag);
        let phone = match message.from {
            Side::Caller => 0,
            Side::Callee => branch + 1,
        };
        let mut more = format!("signaling_ip: 198.18.{phone}.1\r\n");
        let media = media(&message.sdp);
        if !message.sdp.is_empty() {
            more += &format!("media: {media}\r\n");
        }
        let reply = self.lab.update_with(kind, message.cseq, tags, &more);
        self.note(|| {
            let again = if again { " (once more)" } else { "" };
            let (from, to) = tags;
            let who = tag(branch, message.from);
            format!(
                "{who}: {:?} {:?}{again}: {kind} cseq {} {from}/{to} {media} -> {reply}",
                message.what, message.role, message.cseq
            )
        });
        self.begun |= !message.sdp.is_empty();
        let told = match reply {
            UpdateReply::Ports(_, ports) => ports,
            other if self.cut => {
                let _ = other;
                vec![0; message.sdp.len()]
            }
            other => return Err(format!("the relay refuses: {other}")),
        };
        if !self.cut {
            self.check_told(id, &message, &told, again)?;
        }
        if !again || self.sent[id].told.is_empty() {
            self.sent[id].told = told;
        }
        Ok(())
    }

    /// A port for each line that is on, none for others, and always the same for the same stream.
    fn check_told(
        &mut self,
        id: usize,
        message: &Message,
        told: &[u16],
        again: bool,
    ) -> Result<(), String> {
        if message.sdp.is_empty() {
            return Ok(());
        }
        if told.len() != message.sdp.len() {
            return Err(format!("{} lines, {told:?}", message.sdp.len()));
        }
        if again {
            let same = self.last_sdp != id || self.sent[id].told == told;
            return if same {
                Ok(())
            } else {
                Err(format!("a repeated message had {:?}", self.sent[id].told))
            };
        }
        self.last_sdp = id;
        let is_lost = self.winner.is_some_and(|winner| winner != message.branch);
        if is_lost || self.unknown {
            return Ok(());
        }
        let is_mixed = self.winner.is_none()
            && self.is_forked()
            && (self.plan.late || self.tagged.contains(&true) || !message.opening);
        // An offer that overtakes its sender's answer builds on what the relay has not heard of; so does one of a branch whose
        // place another has had since.
        let is_overtaking = message.role == Role::Offer
            && self.air.iter().any(|flight| {
                let Sent {
                    message: m, passed, ..
                } = &self.sent[flight.id];
                let same = (m.from, m.branch) == (message.from, message.branch);
                same && *passed == 0 && m.role == Role::Answer
            });
        if is_overtaking || (is_mixed && message.role == Role::Offer) {
            let on = message.sdp.iter().filter(|line| line.is_on());
            self.loose.extend(on.map(|line| line.stream));
        }
        let towards = message.from.other() as usize;
        for (line, &port) in message.sdp.iter().zip(told) {
            if line.is_on() != (port != 0) {
                return Err(format!("{} {:?} is told port {port}", line.kind, line.at));
            }
            if !line.is_on() || is_mixed || self.loose.contains(&line.stream) {
                continue;
            }
            let had = &mut self.ports.entry(line.stream).or_default()[towards];
            match *had {
                Some(had) if had != port => {
                    let (kind, at) = (line.kind, line.at);
                    return Err(format!("{kind} {at} had port {had} and is told {port}"));
                }
                _ => *had = Some(port),
            }
        }
        Ok(())
    }

    fn remove(&mut self, from_tag: &str, to_tag: &str, ends: bool) -> Result<(), String> {
        let known = self.lab.remove(from_tag, to_tag);
        self.note(|| format!("remove {from_tag}/{to_tag} -> {known}"));
        self.ended |= ends;
        if self.cut {
            return Ok(());
        }
        match (known, ends) {
            (true, false) => Err("a remove ended a call that is not its own".into()),
            (false, true) => Err("a remove was for no call".into()),
            _ => Ok(()),
        }
    }

    /// Hangs up, or gives up.
    pub(super) fn finish(&mut self, chance: &mut Chance) -> Result<(), String> {
        self.settle(chance)?;
        self.listen()?;
        if self.ended {
            return Ok(());
        }
        let act = match self.winner {
            Some(_) if chance.one_in(2) => Act::Bye(Side::Caller),
            Some(_) => Act::Bye(Side::Callee),
            None => Act::CancelCall,
        };
        self.act(act, chance)?;
        self.settle(chance)
    }
}
