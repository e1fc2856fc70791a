//! Tests of the queue without any connection: what leaves, what stays, what is bounded.

use super::*;
use crate::proto::link::Sequence;

const LATER: Duration = Duration::from_secs(3600);

fn queue() -> SendQueue {
    SendQueue::new(Owner(7))
}

fn open(queue: &SendQueue) -> u64 {
    queue.open(None, None, clock::moment() + LATER)
}

fn to(link: u64, sequence: u64) -> ReplyTo {
    ReplyTo {
        link,
        sequence: Sequence(sequence),
    }
}

/// What the writing thread would write now, in its writes.
fn written(queue: &SendQueue, number: u64) -> Vec<String> {
    let (mut batch, mut writes) = (VecDeque::new(), Vec::new());
    assert_eq!(queue.next_task(number, LATER, &mut batch), Task::Write);
    write_batch(&mut batch, &mut Vec::new(), &mut Vec::new(), |bytes| {
        writes.push(String::from_utf8(bytes.to_vec()).unwrap());
        Ok(())
    })
    .unwrap();
    writes
}

#[test]
fn what_is_due_together_leaves_in_one_write() {
    let queue = queue();
    let number = open(&queue);
    assert_eq!(owner_of(to(number, 1)), Owner(7));
    queue.reply(to(number, 1), b"error");
    queue.notify(b"{}");
    queue.reply(to(number, 2), b"192.0.2.1 40000");
    let expected = "1 error\r\nexpired {}\r\n2 192.0.2.1 40000\r\n";
    assert_eq!(written(&queue, number), [expected]);
}

#[test]
fn notices_wait_for_the_dispatcher_and_come_before_answers() {
    let queue = queue();
    queue.notify(b"1");
    let number = open(&queue);
    queue.notify(b"2");
    queue.reply(to(number, 9), b"gone with its connection");
    queue.lost();
    queue.notify(b"3");
    assert_eq!(queue.kept(), 3);
    let number = open(&queue);
    assert_eq!(queue.kept(), 0, "on their way");
    queue.reply(to(number, 1), b"{}");
    let expected = "expired 1\r\nexpired 2\r\nexpired 3\r\n1 {}\r\n";
    assert_eq!(written(&queue, number), [expected]);
}

#[test]
fn an_answer_never_goes_to_a_later_connection() {
    let queue = queue();
    let first = open(&queue);
    queue.lost();
    let second = open(&queue);
    assert_ne!(first, second);
    queue.reply(to(first, 1), b"late");
    queue.reply_in_pieces(to(first, 2), vec![b"late".to_vec()]);
    assert_eq!(queue.line_limit(to(first, 1)), 0);
    queue.reply(to(second, 3), b"in time");
    assert_eq!(written(&queue, second), ["3 in time\r\n"]);
    let mut batch = VecDeque::new();
    assert_eq!(queue.next_task(first, LATER, &mut batch), Task::Stop);
}

#[test]
fn what_could_not_be_written_comes_again_in_order() {
    let queue = queue();
    let number = open(&queue);
    queue.notify(b"1");
    queue.notify(b"2");
    let (mut batch, mut unsent) = (VecDeque::new(), Vec::new());
    assert_eq!(queue.next_task(number, LATER, &mut batch), Task::Write);
    let broken = |_: &[u8]| Err(io::ErrorKind::BrokenPipe.into());
    let result = write_batch(&mut batch, &mut unsent, &mut Vec::new(), broken);
    assert!(result.is_err());
    queue.notify(b"3");
    queue.put_back(unsent.into_iter());
    queue.lost();
    assert_eq!(queue.wait_written(clock::moment()), 3);
    let number = open(&queue);
    let expected = "expired 1\r\nexpired 2\r\nexpired 3\r\n";
    assert_eq!(written(&queue, number), [expected]);
}

#[test]
fn an_older_dispatcher_gets_no_line_that_it_cannot_read() {
    let queue = queue();
    let number = open(&queue);
    let long = || vec![vec![b'x'; OLD_DISPATCHER_LINE / 2]; 3];
    queue.reply_in_pieces(to(number, 1), long());
    assert_eq!(written(&queue, number), ["1 error\r\n"]);
    queue.set_ours(false, crate::proto::link::RELAY_LINE);
    queue.reply_in_pieces(to(number, 2), long());
    let sizes: Vec<usize> = written(&queue, number).iter().map(String::len).collect();
    assert_eq!(sizes.iter().sum::<usize>(), OLD_DISPATCHER_LINE / 2 * 3 + 4);
    assert_eq!(queue.notify(&vec![b'x'; OLD_DISPATCHER_LINE]), 1);
}

#[test]
fn only_a_dispatcher_of_ours_hears_why() {
    let queue = queue();
    let number = open(&queue);
    queue.refuse(to(number, 1), "no ports left");
    queue.set_ours(false, crate::proto::link::RELAY_LINE);
    queue.refuse(to(number, 2), "no ports left");
    queue.refuse(to(number, 3), "");
    let expected = "1 error\r\n2 error: no ports left\r\n3 error\r\n";
    assert_eq!(written(&queue, number), [expected]);
}

