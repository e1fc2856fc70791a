//! What is open after which lines, and what is still open after a restart.

use super::*;
use crate::journal::{Found, Position, Reader};
use crate::sys::scratch::Scratch;

const LIMIT: u64 = 16 << 20;

fn id(number: u128) -> SessionId {
    SessionId::from_random(number)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

fn statistics(number: u128) -> String {
    format!(
        r#"{{"session_id":"{}","call_id":"call-{number}","streams":[]}}"#,
        id(number)
    )
}

fn open_for(opened: &mut Opened, port: u16, known: &[u16]) -> Vec<String> {
    let known: Vec<SocketAddr> = known.iter().map(|port| address(*port)).collect();
    let open = opened
        .book
        .open_for(address(port), Some(&known), Duration::ZERO);
    let line = |(_, at): (SessionId, Place)| opened.spool.line(&at).unwrap();
    let text = |line: Vec<u8>| String::from_utf8(line).unwrap();
    open.into_iter().map(line).map(text).collect()
}

fn append(opened: &Opened, text: &str) {
    opened.spool.journal.append(text.as_bytes()).unwrap();
}

#[test]
fn what_was_kept_and_not_stored_is_open_after_a_restart() {
    let scratch = Scratch::new("spool");
    let open = || open(scratch.path(), 40_000, LIMIT).unwrap();
    let mut opened = open();
    assert!(open_for(&mut opened, 1, &[1]).is_empty());
    for number in 1..=3 {
        let how = if number == 2 { "removed" } else { "expired" };
        append(
            &opened,
            &format!("keep 192.0.2.1:1 {how} {}", statistics(number)),
        );
    }
    append(
        &opened,
        &format!("keep 192.0.2.1:2 expired {}", statistics(4)),
    );
    append(&opened, &format!("stored {}", id(1)));
    append(&opened, "stored nonsense");
    append(&opened, "what is this");
    append(
        &opened,
        "keep 192.0.2.1:1 expired {\"session_id\":\"no UUID\"}",
    );
    drop(opened);
    let mut opened = open();
    assert_eq!(opened.spool.open(), 3);
    let expected = [
        format!("removed {}\r\n", statistics(2)),
        format!("expired {}\r\n", statistics(3)),
    ];
    assert_eq!(open_for(&mut opened, 1, &[1, 2]), expected);
    // Nobody is there for the fourth: anyone will do.
    assert_eq!(open_for(&mut opened, 1, &[1]).len(), 3);
}

/// Two records and the first one's confirmation come together, the second one's later.
#[test]
fn a_confirmation_is_written_once_and_only_for_what_is_open() {
    let scratch = Scratch::new("spool");
    let mut opened = open(scratch.path(), 40_000, LIMIT).unwrap();
    let spool = opened.spool();
    let nothing = spool.size();
    spool.keep(address(1), How::Removed, id(1), statistics(1).as_bytes());
    spool.stored(address(1), id(1));
    spool.keep(address(1), How::Expired, id(2), statistics(2).as_bytes());
    let mut records = Records::new(spool.clone(), std::mem::take(&mut opened.book));
    assert!(
        records
            .take(opened.messages.try_iter().collect(), None)
            .is_empty()
    );
    assert_eq!(spool.in_flight.load(Ordering::Relaxed), 0);
    assert_eq!(spool.open(), 1);
    let lines = || {
        let mut reader = Reader::new(&spool.journal, spool.journal.start());
        let mut lines = Vec::new();
        while let Some(found) = reader.next_record().unwrap() {
            let Found::Record(_, text) = found else {
                panic!("{found:?}");
            };
            lines.push(String::from_utf8(text).unwrap());
        }
        lines
    };
    let mut expected = vec![
        format!("keep 192.0.2.1:1 removed {}", statistics(1)),
        format!("stored {}", id(1)),
        format!("keep 192.0.2.1:1 expired {}", statistics(2)),
    ];
    assert_eq!(lines(), expected);
    // Once more, as after a lost link: nobody knows it.
    spool.stored(address(1), id(1));
    spool.stored(address(1), id(2));
    records.take(opened.messages.try_iter().collect(), None);
    expected.push(format!("stored {}", id(2)));
    assert_eq!(lines(), expected);
    assert_eq!(spool.open(), 0);
    assert!(spool.size() > nothing);
}

/// Any dispatcher sees the ids of others' calls in `sessions`.
#[test]
fn who_is_not_told_of_a_record_cannot_confirm_it() {
    let scratch = Scratch::new("spool");
    let mut opened = open(scratch.path(), 40_000, LIMIT).unwrap();
    let spool = opened.spool();
    let mut records = Records::new(spool.clone(), std::mem::take(&mut opened.book));
    let mut take = |known: Option<&[SocketAddr]>| {
        records.take(opened.messages.try_iter().collect(), known);
        spool.open()
    };
    let both = [address(1), address(2)];
    for number in 1..=2 {
        let text = statistics(number);
        spool.keep(address(1), How::Expired, id(number), text.as_bytes());
        // On the heels of the record, and later.
        spool.stored(address(2), id(number));
    }
    assert_eq!(take(Some(&both)), 2);
    spool.stored(address(2), id(1));
    assert_eq!(take(Some(&both)), 2, "another one's");
    spool.stored(address(2), id(1));
    assert_eq!(take(None), 2, "not all are known");
    spool.stored(address(2), id(1));
    assert_eq!(take(Some(&both[1..])), 1, "its own dispatcher is gone");
    spool.stored(address(1), id(2));
    assert_eq!(take(None), 0);
}

#[test]
fn what_is_not_confirmed_in_time_is_sent_again() {
    let mut book = Book::default();
    let mut add = |number, offset, port, sent| {
        let place = Place::Disk(Position { segment: 1, offset });
        book.add(id(number), place, address(port), Duration::from_secs(sent));
    };
    add(1, 0, 1, 100);
    add(2, 10, 1, 130);
    add(3, 20, 2, 100);
    let overdue = |book: &Book, at| {
        let known = [address(1), address(2)];
        let found = book.overdue(address(1), Some(&known), Duration::from_secs(at));
        found.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    assert!(overdue(&book, 159).is_empty());
    assert_eq!(overdue(&book, 160), [id(1)]);
    book.note_sent(id(1), Duration::from_secs(160));
    assert_eq!(overdue(&book, 190), [id(2)]);
    assert!(book.forget(id(2)) && !book.forget(id(2)));
    assert!(overdue(&book, 219).is_empty());
}

#[test]
fn nobody_hears_of_anothers_records_before_all_are_known() {
    let mut book = Book::default();
    for (number, port) in [(1, 1), (2, 3)] {
        let place = Place::Memory(Vec::new().into());
        book.add(id(number), place, address(port), Duration::ZERO);
    }
    let ids = |found: Vec<(SessionId, Place)>| found.into_iter().map(|(id, _)| id);
    let overdue = |book: &Book, known: Option<&[SocketAddr]>| {
        let found = book.overdue(address(1), known, Duration::from_secs(60));
        ids(found).collect::<Vec<_>>()
    };
    assert_eq!(overdue(&book, None), [id(1)]);
    assert_eq!(overdue(&book, Some(&[address(1)])), [id(1), id(2)]);
    let open = book.open_for(address(1), None, Duration::ZERO);
    assert_eq!(ids(open).collect::<Vec<_>>(), [id(1)]);
}

/// Records of dispatchers 1 and 3 while there are links to 1 and 2, which stand.
#[test]
fn what_a_dispatcher_that_is_gone_left_is_sent_to_one_of_the_others() {
    let scratch = Scratch::new("spool");
    let mut opened = open(scratch.path(), 40_000, LIMIT).unwrap();
    let mut records = Records::new(opened.spool(), std::mem::take(&mut opened.book));
    for (number, port) in [(1, 1), (2, 3)] {
        let line = format!("keep {} removed {}", address(port), statistics(number));
        let at = opened.spool.journal.append(line.as_bytes()).unwrap();
        records
            .book
            .add(id(number), Place::Disk(at), address(port), Duration::ZERO);
    }
    let said = |records: &mut Records, port, seconds| {
        let (known, now) = ([address(1), address(2)], Duration::from_secs(seconds));
        let mut said = Vec::new();
        records.say_overdue(address(port), Some(&known), now, |line| {
            said.push(String::from_utf8(line.to_vec()).unwrap());
        });
        said
    };
    let line = |number| format!("removed {}\r\n", statistics(number));
    assert!(said(&mut records, 2, 59).is_empty());
    assert_eq!(said(&mut records, 2, 60), [line(2)]);
    // The next link in the same round: its own alone.
    assert_eq!(said(&mut records, 1, 60), [line(1)]);
    assert!(said(&mut records, 2, 119).is_empty());
    // Not confirmed by the one: the other is asked.
    assert_eq!(said(&mut records, 1, 120), [line(1), line(2)]);
}

/// The thread is not started, and so does not answer.
#[test]
fn a_list_that_does_not_come_in_time_is_no_empty_list() {
    let scratch = Scratch::new("spool");
    let opened = open(scratch.path(), 40_000, LIMIT).unwrap();
    let limit = Duration::from_millis(10);
    let asked = opened.spool().unconfirmed(address(1), limit);
    assert!(asked.unwrap_err().contains("in time"));
}

#[test]
fn what_does_not_leave_at_once_is_not_read() {
    let place = |offset| Place::Disk(Position { segment: 1, offset });
    let records = (0..9).map(|number| (id(number), place(0))).collect();
    let mut reads = 0;
    let lines = at_once(records, |_| {
        reads += 1;
        // The first one is damaged.
        (reads > 1).then(|| vec![b'x'; AT_ONCE / 2])
    });
    let ids: Vec<SessionId> = lines.into_iter().map(|(id, _)| id).collect();
    assert_eq!((ids, reads), (vec![id(1), id(2)], 3));
}

#[test]
fn what_the_disk_refused_is_told_from_memory_and_written_later() {
    let scratch = Scratch::new("spool");
    let mut opened = open(scratch.path(), 40_000, LIMIT).unwrap();
    let text: Arc<[u8]> = format!("keep 192.0.2.1:1 removed {}", statistics(7))
        .into_bytes()
        .into();
    let refused = Place::Memory(Arc::clone(&text));
    opened.book.add(id(7), refused, address(1), Duration::ZERO);
    let expected = [format!("removed {}\r\n", statistics(7))];
    assert_eq!(open_for(&mut opened, 1, &[1]), expected);
    assert_eq!(
        (opened.book.in_memory, opened.book.on_disk().count()),
        (text.len(), 0)
    );
    let position = opened.spool.journal.append(&text).unwrap();
    opened.book.move_to(id(7), position);
    assert_eq!(
        (opened.book.in_memory, opened.book.on_disk().count()),
        (0, 1)
    );
    assert_eq!(open_for(&mut opened, 1, &[1]), expected);
    assert!(opened.book.forget(id(7)));
    assert!(opened.book.by_order.is_empty());
}

#[test]
fn the_state_of_two_relays_on_one_host_does_not_mix() {
    let scratch = Scratch::new("spool");
    let one = open(scratch.path(), 40_000, LIMIT).unwrap();
    assert!(open(scratch.path(), 50_000, LIMIT).is_ok());
    assert!(
        open(scratch.path(), 40_000, LIMIT).is_err(),
        "one process for each"
    );
    drop(one);
    assert!(open(scratch.path(), 40_000, LIMIT).is_ok());
}
