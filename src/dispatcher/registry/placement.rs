//! Which relay gets a new call: in which order those that are there are to be asked. Pure. Another rule for choosing is
//! another function of this kind.

use std::net::IpAddr;

use super::relay_status::RelayState;
use crate::dispatcher::relay_id::LinkId;

/// A relay that a call might go to. What relays do not tell so far, such as weight and zone, has its place here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate<'a> {
    pub link: LinkId,
    pub address: IpAddr,
    /// What it calls itself, where it does.
    pub name: Option<&'a str>,
    pub state: RelayState,
    /// Calls that it has, and new ones that it was asked to take and has not answered for.
    pub load: usize,
    /// It has another session of the request's Call-ID: of several relays that have one, this one is asked so late.
    pub beside: Option<usize>,
}

/// What a new call asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// The relay that the SIP proxy wants, by the address that its link comes from.
    pub preferred: Option<IpAddr>,
    /// Decides among relays that are as good as each other.
    pub random: u64,
}

/// Those that can take the call, the best one first: the preferred relays; without a preference, those that have a session
/// of this Call-ID already, as a call that comes round may pass one relay twice; then all others. Of these, the one with
/// the fewest calls; of several with as few, any.
pub(super) fn order<'a>(
    mut candidates: Vec<Candidate<'a>>,
    request: Request,
) -> Vec<Candidate<'a>> {
    candidates.retain(|one| one.state == RelayState::Active);
    let rank = |one: &Candidate<'_>| {
        let first = match (request.preferred, one.beside) {
            (Some(wanted), _) => (wanted != one.address, 0),
            (None, beside) => (beside.is_none(), beside.unwrap_or(0)),
        };
        (first, one.load)
    };
    candidates.sort_by_key(rank);
    for equals in candidates.chunk_by_mut(|one, other| rank(one) == rank(other)) {
        let count = u64::try_from(equals.len()).unwrap_or(u64::MAX);
        let first = usize::try_from(request.random % count).unwrap_or(0);
        equals.rotate_left(first);
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    /// Relay `n` has the address 192.0.2.n.
    fn relay(number: u8, load: usize) -> Candidate<'static> {
        Candidate {
            link: LinkId(number.into()),
            address: ip(number),
            name: None,
            state: RelayState::Active,
            load,
            beside: None,
        }
    }

    fn ordered(candidates: &[Candidate<'_>], preferred: Option<u8>, random: u64) -> Vec<u64> {
        let request = Request {
            preferred: preferred.map(ip),
            random,
        };
        let order = order(candidates.to_vec(), request);
        order.iter().map(|one| one.link.0).collect()
    }

    #[test]
    fn the_order_of_relays_with_different_loads() {
        let all = [relay(1, 7), relay(2, 0), relay(3, 2)];
        for (preferred, expected) in [
            (None, [2, 3, 1]),
            (Some(1), [1, 2, 3]),
            (Some(3), [3, 2, 1]),
            (Some(9), [2, 3, 1]),
        ] {
            for random in [0, 1, u64::MAX] {
                assert_eq!(ordered(&all, preferred, random), expected, "{preferred:?}");
            }
        }
        assert_eq!(ordered(&[], None, 7), [0; 0]);
    }

    #[test]
    fn any_of_those_with_as_few_calls_is_the_first() {
        let all = [relay(1, 1), relay(2, 1), relay(3, 1), relay(4, 0)];
        for (random, expected) in [
            (0, [4, 1, 2, 3]),
            (1, [4, 2, 3, 1]),
            (2, [4, 3, 1, 2]),
            (3, [4, 1, 2, 3]),
        ] {
            assert_eq!(ordered(&all, None, random), expected);
        }
    }

    #[test]
    fn two_relays_behind_the_preferred_address_are_told_apart_by_their_load() {
        let second = Candidate {
            address: ip(1),
            name: Some("b"),
            ..relay(2, 3)
        };
        let all = [relay(1, 4), second, relay(3, 0)];
        assert_eq!(ordered(&all, Some(1), 0), [2, 1, 3]);
    }

    #[test]
    fn only_active_relays_take_calls_whatever_is_preferred() {
        for state in RelayState::ALL {
            let one = Candidate {
                state,
                beside: Some(0),
                ..relay(1, 0)
            };
            let expected: &[u64] = match state {
                RelayState::Active => &[1, 2],
                _ => &[2],
            };
            assert_eq!(ordered(&[one, relay(2, 9)], Some(1), 0), expected);
            assert_eq!(ordered(&[one, relay(2, 9)], None, 0), expected);
        }
    }

    #[test]
    fn a_relay_that_has_a_session_of_the_call_comes_first_unless_another_is_preferred() {
        let beside = |number, load, at| Candidate {
            beside: Some(at),
            ..relay(number, load)
        };
        let all = [relay(1, 0), beside(2, 5, 1), beside(3, 9, 0)];
        assert_eq!(ordered(&all, None, 0), [3, 2, 1]);
        assert_eq!(ordered(&all, Some(1), 0), [1, 2, 3]);
        assert_eq!(ordered(&all, Some(7), 0), [1, 2, 3]);
    }
}
