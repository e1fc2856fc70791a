//! Time and datagrams by hand: no socket, no waiting.

use super::super::packet::tests::{SECRET, answer};
use super::*;

const PACE: Pace = Pace {
    interval: Duration::from_secs(1),
    tries: 3,
};

fn secret() -> Secret {
    Secret::new(SECRET)
}

fn requests(count: usize) -> Vec<Request> {
    let request = |number: usize| Request {
        session_id: format!("s{number}"),
        attributes: vec![
            44,
            4,
            b'0' + (number / 10) as u8,
            b'0' + (number % 10) as u8,
        ],
    };
    (0..count).map(request).collect()
}

/// A round on a clock of its own.
struct Round<'a> {
    exchange: Exchange<'a>,
    ledger: &'a mut Ledger,
    now: Moment,
}

impl<'a> Round<'a> {
    fn new(requests: &'a [Request], ledger: &'a mut Ledger) -> Round<'a> {
        Round {
            exchange: Exchange::new(requests.iter(), PACE),
            ledger,
            now: Moment::START,
        }
    }

    fn next(&mut self) -> Step {
        self.exchange.next(self.ledger, &secret(), self.now)
    }

    /// The identifiers that are sent at this moment, and the step after them.
    fn burst(&mut self) -> (Vec<u8>, Step) {
        let mut sent = Vec::new();
        loop {
            match self.next() {
                Step::Send(identifier) => sent.push(identifier),
                step => return (sent, step),
            }
        }
    }

    fn answer(&mut self, identifier: u8) -> String {
        let datagram = answer(self.ledger.packet(identifier), b"");
        let session_id = self.ledger.receive(&datagram, &secret()).unwrap();
        self.exchange.settled(&session_id, self.now);
        session_id
    }
}

fn at(milliseconds: u64) -> Moment {
    Moment::after_start(Duration::from_millis(milliseconds))
}

#[test]
fn sixteen_at_once_and_the_next_when_one_is_answered() {
    let (requests, mut ledger) = (requests(18), Ledger::default());
    let mut round = Round::new(&requests, &mut ledger);
    let (sent, step) = round.burst();
    assert_eq!((sent, step), ((0..16).collect(), Step::Wait(at(1000))));
    round.now = at(300);
    assert_eq!(round.answer(3), "s3");
    assert_eq!(round.burst(), (vec![16], Step::Wait(at(1000))));
    for identifier in [0, 1, 2].into_iter().chain(4..17) {
        round.answer(identifier);
    }
    assert_eq!(round.burst(), (vec![17], Step::Wait(at(1300))));
    assert_eq!(round.answer(17), "s17");
    assert_eq!(round.next(), Step::Done);
    assert!(round.exchange.passed_over().is_empty());
}

#[test]
fn what_is_lost_is_sent_again_with_the_same_bytes() {
    let (requests, mut ledger) = (requests(2), Ledger::default());
    let mut round = Round::new(&requests, &mut ledger);
    round.burst();
    let before = round.ledger.packet(1).to_vec();
    round.now = at(200);
    round.answer(0);
    round.now = at(1000);
    assert_eq!(round.burst(), (vec![1], Step::Wait(at(2000))));
    assert_eq!(round.ledger.packet(1), before);
    round.now = at(2000);
    assert_eq!(round.burst(), (vec![1], Step::Wait(at(3000))));
    round.now = at(2999);
    assert_eq!(round.answer(1), "s1");
    assert_eq!(round.next(), Step::Done);
}

#[test]
fn a_silent_server_is_left_after_the_last_try() {
    let (requests, mut ledger) = (requests(40), Ledger::default());
    let mut round = Round::new(&requests, &mut ledger);
    for second in 0..3 {
        round.now = at(second * 1000);
        assert_eq!(round.burst().0.len(), 16);
    }
    round.now = at(3000);
    assert_eq!(round.next(), Step::Silent);
    assert!(!round.exchange.heard());
}

#[test]
fn one_that_alone_gets_no_answer_holds_up_no_other() {
    let (requests, mut ledger) = (requests(50), Ledger::default());
    let mut round = Round::new(&requests, &mut ledger);
    let mut sent = round.burst().0;
    // All but the first request are answered, one each 30 ms, as far as they may run ahead.
    for step in 1..32 {
        round.now = at(step * 30);
        let identifier = sent.remove(1);
        round.answer(identifier);
        sent.extend(round.burst().0);
    }
    for second in 1..3 {
        round.now = at(second * 1000);
        assert_eq!(round.burst().0, [0]);
    }
    round.now = at(3000);
    assert_eq!(round.next(), Step::Done);
    assert_eq!(round.exchange.waiting.len(), 50 - 32);
    // Late, but it counts: the others need not wait any more.
    assert_eq!(round.exchange.passed_over[0].1, "s0");
    round.answer(0);
    assert_eq!(round.burst().0.len(), 16);
    assert!(round.exchange.passed_over().is_empty());
}

#[test]
fn a_session_that_comes_again_keeps_its_bytes_and_a_late_answer_counts() {
    let (requests, mut ledger) = (requests(2), Ledger::default());
    let mut round = Round::new(&requests, &mut ledger);
    assert_eq!(round.burst().0, [0, 1]);
    let before = [
        round.ledger.packet(0).to_vec(),
        round.ledger.packet(1).to_vec(),
    ];
    let mut round = Round::new(&requests, &mut ledger);
    assert_eq!(round.burst().0, [0, 1]);
    assert_eq!([round.ledger.packet(0), round.ledger.packet(1)], before);
    round.answer(0);
    // The second is settled elsewhere; its identifier is free then.
    ledger.forget(|session_id| session_id == "s1");
    assert!(ledger.packet(1).is_empty());
    let datagram = answer(&before[1], b"");
    assert_eq!(
        ledger.receive(&datagram, &secret()),
        Err(Wrong::NotAnAnswer)
    );
}

#[test]
fn answers_that_are_none_settle_nothing() {
    let (requests, mut ledger) = (requests(1), Ledger::default());
    let mut round = Round::new(&requests, &mut ledger);
    round.burst();
    let good = answer(round.ledger.packet(0), b"");
    let mut other = good.clone();
    other[1] = 7;
    let mut forged = good.clone();
    forged[10] ^= 1;
    assert_eq!(
        round.ledger.receive(&other, &secret()),
        Err(Wrong::NotAnAnswer)
    );
    assert_eq!(
        round.ledger.receive(&good[..19], &secret()),
        Err(Wrong::NotAnAnswer)
    );
    assert_eq!(
        round.ledger.receive(&forged, &secret()),
        Err(Wrong::Signature)
    );
    assert_eq!(round.ledger.receive(&good, &secret()), Ok("s0".into()));
    // A duplicate.
    assert_eq!(
        round.ledger.receive(&good, &secret()),
        Err(Wrong::NotAnAnswer)
    );
}

#[test]
fn identifiers_run_out_for_none() {
    let (many, mut ledger) = (requests(99), Ledger::default());
    // What never comes again leaves its identifiers taken.
    for round in 0..10 {
        for request in &many {
            let session_id = format!("{}-{round}", request.session_id);
            let request = Request {
                session_id,
                ..request.clone()
            };
            let open = ledger.next.wrapping_add(1);
            let identifier = ledger.identify(&request, |identifier| identifier == open, &secret());
            assert_ne!(identifier, open);
            assert_eq!(
                ledger.sent(identifier).unwrap().session_id,
                request.session_id
            );
        }
    }
}
