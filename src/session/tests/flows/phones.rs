//! What phones do: one party's half of one dialog, written from the RFCs alone (3261 for dialogs and glare, 3262 for PRACK, 3264
//! and 6337 for offers and answers, 3311 for UPDATE, 6141 for re-INVITEs). Knows nothing of a relay: it is told ports.

use std::net::SocketAddr;

/// Numbers by chance, the same for the same seed (splitmix64).
#[derive(Clone)]
pub(super) struct Chance(pub u64);

impl Chance {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True once in so many times.
    pub(super) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Caller,
    Callee,
}

impl Side {
    pub(super) fn other(self) -> Side {
        match self {
            Side::Caller => Side::Callee,
            Side::Callee => Side::Caller,
        }
    }
}

/// The side of its writer, as in SDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    pub(super) fn sends(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }

    pub(super) fn receives(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::RecvOnly)
    }

    fn of(sends: bool, receives: bool) -> Direction {
        match (sends, receives) {
            (true, true) => Direction::SendRecv,
            (true, false) => Direction::SendOnly,
            (false, true) => Direction::RecvOnly,
            (false, false) => Direction::Inactive,
        }
    }
}

/// One m= line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The stream that it means, from offer to offer for as long as its offerer changes nothing of its address; 0 where it is off.
    pub stream: u32,
    pub kind: &'static str,
    /// Where its writer sends from and receives; stays when it is off.
    pub at: SocketAddr,
    pub direction: Direction,
    /// The address is hidden, as a hold of RFC 2543 does.
    pub hidden: bool,
}

impl Line {
    pub(super) fn is_on(&self) -> bool {
        self.stream != 0
    }
}

pub(super) type Sdp = Vec<Line>;

/// What two phones agreed on, as one of them sees it.
#[derive(Clone, Debug)]
pub(super) struct Agreed {
    pub mine: Sdp,
    /// Where to send to, a port for each line.
    pub told: Vec<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum What {
    Invite,
    Ring,
    ReliableRing,
    Ok,
    Refuse,
    Ack,
    Prack,
    PrackOk,
    Update,
    UpdateOk,
    RefuseUpdate,
    Cancel,
    Bye,
}

impl What {
    pub(super) fn is_request(self) -> bool {
        use What::{Ack, Bye, Cancel, Invite, Prack, Update};
        matches!(self, Invite | Ack | Prack | Update | Cancel | Bye)
    }

    pub(super) fn is_provisional(self) -> bool {
        matches!(self, What::Ring | What::ReliableRing)
    }
}

/// What an SDP is to its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Role {
    Offer,
    /// The answer before it counts, in a reply that is not reliable.
    Preview,
    Answer,
    /// The answer once more, in a later reply.
    Again,
    /// There is none.
    Nothing,
}

#[derive(Clone, Debug)]
pub(super) struct Message {
    pub what: What,
    pub from: Side,
    pub branch: usize,
    /// The request's, in replies too.
    pub cseq: u32,
    /// It belongs to the INVITE that opens the call.
    pub opening: bool,
    pub role: Role,
    pub sdp: Sdp,
}

impl Message {
    /// Whose request it is or belongs to.
    pub(super) fn requester(&self) -> Side {
        if self.what.is_request() {
            self.from
        } else {
            self.from.other()
        }
    }
}

/// The offer that waits for its answer.
#[derive(Clone, Debug)]
pub(super) enum Offer {
    None,
    /// Mine, in a message of this kind and number.
    Sent(What, u32, Sdp),
    /// The other's, and the ports that I was told with it.
    Got(What, u32, Sdp, Vec<u16>),
}

/// An INVITE without a final answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Invite {
    pub cseq: u32,
    pub opening: bool,
    /// There was an offer with it and its answer, for good.
    pub exchanged: bool,
    pub cancelled: bool,
}

/// What all phones of a call have in common: names for streams, ports of their own.
pub(super) struct Supply {
    pub streams: u32,
    pub ports: u16,
}

