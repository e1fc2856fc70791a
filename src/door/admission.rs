//! Who of those that come to a port may stay, and who gives way. Pure: the time and where somebody comes from are
//! passed in.
//!
//! ```text
//!  silent      has not said anything: costs a descriptor, no thread
//!  working     has, and does not belong here yet: makes its handshake
//!  inside      belongs here
//! ```
//!
//! Each of these rooms is bounded by itself. Nobody is refused for want of room: who has been there longest goes, first of
//! the origin that has most there, so that a flood closes its own connections. Origins that have proven who they are have
//! rooms of their own before they are inside, which no stranger fills.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::budget::Budget;
use super::origin::Origin;
use crate::moment::Moment;

/// Origins that are remembered as proven.
const PROVEN: usize = 1024;

/// How many may be there.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// That have said nothing: strangers, and as many again that are proven.
    pub silent: usize,
    /// That have not come in yet: strangers, and as many again that are proven.
    pub working: usize,
    pub inside: usize,
    /// How long somebody may say nothing.
    pub patience: Duration,
    /// What they begin costs: see [`Budget`].
    pub is_costly: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Silent { is_proven: bool },
    Working { is_proven: bool },
    Inside,
}

#[derive(Debug)]
struct Guest {
    origin: Origin,
    room: Room,
    /// When it came into this room; inside, when it last asked for something, zero before.
    since: Moment,
}

/// Who gives way, by its number.
pub type Loser = Option<u64>;

/// Everybody that is at one port.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    next: u64,
    guests: BTreeMap<u64, Guest>,
    /// With the time at which each was last.
    proven: HashMap<Origin, Moment>,
    budget: Budget,
}

impl Admission {
    pub fn new(limits: Limits) -> Admission {
        Admission {
            limits,
            next: 0,
            guests: BTreeMap::new(),
            proven: HashMap::new(),
            budget: Budget::default(),
        }
    }

    /// Somebody has come: its number, and who gives way.
    pub fn arrive(&mut self, origin: Origin, now: Moment) -> (u64, Loser) {
        let is_proven = self.proven.contains_key(&origin);
        let room = Room::Silent { is_proven };
        let loser = self.make_room(room, origin);
        let number = self.next;
        self.next += 1;
        let guest = Guest {
            origin,
            room,
            since: now,
        };
        self.guests.insert(number, guest);
        (number, loser)
    }

    /// It has said something, and wants what costs this host work: who gives way, or none where it has to go itself.
    pub fn begin(&mut self, number: u64, now: Moment) -> Option<Loser> {
        let mut guest = self.guests.remove(&number)?;
        let is_proven = self.proven.contains_key(&guest.origin);
        if self.limits.is_costly && !self.budget.take(guest.origin, is_proven, now) {
            return None;
        }
        guest.room = Room::Working { is_proven };
        guest.since = now;
        let loser = self.make_room(guest.room, guest.origin);
        self.guests.insert(number, guest);
        Some(loser)
    }

    /// It has proven who it is, and so has all that comes from there.
    pub fn prove(&mut self, number: u64, now: Moment) {
        let Some(origin) = self.guests.get(&number).map(|guest| guest.origin) else {
            return;
        };
        self.remember(origin, now);
        self.budget.put_back(origin);
    }

    /// Those from there are known.
    pub fn remember(&mut self, origin: Origin, now: Moment) {
        if self.proven.len() >= PROVEN && !self.proven.contains_key(&origin) {
            let oldest = self.proven.iter().min_by_key(|(_, last)| **last);
            if let Some(oldest) = oldest.map(|(origin, _)| *origin) {
                self.proven.remove(&oldest);
            }
        }
        self.proven.insert(origin, now);
    }

    /// It belongs here: who gives way.
    pub fn go_in(&mut self, number: u64) -> Loser {
        let mut guest = self.guests.remove(&number)?;
        guest.room = Room::Inside;
        guest.since = Moment::START;
        let loser = self.make_room(Room::Inside, guest.origin);
        self.guests.insert(number, guest);
        loser
    }

    /// It has asked for something.
    pub fn touch(&mut self, number: u64, now: Moment) {
        if let Some(guest) = self.guests.get_mut(&number) {
            guest.since = now;
        }
    }

    /// It has gone.
    pub fn leave(&mut self, number: u64) {
        self.guests.remove(&number);
    }