#[test]
fn a_connection_that_ends_before_hello_tells_nothing_of_the_dispatcher() {
    let queue = queue();
    open(&queue);
    queue.note_call();
    assert!(!queue.confirms(), "never said");
    queue.set_ours(true, crate::proto::link::RELAY_LINE);
    queue.note_call();
    queue.lost();
    assert!(queue.confirms());
    // Its certificate is refused, or it is killed.
    open(&queue);
    queue.lost();
    assert!(queue.confirms());
    // An older one in its place.
    open(&queue);
    queue.note_call();
    assert!(!queue.confirms());
    queue.lost();
    assert!(!queue.confirms());
}

#[test]
fn a_dispatcher_that_does_not_read_is_bounded() {
    let queue = queue();
    let number = open(&queue);
    let answer = vec![b'x'; 100_000];
    let mut count = 0;
    while queue.lock().reason.is_none() {
        queue.reply(to(number, count), &answer);
        count += 1;
        assert!(count < 200);
    }
    assert!(queue.lost().unwrap().contains("does not read"));
}

/// A dispatcher that comes back after an hour has much to be told, and asks at once.
#[test]
fn notices_that_were_kept_do_not_make_it_one_that_does_not_read() {
    let queue = queue();
    let notice = vec![b'x'; 1 << 20];
    (0..20).for_each(|_| assert_eq!(queue.notify(&notice), 0));
    let number = open(&queue);
    queue.reply(to(number, 1), b"error");
    let mut batch = VecDeque::new();
    assert_eq!(queue.next_task(number, LATER, &mut batch), Task::Write);
    // They are being written while it goes on asking.
    queue.reply(to(number, 2), b"192.0.2.1 40000");
    queue.reply_in_pieces(to(number, 3), vec![b"[]".to_vec()]);
    assert_eq!(queue.lock().reason, None);
    batch.clear();
    assert_eq!(written(&queue, number), ["2 192.0.2.1 40000\r\n"]);
    assert_eq!(written(&queue, number), ["3 []\r\n"]);
}

/// Lists that are as long as they may be, asked for faster than they are read, while calls go on.
#[test]
fn lists_delay_no_answer_by_more_than_one_of_them_and_end_no_link() {
    let queue = queue();
    let number = open(&queue);
    queue.set_ours(true, crate::proto::link::RELAY_LINE);
    let list = || vec![b"[".to_vec(), vec![b'x'; 3 << 20], b"]".to_vec()];
    for sequence in 1..=5 {
        queue.reply_in_pieces(to(number, sequence), list());
    }
    // Three fill what may be unread; of the others it is told.
    assert_eq!(written(&queue, number), ["4 error\r\n5 error\r\n"]);
    for sequence in 6..=8 {
        let first = written(&queue, number).concat();
        assert!(first.starts_with(&format!("{} [", sequence - 5)) && first.len() > 3 << 20);
        queue.reply(to(number, sequence), b"192.0.2.1 40000");
        let answer = format!("{sequence} 192.0.2.1 40000\r\n");
        assert_eq!(written(&queue, number), [answer]);
    }
    assert_eq!(queue.lock().reason, None);
    // All is read: there is room again.
    queue.reply_in_pieces(to(number, 9), list());
    assert!(written(&queue, number).concat().starts_with("9 ["));
}

#[test]
fn lists_in_the_making_are_counted() {
    let queue = queue();
    let number = open(&queue);
    let begun = (0..10).filter(|_| queue.begin_listing()).count();
    assert_eq!(begun, MOST_LISTINGS as usize);
    queue.reply_in_pieces(to(number, 1), Vec::new());
    assert!(queue.begin_listing());
    assert!(!queue.begin_listing());
}

#[test]
fn kept_notices_are_bounded_and_the_oldest_go_first() {
    let queue = queue();
    let notice = |n: u32| format!("{n} {}", "x".repeat(1 << 20));
    let dropped: u64 = (0..40).map(|n| queue.notify(notice(n).as_bytes())).sum();
    assert_eq!(dropped, 9);
    let number = open(&queue);
    let all = written(&queue, number).concat();
    let first = all.lines().next().unwrap();
    assert!(first.starts_with("expired 9 "), "{}", &first[..20]);
    assert!(all.contains("expired 39 "));
}

#[test]
fn three_unanswered_pings_end_the_connection() {
    let queue = queue();
    let number = queue.open(None, None, Moment::START);
    let mut batch = VecDeque::new();
    // An interval of nothing: each look says one.
    let mut task = || queue.next_task(number, Duration::ZERO, &mut batch);
    assert_eq!([task(), task()], [Task::Write, Task::Write]);
    queue.pong();
    assert_eq!(
        [task(), task(), task()],
        [Task::Write, Task::Write, Task::Write]
    );
    assert_eq!(task(), Task::Stop);
    assert!(queue.lost().unwrap().contains("pings"));
}

#[test]
fn finishing_writes_what_there_is_first() {
    let queue = queue();
    let number = open(&queue);
    queue.notify(b"1");
    queue.finish();
    assert_eq!(written(&queue, number), ["expired 1\r\n"]);
    let mut batch = VecDeque::new();
    assert_eq!(queue.next_task(number, LATER, &mut batch), Task::Finish);
    assert!(!queue.revive(), "its thread is not over");
    queue.set_ended();
    assert!(queue.revive());
    assert!(!queue.is_finishing());
}