impl Supply {
    fn stream(&mut self) -> u32 {
        self.streams += 1;
        self.streams
    }

    /// An address of a phone that it never had before.
    fn address(&mut self, phone: u8, chance: &mut Chance) -> SocketAddr {
        self.ports += 2;
        let host = 1 + u8::from(chance.one_in(3));
        SocketAddr::new([198, 18, phone, host].into(), self.ports)
    }
}

const KINDS: [&str; 5] = ["audio", "video", "image", "application", "text"];

/// One phone's half of a dialog.
pub(super) struct Half {
    pub me: Side,
    pub branch: usize,
    pub agreed: Option<Agreed>,
    pub offer: Offer,
    /// Of my latest request.
    pub cseq: u32,
    pub my_invite: Option<Invite>,
    pub their_invite: Option<Invite>,
    /// My 200 was not acknowledged.
    pub wait_ack: bool,
    /// My reliable reply was not acknowledged.
    pub wait_prack: bool,
    /// The answer that I gave in a reply that was not the last one.
    given: Option<Sdp>,
    /// My offer that was refused, and the streams that were agreed then.
    refused: Option<(Sdp, Vec<u32>)>,
    pub confirmed: bool,
    pub over: bool,
    /// The next PRACK may carry an offer.
    pub may_offer_in_prack: bool,
}

fn streams(sdp: &Sdp) -> Vec<u32> {
    sdp.iter().map(|line| line.stream).collect()
}

impl Half {
    pub(super) fn new(me: Side, branch: usize, cseq: u32) -> Half {
        Half {
            me,
            branch,
            agreed: None,
            offer: Offer::None,
            cseq,
            my_invite: None,
            their_invite: None,
            wait_ack: false,
            wait_prack: false,
            given: None,
            refused: None,
            confirmed: false,
            over: false,
            may_offer_in_prack: true,
        }
    }

    fn phone(&self) -> u8 {
        match self.me {
            Side::Caller => 0,
            Side::Callee => 1 + self.branch as u8,
        }
    }

    fn message(&self, what: What, cseq: u32, sdp: Option<(Role, Sdp)>) -> Message {
        let (role, sdp) = sdp.unwrap_or((Role::Nothing, Vec::new()));
        Message {
            what,
            from: self.me,
            branch: self.branch,
            cseq,
            opening: false,
            role,
            sdp,
        }
    }

    // SDPs (RFC 3264).

    /// The first one that a phone writes.
    pub(super) fn first_offer(&self, supply: &mut Supply, chance: &mut Chance) -> Sdp {
        let count = 1 + chance.below(3);
        let mut sdp = Vec::new();
        for index in 0..count {
            let kind = if index == 0 { 0 } else { chance.below(5) };
            let mut line = self.fresh_line(KINDS[kind], supply, chance);
            if index > 0 && chance.one_in(8) {
                line.stream = 0;
            }
            sdp.push(line);
        }
        sdp
    }

    fn fresh_line(&self, kind: &'static str, supply: &mut Supply, chance: &mut Chance) -> Line {
        Line {
            stream: supply.stream(),
            kind,
            at: supply.address(self.phone(), chance),
            direction: Direction::SendRecv,
            hidden: false,
        }
    }