    /// Returns false where it had to give way.
    pub fn is_here(&self, number: u64) -> bool {
        self.guests.contains_key(&number)
    }

    /// When the next one will have been silent for too long.
    pub fn next_late(&self) -> Option<Moment> {
        Some(self.first_silent()?.1.since + self.limits.patience)
    }

    /// One that has been silent for too long. It is gone with that.
    pub fn take_late(&mut self, now: Moment) -> Option<u64> {
        let (number, guest) = self.first_silent()?;
        let is_late = now >= guest.since + self.limits.patience;
        is_late.then(|| {
            self.guests.remove(&number);
            number
        })
    }

    /// Numbers are given in the order in which they come.
    fn first_silent(&self) -> Option<(u64, &Guest)> {
        let mut silent = self.guests.iter();
        let found = silent.find(|(_, guest)| matches!(guest.room, Room::Silent { .. }))?;
        Some((*found.0, found.1))
    }

    /// Who would have to go before it has said anything if one more of an origin came.
    pub fn silent_loser(&self, newcomer: Origin) -> Loser {
        let is_proven = self.proven.contains_key(&newcomer);
        self.loser(Room::Silent { is_proven }, newcomer)
    }

    /// Takes out who gives way to one more of an origin, where the room is full.
    fn make_room(&mut self, room: Room, newcomer: Origin) -> Loser {
        let loser = self.loser(room, newcomer)?;
        self.guests.remove(&loser);
        Some(loser)
    }

