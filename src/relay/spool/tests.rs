//! What is open after which lines, and what is still open after a restart.

use std::fs;

use super::*;
use crate::sys::scratch::Scratch;

const LIMIT: u64 = 16 << 20;

fn id(number: u128) -> SessionId {
    SessionId::from_random(number)
}

fn at(seconds: u64) -> Moment {
    Moment::after_start(Duration::from_secs(seconds))
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

fn open_for(opened: &Opened, port: u16, known: &[u16]) -> Vec<String> {
    let known: Vec<SocketAddr> = known.iter().map(|port| address(*port)).collect();
    let spool = &opened.spool;
    let open = spool.open_for(address(port), Some(&known), Moment::START);
    let line = |id: SessionId| spool.line(id).unwrap();
    let text = |line: Vec<u8>| String::from_utf8(line).unwrap();
    open.into_iter().map(line).map(text).collect()
}

/// One that was kept at this time.
fn keep(opened: &Opened, number: u128, port: u16, seconds: u64) {
    let line = format!("keep {} removed {}", address(port), statistics(number));
    let kept = Kept {
        dispatcher: address(port),
        sent: at(seconds),
    };
    opened.spool.log.put(id(number), kept, line.into_bytes());
}

fn take(opened: &Opened, known: Option<&[SocketAddr]>) -> usize {
    let messages = opened.messages.try_iter().collect();
    let questions = opened.spool.take(messages, known, Moment::START);
    assert!(questions.is_empty());
    opened.spool.open()
}

/// The records of the only segment, without the line that tells the format.
fn lines(scratch: &Scratch) -> Vec<String> {
    let path = scratch.path().join("relay-40000/0000000001.journal");
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines().map(|line| line[9..].to_owned());
    assert_eq!(lines.next().unwrap(), "format ended calls 1");
    lines.collect()
}

#[test]
fn what_was_kept_and_not_stored_is_open_after_a_restart() {
    let scratch = Scratch::new("spool");
    let open = || open(scratch.path(), 40_000, LIMIT).unwrap();
    let opened = open();
    assert!(open_for(&opened, 1, &[1]).is_empty());
    let append = |opened: &Opened, text: &str| opened.spool.log.remark(text.as_bytes());
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
    let opened = open();
    assert_eq!(opened.spool.open(), 3);
    let expected = [
        format!("removed {}\r\n", statistics(2)),
        format!("expired {}\r\n", statistics(3)),
    ];
    assert_eq!(open_for(&opened, 1, &[1, 2]), expected);
    // Nobody is there for the fourth: anyone will do.
    assert_eq!(open_for(&opened, 1, &[1]).len(), 3);
}

/// Two records and the first one's confirmation come together, the second one's later.
#[test]
fn a_confirmation_is_written_once_and_only_for_what_is_open() {
    let scratch = Scratch::new("spool");
    let opened = open(scratch.path(), 40_000, LIMIT).unwrap();
    let spool = opened.spool();
    let nothing = spool.size();
    spool.keep(address(1), How::Removed, id(1), statistics(1).as_bytes());
    spool.stored(address(1), id(1));
    spool.keep(address(1), How::Expired, id(2), statistics(2).as_bytes());
    assert_eq!(take(&opened, None), 1);
    assert_eq!(spool.in_flight.load(Ordering::Relaxed), 0);
    let mut expected = vec![
        format!("keep 192.0.2.1:1 removed {}", statistics(1)),
        format!("stored {}", id(1)),
        format!("keep 192.0.2.1:1 expired {}", statistics(2)),
    ];
    assert_eq!(lines(&scratch), expected);
    // Once more, as after a lost link: nobody knows it.
    spool.stored(address(1), id(1));
    spool.stored(address(1), id(2));
    assert_eq!(take(&opened, None), 0);
    expected.push(format!("stored {}", id(2)));
    assert_eq!(lines(&scratch), expected);
    assert!(spool.size() > nothing);
}

/// Any dispatcher sees the ids of others' calls in `sessions`.
#[test]
fn who_is_not_told_of_a_record_cannot_confirm_it() {
    let scratch = Scratch::new("spool");
    let opened = open(scratch.path(), 40_000, LIMIT).unwrap();
    let spool = opened.spool();
    let both = [address(1), address(2)];
    for number in 1..=2 {
        let text = statistics(number);
        spool.keep(address(1), How::Expired, id(number), text.as_bytes());
        // On the heels of the record, and later.
        spool.stored(address(2), id(number));
    }
    assert_eq!(take(&opened, Some(&both)), 2);
    spool.stored(address(2), id(1));
    assert_eq!(take(&opened, Some(&both)), 2, "another one's");
    spool.stored(address(2), id(1));
    assert_eq!(take(&opened, None), 2, "not all are known");
    spool.stored(address(2), id(1));
    let own = "its own dispatcher is gone";
    assert_eq!(take(&opened, Some(&both[1..])), 1, "{own}");
    spool.stored(address(1), id(2));
    assert_eq!(take(&opened, None), 0);
}

#[test]
fn what_is_not_confirmed_in_time_is_sent_again() {
    let scratch = Scratch::new("spool");
    let opened = open(scratch.path(), 40_000, LIMIT).unwrap();
    keep(&opened, 1, 1, 100);
    keep(&opened, 2, 1, 130);
    keep(&opened, 3, 2, 100);
    let log = &opened.spool.log;
    let overdue = |seconds| {
        let (known, now) = ([address(1), address(2)], at(seconds));
        opened.spool.overdue(address(1), Some(&known), now)
    };
    assert!(overdue(159).is_empty());
    assert_eq!(overdue(160), [id(1)]);
    log.with(id(1), |kept| kept.sent = at(160));
    assert_eq!(overdue(190), [id(2)]);
    log.remove(id(2));
    assert!(overdue(219).is_empty());
}

#[test]
fn nobody_hears_of_anothers_records_before_all_are_known() {
    let scratch = Scratch::new("spool");
    let opened = open(scratch.path(), 40_000, LIMIT).unwrap();
    keep(&opened, 1, 1, 0);
    keep(&opened, 2, 3, 0);
    let minute = at(60);
    let overdue = |known: Option<&[SocketAddr]>| opened.spool.overdue(address(1), known, minute);
    assert_eq!(overdue(None), [id(1)]);
    assert_eq!(overdue(Some(&[address(1)])), [id(1), id(2)]);
    let open = opened.spool.open_for(address(1), None, Moment::START);
    assert_eq!(open, [id(1)]);
}

/// Records of dispatchers 1 and 3 while there are links to 1 and 2, which stand.
#[test]
fn what_a_dispatcher_that_is_gone_left_is_sent_to_one_of_the_others() {
    let scratch = Scratch::new("spool");
    let opened = open(scratch.path(), 40_000, LIMIT).unwrap();
    keep(&opened, 1, 1, 0);
    keep(&opened, 2, 3, 0);
    let said = |port, seconds| {
        let (known, now) = ([address(1), address(2)], at(seconds));
        let mut said = Vec::new();
        opened
            .spool
            .say_overdue(address(port), Some(&known), now, |line| {
                said.push(String::from_utf8(line.to_vec()).unwrap());
            });
        said
    };
    let line = |number| format!("removed {}\r\n", statistics(number));
    assert!(said(2, 59).is_empty());
    assert_eq!(said(2, 60), [line(2)]);
    // The next link in the same round: its own alone.
    assert_eq!(said(1, 60), [line(1)]);
    assert!(said(2, 119).is_empty());
    // Not confirmed by the one: the other is asked.
    assert_eq!(said(1, 120), [line(1), line(2)]);
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
    let mut reads = 0;
    let lines = at_once((0..9).map(id).collect(), |_| {
        reads += 1;
        // The first one is damaged.
        (reads > 1).then(|| vec![b'x'; RESENT_AT_ONCE / 2])
    });
    let ids: Vec<SessionId> = lines.into_iter().map(|(id, _)| id).collect();
    assert_eq!((ids, reads), (vec![id(1), id(2)], 3));
}

/// There is no room for another segment; then the limit is another one.
#[test]
fn what_the_disk_refused_is_told_from_memory_and_written_later() {
    let scratch = Scratch::new("spool");
    let opened = open(scratch.path(), 40_000, 100).unwrap();
    keep(&opened, 7, 1, 0);
    let expected = [format!("removed {}\r\n", statistics(7))];
    assert_eq!(open_for(&opened, 1, &[1]), expected);
    let left = opened.spool.log.in_memory();
    assert_eq!((left.len(), opened.spool.size()), (1, 0));
    opened.spool.log.remove(id(7));
    assert!(open_for(&opened, 1, &[1]).is_empty() && opened.spool.log.in_memory().is_empty());
}

/// As versions left it that wrote no line with the format.
#[test]
fn what_an_earlier_version_has_kept_is_told() {
    let scratch = Scratch::new("spool");
    let dir = scratch.path().join("relay-40000");
    fs::create_dir(&dir).unwrap();
    let line = |text: String| format!("{:08x} {text}\n", crc32fast::hash(text.as_bytes()));
    let old: String = [
        format!("keep 192.0.2.1:1 removed {}", statistics(1)),
        format!("keep 192.0.2.1:1 expired {}", statistics(2)),
        format!("stored {}", id(1)),
    ]
    .map(line)
    .concat();
    let path = dir.join("0000000001.journal");
    fs::write(&path, &old).unwrap();
    let opened = open(scratch.path(), 40_000, LIMIT).unwrap();
    let expected = [format!("expired {}\r\n", statistics(2))];
    assert_eq!(open_for(&opened, 1, &[1]), expected);
    keep(&opened, 3, 1, 0);
    assert_eq!(fs::read_to_string(&path).unwrap(), old, "nothing is mixed");
    drop(opened);
    let opened = open(scratch.path(), 40_000, LIMIT).unwrap();
    assert_eq!(open_for(&opened, 1, &[1]).len(), 2);
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