    /// The next one: all that may change, seldom much at once.
    fn next_offer(&mut self, supply: &mut Supply, chance: &mut Chance) -> Sdp {
        let Some(agreed) = &self.agreed else {
            return self.first_offer(supply, chance);
        };
        let old = agreed.mine.clone();
        if let Some((refused, then)) = self.refused.take()
            && then == streams(&old)
            && refused.iter().all(|line| {
                let kept = old.iter().find(|o| o.is_on() && o.stream == line.stream);
                kept.is_none_or(|kept| kept.at == line.at)
            })
            && chance.one_in(2)
        {
            // The same once more: to everybody else its new streams are new again.
            let mut sdp = refused;
            let new = |line: &&mut Line| line.is_on() && !then.contains(&line.stream);
            sdp.iter_mut()
                .filter(new)
                .for_each(|line| line.stream = supply.stream());
            return sdp;
        }
        let mut sdp = old.clone();
        if chance.one_in(3) {
            return sdp;
        }
        for line in &mut sdp {
            match (line.is_on(), chance.below(20)) {
                (true, 0..2) => line.stream = 0,
                (true, 2..4) => {
                    let kind = line.kind;
                    *line = self.fresh_line(kind, supply, chance);
                }
                (true, 4..7) => {
                    line.direction = Direction::of(chance.one_in(2), chance.one_in(3));
                }
                (true, 7) => line.hidden = true,
                (true, 8..14) => {
                    line.direction = Direction::SendRecv;
                    line.hidden = false;
                }
                (false, 0..4) => {
                    line.stream = supply.stream();
                    line.hidden = false;
                    line.direction = Direction::SendRecv;
                    if chance.one_in(2) {
                        line.at = supply.address(self.phone(), chance);
                    }
                }
                _ => {}
            }
        }
        if sdp.len() < 4 && chance.one_in(8) {
            let kind = KINDS[chance.below(5)];
            sdp.push(self.fresh_line(kind, supply, chance));
        }
        // RFC 3264 has neither of these; phones do them.
        let is_kept = |line: &Line| line.is_on() && old.iter().any(|o| o.stream == line.stream);
        if sdp.len() > 1 && chance.one_in(16) {
            let (one, two) = (0, 1 + chance.below(sdp.len() - 1));
            if sdp[one].kind != sdp[two].kind && is_kept(&sdp[one]) && is_kept(&sdp[two]) {
                sdp.swap(one, two);
            }
        }
        if sdp.len() > 1 && chance.one_in(24) {
            sdp.pop();
        }
        sdp
    }

    fn answer_to(&self, offer: &Sdp, supply: &mut Supply, chance: &mut Chance) -> Sdp {
        if let Some(given) = &self.given {
            return given.clone();
        }
        let old: &[Line] = self.agreed.as_ref().map_or(&[], |agreed| &agreed.mine);
        let mut sdp = Vec::new();
        for (index, offered) in offer.iter().enumerate() {
            let kept = old.iter().find(|o| o.is_on() && o.stream == offered.stream);
            let beside = old.get(index).filter(|o| o.kind == offered.kind);
            let mut line = match kept.or(beside.filter(|_| !chance.one_in(4))) {
                Some(line) if !chance.one_in(12) => line.clone(),
                _ => self.fresh_line(offered.kind, supply, chance),
            };
            let is_rejected = match kept {
                Some(_) => chance.one_in(16),
                None => chance.one_in(6),
            };
            line.stream = if is_rejected { 0 } else { offered.stream };
            line.hidden = kept.is_some_and(|kept| kept.at == line.at) && chance.one_in(20);
            line.direction = match chance.below(5) {
                0 => Direction::of(
                    offered.direction.receives() && chance.one_in(2),
                    offered.direction.sends() && chance.one_in(2),
                ),
                _ => Direction::of(offered.direction.receives(), offered.direction.sends()),
            };
            sdp.push(line);
        }
        sdp
    }

    /// My SDP and the other's have met. What one of them has off is off.
    fn agree(&mut self, mut mine: Sdp, theirs: &Sdp, told: &[u16]) {
        for (line, other) in mine.iter_mut().zip(theirs) {
            if !other.is_on() {
                line.stream = 0;
            }
        }
        let told = told.to_vec();
        self.agreed = Some(Agreed { mine, told });
    }

    /// Answers the offer that waits; it no longer does.
    fn answer(&mut self, supply: &mut Supply, chance: &mut Chance) -> Option<(Role, Sdp)> {
        let Offer::Got(_, _, offer, told) = std::mem::replace(&mut self.offer, Offer::None) else {
            return None;
        };
        let sdp = self.answer_to(&offer, supply, chance);
        self.given = None;
        self.agree(sdp.clone(), &offer, &told);
        Some((Role::Answer, sdp))
    }