    fn loser(&self, room: Room, newcomer: Origin) -> Loser {
        let limit = match room {
            Room::Silent { .. } => self.limits.silent,
            Room::Working { .. } => self.limits.working,
            Room::Inside => self.limits.inside,
        };
        let there = || self.guests.iter().filter(|(_, guest)| guest.room == room);
        if there().count() < limit {
            return None;
        }
        let mut shares = HashMap::from([(newcomer, 1)]);
        for (_, guest) in there() {
            *shares.entry(guest.origin).or_default() += 1;
        }
        let most = shares.values().max();
        let losers = there().filter(|(_, guest)| shares.get(&guest.origin) == most);
        losers
            .min_by_key(|(_, guest)| guest.since)
            .map(|(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        silent: 4,
        working: 3,
        inside: 2,
        patience: Duration::from_secs(10),
        is_costly: true,
    };

    fn from(text: &str) -> Origin {
        Origin::of(text.parse().unwrap())
    }

    fn at(milliseconds: u64) -> Moment {
        Moment::after_start(Duration::from_millis(milliseconds))
    }

    #[test]
    fn a_network_of_one_host_is_one_origin() {
        assert_eq!(from("::ffff:192.0.2.1"), from("192.0.2.1"));
        assert_ne!(from("192.0.2.1"), from("192.0.2.2"));
        assert_eq!(from("2001:db8:1:2::1"), from("2001:db8:1:2:ffff::9"));
        assert_ne!(from("2001:db8:1:2::1"), from("2001:db8:1:3::1"));
    }

    #[test]
    fn who_has_most_gives_way_and_of_those_the_oldest() {
        let mut door = Admission::new(LIMITS);
        let (flood, relay) = (from("192.0.2.1"), from("192.0.2.9"));
        let (first, _) = door.arrive(from("192.0.2.2"), at(0));
        let (second, _) = door.arrive(flood, at(1));
        let (third, _) = door.arrive(flood, at(2));
        let (own, loser) = door.arrive(relay, at(3));
        assert_eq!(loser, None);
        // The flood goes on: it has most, and closes its own.
        assert_eq!(door.arrive(flood, at(4)).1, Some(second));
        assert_eq!(door.arrive(flood, at(5)).1, Some(third));
        // Each has one: the oldest.
        let mut door = Admission::new(LIMITS);
        let all: Vec<u64> = (1..=4)
            .map(|n| door.arrive(from(&format!("192.0.2.{n}")), at(n)).0)
            .collect();
        assert_eq!(door.arrive(relay, at(9)).1, Some(all[0]));
        assert!(!door.is_here(all[0]) && door.is_here(all[1]));
        // Each room by itself: who has begun does not give way to who says nothing.
        assert_eq!(door.begin(all[1], at(10)), Some(None));
        for n in 0..100 {
            door.arrive(flood, at(11 + n));
        }
        assert!(door.is_here(all[1]));
        let _ = (first, own);
    }

    #[test]
    fn one_of_the_floods_own_address_has_its_time() {
        let mut door = Admission::new(LIMITS);
        let shared = from("192.0.2.1");
        for n in 0..100 {
            door.arrive(shared, at(n));
        }
        let (admin, loser) = door.arrive(shared, at(100));
        assert!(loser.is_some());
        for n in 0..3 {
            door.arrive(shared, at(101 + n));
            assert!(door.is_here(admin));
        }
        assert_eq!(door.begin(admin, at(105)), Some(None));
        door.arrive(shared, at(106));
        assert!(door.is_here(admin));
    }

    #[test]
    fn who_has_proven_something_has_a_room_of_its_own() {
        let mut door = Admission::new(LIMITS);
        let relay = from("2001:db8::1");
        let (number, _) = door.arrive(relay, at(0));
        door.begin(number, at(1));
        door.prove(number, at(2));
        door.leave(number);
        // Restarted; strangers come by the thousand, each from another address.
        let (again, _) = door.arrive(relay, at(3));
        for n in 0..10_000_u32 {
            let stranger = Origin::of(std::net::Ipv4Addr::from(n).into());
            let (number, _) = door.arrive(stranger, at(4));
            door.begin(number, at(4));
        }
        assert!(door.is_here(again));
        assert_eq!(door.begin(again, at(5)), Some(None));
        let strangers = |room| door.guests.values().filter(|g| g.room == room).count();
        assert_eq!(strangers(Room::Working { is_proven: false }), 3);
        assert_eq!(strangers(Room::Working { is_proven: true }), 1);
    }

    #[test]
    fn over_the_budget_one_has_to_go() {
        let mut door = Admission::new(LIMITS);
        let flood = from("192.0.2.1");
        let mut begun = 0;
        for _ in 0..100 {
            let (number, _) = door.arrive(flood, at(0));
            begun += usize::from(door.begin(number, at(0)).is_some());
        }
        assert_eq!((begun, door.guests.len()), (20, 3));
        let free = Limits {
            is_costly: false,
            ..LIMITS
        };
        let mut door = Admission::new(free);
        let begin = |door: &mut Admission| {
            let (number, _) = door.arrive(flood, at(0));
            door.begin(number, at(0)).is_some()
        };
        assert!((0..100).all(|_| begin(&mut door)));
    }

    #[test]
    fn inside_who_has_not_asked_for_longest_gives_way() {
        let mut door = Admission::new(LIMITS);
        let here = Origin::User(0);
        let numbers: Vec<u64> = (0..4).map(|n| door.arrive(here, at(n)).0).collect();
        assert_eq!(door.go_in(numbers[0]), None);
        assert_eq!(door.go_in(numbers[1]), None);
        door.touch(numbers[0], at(100));
        assert_eq!(door.go_in(numbers[2]), Some(numbers[1]));
        door.touch(numbers[2], at(200));
        assert_eq!(door.go_in(numbers[3]), Some(numbers[0]));
        assert_eq!(door.go_in(numbers[0]), None, "it has gone");
    }

    #[test]
    fn silence_has_an_end() {
        let mut door = Admission::new(LIMITS);
        let (first, _) = door.arrive(from("192.0.2.1"), at(0));
        let (second, _) = door.arrive(from("192.0.2.2"), at(500));
        assert_eq!(door.next_late(), Some(at(10_000)));
        assert_eq!(door.take_late(at(9_999)), None);
        assert_eq!(door.take_late(at(10_000)), Some(first));
        assert_eq!(door.take_late(at(10_000)), None);
        door.begin(second, at(10_100));
        assert_eq!(door.next_late(), None);
        assert_eq!(door.take_late(at(99_000)), None);
    }

    #[test]
    fn what_is_remembered_has_an_end() {
        let mut door = Admission::new(LIMITS);
        let origin = |n: u32| Origin::of(std::net::Ipv4Addr::from(n).into());
        for n in 0..5_000 {
            door.remember(origin(n), at(u64::from(n)));
            door.remember(origin(0), at(u64::from(n)));
        }
        assert_eq!(door.proven.len(), PROVEN);
        assert!(door.proven.contains_key(&origin(0)), "it was there lately");
        assert!(!door.proven.contains_key(&origin(1)));
    }
}