    /// The answer to my offer came.
    fn answered(&mut self, theirs: &Sdp, told: &[u16]) {
        if let Offer::Sent(_, _, mine) = std::mem::replace(&mut self.offer, Offer::None) {
            self.agree(mine, theirs, told);
        }
    }

    fn is_sent(&self, what: What, number: u32) -> bool {
        matches!(self.offer, Offer::Sent(w, n, _) if w == what && n == number)
    }

    /// My offer was refused: all is as it was.
    fn was_refused(&mut self, what: What, number: u32) {
        if !self.is_sent(what, number) {
            return;
        }
        if let Offer::Sent(_, _, sdp) = std::mem::replace(&mut self.offer, Offer::None) {
            let then = self.agreed.as_ref().map(|agreed| streams(&agreed.mine));
            self.refused = then.map(|then| (sdp, then));
        }
    }

    // What a phone does of its own accord. Each says first when it may.

    fn is_quiet(&self) -> bool {
        let open = |invite: &Option<Invite>| invite.is_some_and(|invite| !invite.exchanged);
        !self.over
            && self.agreed.is_some()
            && matches!(self.offer, Offer::None)
            && !open(&self.my_invite)
            && !open(&self.their_invite)
            && !self.wait_prack
            && !self.wait_ack
    }

    /// RFC 3311 section 5.1, in an early dialog and later.
    pub(super) fn may_update(&self) -> bool {
        self.is_quiet()
    }

    pub(super) fn update(&mut self, supply: &mut Supply, chance: &mut Chance) -> Message {
        let sdp = self.next_offer(supply, chance);
        self.given = None;
        self.cseq += 1;
        self.offer = Offer::Sent(What::Update, self.cseq, sdp.clone());
        self.message(What::Update, self.cseq, Some((Role::Offer, sdp)))
    }

    /// RFC 3261 section 14.1.
    pub(super) fn may_reinvite(&self) -> bool {
        self.is_quiet() && self.confirmed && self.my_invite.is_none() && self.their_invite.is_none()
    }

    pub(super) fn reinvite(
        &mut self,
        offers: bool,
        supply: &mut Supply,
        chance: &mut Chance,
    ) -> Message {
        self.cseq += 1;
        self.my_invite = Some(Invite {
            cseq: self.cseq,
            opening: false,
            exchanged: false,
            cancelled: false,
        });
        self.given = None;
        if !offers {
            return self.message(What::Invite, self.cseq, None);
        }
        let sdp = self.next_offer(supply, chance);
        self.offer = Offer::Sent(What::Invite, self.cseq, sdp.clone());
        self.message(What::Invite, self.cseq, Some((Role::Offer, sdp)))
    }

    pub(super) fn may_cancel(&self) -> bool {
        let mine = self.my_invite;
        !self.over && mine.is_some_and(|invite| !invite.opening && !invite.cancelled)
    }

    pub(super) fn cancel(&mut self) -> Message {
        let invite = self.my_invite.as_mut().expect("may cancel");
        invite.cancelled = true;
        let cseq = invite.cseq;
        self.message(What::Cancel, cseq, None)
    }

    pub(super) fn bye(&mut self) -> Message {
        self.over = true;
        self.cseq += 1;
        self.message(What::Bye, self.cseq, None)
    }

    /// An answer that may yet be another branch's affair: RFC 6337 section 3.1.1.
    pub(super) fn may_ring(&self) -> bool {
        let opening = self.their_invite.is_some_and(|invite| invite.opening);
        !self.over && opening && matches!(self.offer, Offer::Got(What::Invite, ..))
    }

    pub(super) fn ring(&mut self, supply: &mut Supply, chance: &mut Chance) -> Message {
        let Offer::Got(_, cseq, offer, told) = self.offer.clone() else {
            unreachable!("may ring")
        };
        let sdp = self.answer_to(&offer, supply, chance);
        self.given = Some(sdp.clone());
        self.agree(sdp.clone(), &offer, &told);
        self.reply(What::Ring, cseq, true, Some((Role::Preview, sdp)))
    }

    fn reply(&self, what: What, cseq: u32, opening: bool, sdp: Option<(Role, Sdp)>) -> Message {
        Message {
            opening,
            ..self.message(what, cseq, sdp)
        }
    }

    /// RFC 3262: with the answer, or the offer where the INVITE had none.
    pub(super) fn may_ring_reliably(&self) -> bool {
        self.may_answer() && self.their_invite.is_some_and(|invite| !invite.exchanged)
    }

    pub(super) fn ring_reliably(&mut self, supply: &mut Supply, chance: &mut Chance) -> Message {
        let invite = self.their_invite.as_mut().expect("may ring reliably");
        let (cseq, opening) = (invite.cseq, invite.opening);
        self.wait_prack = true;
        let sdp = if let Offer::Got(..) = self.offer {
            invite.exchanged = true;
            let answer = self.answer(supply, chance);
            self.given = answer.as_ref().map(|(_, sdp)| sdp.clone());
            answer
        } else {
            let sdp = self.next_offer(supply, chance);
            self.offer = Offer::Sent(What::ReliableRing, cseq, sdp.clone());
            Some((Role::Offer, sdp))
        };
        self.reply(What::ReliableRing, cseq, opening, sdp)
    }

    /// 200 to an INVITE.
    pub(super) fn may_answer(&self) -> bool {
        let free = matches!(self.offer, Offer::None | Offer::Got(What::Invite, ..));
        !self.over && self.their_invite.is_some() && free && !self.wait_prack
    }

    pub(super) fn answer_invite(&mut self, supply: &mut Supply, chance: &mut Chance) -> Message {
        let invite = self.their_invite.take().expect("may answer");
        self.wait_ack = true;
        self.confirmed = true;
        let sdp = if let Offer::Got(..) = self.offer {
            self.answer(supply, chance)
        } else if !invite.exchanged {
            let sdp = self.next_offer(supply, chance);
            self.offer = Offer::Sent(What::Ok, invite.cseq, sdp.clone());
            Some((Role::Offer, sdp))
        } else {
            let given = self.given.take().filter(|_| chance.one_in(3));
            given.map(|sdp| (Role::Again, sdp))
        };
        self.reply(What::Ok, invite.cseq, invite.opening, sdp)
    }

    /// Not once the session was changed by it (RFC 6141 section 3.4); a call may be refused until it is answered.
    pub(super) fn may_refuse(&self) -> bool {
        self.may_answer() && self.their_invite.is_some_and(|i| i.opening || !i.exchanged)
    }

    pub(super) fn refuse(&mut self) -> Message {
        let invite = self.their_invite.take().expect("may refuse");
        self.offer = Offer::None;
        self.over |= invite.opening;
        self.reply(What::Refuse, invite.cseq, invite.opening, None)
    }

    pub(super) fn has_update(&self) -> bool {
        !self.over && matches!(self.offer, Offer::Got(What::Update, ..))
    }

    pub(super) fn answer_update(&mut self, supply: &mut Supply, chance: &mut Chance) -> Message {
        let Offer::Got(_, cseq, ..) = self.offer else {
            unreachable!("has an update")
        };
        let sdp = self.answer(supply, chance);
        self.message(What::UpdateOk, cseq, sdp)
    }

    pub(super) fn refuse_update(&mut self) -> Message {
        let Offer::Got(_, cseq, ..) = self.offer else {
            unreachable!("has an update")
        };
        self.offer = Offer::None;
        self.message(What::RefuseUpdate, cseq, None)
    }

    /// A message came, for the first time: what is sent at once in return.
    pub(super) fn receive(
        &mut self,
        message: &Message,
        told: &[u16],
        supply: &mut Supply,
        chance: &mut Chance,
    ) -> Option<Message> {
        if self.over {
            return None;
        }
        let Message {
            what, cseq, role, ..
        } = *message;
        let sdp = &message.sdp;
        let is_idle = matches!(self.offer, Offer::None);
        let got = |what| Offer::Got(what, cseq, sdp.clone(), told.to_vec());
        if matches!(role, Role::Offer) {
            self.given = None;
        }
        match what {
            What::Invite => {
                if !is_idle || self.my_invite.is_some() || self.their_invite.is_some() {
                    return Some(self.message(What::Refuse, cseq, None));
                }
                self.their_invite = Some(Invite {
                    cseq,
                    opening: message.opening,
                    exchanged: false,
                    cancelled: false,
                });
                if role == Role::Offer {
                    self.offer = got(What::Invite);
                }
                None
            }
            What::Ring => {
                if let Offer::Sent(What::Invite, number, mine) = &self.offer
                    && *number == cseq
                {
                    let mine = mine.clone();
                    self.agree(mine, sdp, told);
                }
                None
            }
            What::ReliableRing => {
                let invite = self.my_invite.as_mut().filter(|i| i.cseq == cseq)?;
                invite.exchanged = true;
                self.cseq += 1;
                let number = self.cseq;
                if role == Role::Offer {
                    self.offer = got(What::ReliableRing);
                    let answer = self.answer(supply, chance);
                    return Some(self.message(What::Prack, number, answer));
                }
                self.answered(sdp, told);
                if !self.may_offer_in_prack || !chance.one_in(3) {
                    return Some(self.message(What::Prack, number, None));
                }
                let sdp = self.next_offer(supply, chance);
                self.offer = Offer::Sent(What::Prack, number, sdp.clone());
                Some(self.message(What::Prack, number, Some((Role::Offer, sdp))))
            }
            What::Prack => {
                self.wait_prack = false;
                let mut answer = None;
                if role == Role::Answer {
                    if let Some(invite) = &mut self.their_invite {
                        invite.exchanged = true;
                    }
                    self.answered(sdp, told);
                } else if role == Role::Offer {
                    self.offer = got(What::Prack);
                    answer = self.answer(supply, chance);
                }
                Some(self.message(What::PrackOk, cseq, answer))
            }
            What::PrackOk => {
                if self.is_sent(What::Prack, cseq) {
                    self.answered(sdp, told);
                }
                None
            }
            What::Update => {
                // RFC 3311 section 5.2. An INVITE whose offer is still to come counts, too.
                let open = |invite: Option<Invite>| invite.is_some_and(|i| !i.exchanged);
                if !is_idle || open(self.my_invite) || open(self.their_invite) {
                    return Some(self.message(What::RefuseUpdate, cseq, None));
                }
                self.offer = got(What::Update);
                None
            }
            What::UpdateOk => {
                if self.is_sent(What::Update, cseq) {
                    self.answered(sdp, told);
                }
                None
            }
            What::RefuseUpdate => {
                self.was_refused(What::Update, cseq);
                None
            }
            What::Refuse => {
                self.my_invite.take_if(|invite| invite.cseq == cseq);
                self.was_refused(What::Invite, cseq);
                None
            }
            What::Ok => {
                let invite = self.my_invite.take_if(|invite| invite.cseq == cseq)?;
                self.confirmed = true;
                let mut answer = None;
                if role == Role::Offer && !invite.exchanged {
                    self.offer = got(What::Ok);
                    answer = self.answer(supply, chance);
                } else if self.is_sent(What::Invite, cseq) {
                    self.answered(sdp, told);
                }
                Some(self.message(What::Ack, cseq, answer))
            }
            What::Ack => {
                self.wait_ack = false;
                if self.is_sent(What::Ok, cseq) {
                    self.answered(sdp, told);
                }
                None
            }
            What::Cancel => {
                let invite = self.their_invite.filter(|i| i.cseq == cseq)?;
                if !invite.opening && (invite.exchanged || self.wait_prack) {
                    return None;
                }
                self.their_invite = None;
                if matches!(self.offer, Offer::Got(What::Invite, ..)) {
                    self.offer = Offer::None;
                }
                self.over = invite.opening;
                Some(self.reply(What::Refuse, cseq, invite.opening, None))
            }
            What::Bye => {
                self.over = true;
                None
            }
        }
    }
}
