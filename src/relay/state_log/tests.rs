//! What the next process finds after which changes, however this one has ended.

use std::collections::BTreeMap;

use super::*;
use crate::sys::scratch::Scratch;

const RANGE: (u16, u32) = (40_000, 40_100);
const LIMIT: Duration = Duration::from_secs(20);

fn id(number: u128) -> SessionId {
    SessionId::from_random(number)
}

fn dispatcher() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 25060))
}

fn put(number: u128, state: &str) -> (SessionId, Option<Vec<u8>>) {
    let record = record(id(number), dispatcher(), true, state.as_bytes());
    (id(number), Some(record))
}

fn over(number: u128) -> (SessionId, Option<Vec<u8>>) {
    (id(number), None)
}

fn opened(scratch: &Scratch) -> Opened {
    open(scratch.path(), RANGE).unwrap()
}

/// The thread, on this one.
fn writer(opened: Opened) -> Writer {
    Writer {
        handle: opened.handle,
        log: opened.log,
        dir: opened.dir,
        lock: Some(opened.lock),
    }
}

/// Does what the thread does with what is there.
fn write(writer: &Writer) {
    let (changes, end) = writer.handle.take(Duration::ZERO);
    writer.write(changes);
    assert!(end.is_none());
}

fn states(legacy: &Legacy) -> BTreeMap<u128, String> {
    let state = |saved: &Saved| {
        assert_eq!((saved.dispatcher, saved.confirms), (dispatcher(), true));
        let number = (0..100).find(|number| id(*number) == saved.id).unwrap();
        (number, String::from_utf8(saved.state.clone()).unwrap())
    };
    legacy.sessions.iter().map(state).collect()
}

fn expected(states: &[(u128, &str)]) -> BTreeMap<u128, String> {
    let owned = |(number, state): &(u128, &str)| (*number, (*state).to_owned());
    states.iter().map(owned).collect()
}

fn segment(scratch: &Scratch) -> PathBuf {
    let boot = host::boot_id().unwrap();
    let dir = scratch.path().join("relay-40000").join(boot);
    dir.join("0000000001.journal")
}

#[test]
fn the_latest_state_of_each_session_is_found() {
    let scratch = Scratch::new("state");
    let first = opened(&scratch);
    assert_eq!(first.legacy.sessions, []);
    let second = open(scratch.path(), RANGE).err().unwrap();
    assert!(second.contains("relay-40000"), "one at a time: {second}");
    let handle = first.handle.clone();
    first.start().unwrap();
    handle.put([put(1, "{a}"), put(2, "{b} {c}"), put(3, "{d}")]);
    handle.put([put(1, "{e}"), over(3)]);
    handle.leave(Duration::from_secs(60), LIMIT);

    let next = opened(&scratch);
    assert_eq!(
        states(&next.legacy),
        expected(&[(1, "{e}"), (2, "{b} {c}")])
    );
    assert_eq!(next.legacy.too_late, None);
    let handle = next.handle.clone();
    next.start().unwrap();
    handle.put([over(2)]);
    handle.leave(Duration::ZERO, LIMIT);

    let late = opened(&scratch);
    assert_eq!(states(&late.legacy), expected(&[(1, "{e}")]));
    assert_eq!(late.legacy.too_late, Some(Duration::ZERO));
    let handle = late.handle.clone();
    late.start().unwrap();
    handle.remove(LIMIT);
    assert!(!segment(&scratch).exists());
    assert_eq!(opened(&scratch).legacy.sessions, []);
}

/// A crash after that has nobody's hand-over to wait for.
#[test]
fn a_hand_over_counts_once() {
    let scratch = Scratch::new("state");
    let first = opened(&scratch);
    let handle = first.handle.clone();
    first.start().unwrap();
    handle.put([put(1, "{}")]);
    handle.leave(Duration::ZERO, LIMIT);
    let second = writer(opened(&scratch));
    second.log.remove(Key::Left);
    drop(second);
    let third = opened(&scratch);
    assert_eq!(third.legacy.too_late, None);
    assert_eq!(states(&third.legacy), expected(&[(1, "{}")]));
}

#[test]
fn what_is_over_before_it_was_written_is_never_written() {
    let scratch = Scratch::new("state");
    let writer = writer(opened(&scratch));
    writer.handle.put([put(1, "{}")]);
    writer.handle.put([over(1)]);
    assert!(writer.handle.lock().changes.is_empty());
    write(&writer);
    assert!(
        !fs::read_to_string(segment(&scratch))
            .unwrap()
            .contains("session")
    );

    writer.handle.put([put(1, "{}")]);
    write(&writer);
    writer.handle.put([put(1, "{1}")]);
    writer.handle.put([put(1, "{2}"), over(2)]);
    write(&writer);
    writer.handle.put([over(1)]);
    write(&writer);
    let text = fs::read_to_string(segment(&scratch)).unwrap();
    let lines: Vec<&str> = text.lines().map(|line| &line[9..]).collect();
    let session = |state: &str| format!("session {} 192.0.2.1:25060 yes {state}", id(1));
    let over = format!("over {}", id(1));
    assert_eq!(
        lines,
        ["format calls 1", &session("{}"), &session("{2}"), &over]
    );
}

/// As a crash in the middle of a write leaves it: each session is as it was after one of its changes, and no change but the
/// one that was cut is missing.
#[test]
fn cut_at_every_byte() {
    let scratch = Scratch::new("state");
    let changes = [
        put(1, "{a}"),
        put(2, "{b}"),
        put(1, "{c}"),
        over(2),
        put(3, "{d}"),
    ];
    let after = [
        expected(&[]),
        expected(&[(1, "{a}")]),
        expected(&[(1, "{a}"), (2, "{b}")]),
        expected(&[(1, "{c}"), (2, "{b}")]),
        expected(&[(1, "{c}")]),
        expected(&[(1, "{c}"), (3, "{d}")]),
    ];
    let whole = writer(opened(&scratch));
    let mut ends = vec![0];
    for change in changes {
        whole.handle.put([change]);
        write(&whole);
        ends.push(fs::metadata(segment(&scratch)).unwrap().len());
    }
    drop(whole);
    let text = fs::read(segment(&scratch)).unwrap();
    for length in 0..=text.len() {
        fs::write(segment(&scratch), &text[..length]).unwrap();
        let found = opened(&scratch);
        let whole = ends.iter().filter(|end| **end <= length as u64).count();
        // The line feed alone may be missing.
        let next = whole < ends.len() && length as u64 + 1 == ends[whole];
        let states = states(&found.legacy);
        assert!(
            states == after[whole - 1] || (next && states == after[whole]),
            "cut at {length}: {states:?}"
        );
        drop(found);
        for entry in fs::read_dir(segment(&scratch).parent().unwrap()).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "damaged")
            {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

#[test]
fn a_record_that_was_damaged_costs_one_change() {
    let scratch = Scratch::new("state");
    let first = writer(opened(&scratch));
    first.handle.put([put(1, "{a}")]);
    write(&first);
    first.handle.put([put(1, "{b}")]);
    write(&first);
    drop(first);
    let text = fs::read_to_string(segment(&scratch)).unwrap();
    fs::write(segment(&scratch), text.replace("{b}", "{x}")).unwrap();
    assert_eq!(states(&opened(&scratch).legacy), expected(&[(1, "{a}")]));
}

#[test]
fn nothing_of_another_boot_is_read() {
    let scratch = Scratch::new("state");
    let first = writer(opened(&scratch));
    first.handle.put([put(1, "{a}")]);
    write(&first);
    drop(first);
    let (dir, other) = (segment(&scratch), id(77).to_string());
    let dir = dir.parent().unwrap();
    let other = dir.with_file_name(other);
    fs::rename(dir, &other).unwrap();
    let foreign = other.with_file_name("somebody-elses");
    fs::create_dir(&foreign).unwrap();
    assert_eq!(opened(&scratch).legacy.sessions, []);
    assert!(!other.exists());
    assert!(foreign.exists());
}

#[test]
fn what_a_later_version_wrote_is_left_alone() {
    let scratch = Scratch::new("state");
    let first = writer(opened(&scratch));
    first.handle.put([put(1, "{a}")]);
    write(&first);
    drop(first);
    let text = "format calls 2\n";
    let line = format!("{:08x} {text}", crc32fast::hash(&text.as_bytes()[..14]));
    fs::write(segment(&scratch), &line).unwrap();
    let found = opened(&scratch);
    assert_eq!(found.legacy.sessions, []);
    let files = fs::read_dir(segment(&scratch).parent().unwrap()).unwrap();
    let kept = files.flatten().filter(|file| {
        let name = file.file_name();
        name != "tallies" && fs::read_to_string(file.path()).unwrap() == line
    });
    assert_eq!(kept.count(), 1);
}

/// A relay whose first port is another one has another directory; what is not the relay's is no record.
#[test]
fn other_relays_and_other_records() {
    let scratch = Scratch::new("state");
    let first = writer(opened(&scratch));
    first.handle.put([put(1, "{a}")]);
    write(&first);
    let other = open(scratch.path(), (50_000, 50_100)).unwrap();
    assert_eq!(other.legacy.sessions, []);
    for text in [
        "session",
        "session x 192.0.2.1:1 yes {}",
        "session 11111111-1111-4111-8111-111111111111 192.0.2.1 yes {}",
        "session 11111111-1111-4111-8111-111111111111 192.0.2.1:1 {}",
        "left left x 60000",
        "left left 1",
        "over",
        "",
    ] {
        assert_eq!(Record::parse(text.as_bytes()), None, "{text}");
        assert!(
            matches!(read(text.as_bytes(), &mut HashMap::new()), Line::Other),
            "{text}"
        );
    }
}

/// The latest state of each session waits, and nothing of those that are over.
#[test]
fn a_disk_that_is_full_stops_nobody() {
    let scratch = Scratch::new("state");
    let mut full = opened(&scratch);
    full.log.set_size(1);
    let mut writer = writer(full);
    for round in 0..100 {
        let changes = (0..50).map(|number| put(number, &format!("{{{round}}}")));
        writer.handle.put(changes);
        write(&writer);
        writer.handle.put((10..50).map(over));
        write(&writer);
    }
    assert_eq!(writer.log.in_memory().len(), 10);
    assert_eq!(writer.handle.lock().written.len(), 10);
    writer.log.set_size(OPTIONS.size);
    writer.log.tend();
    assert_eq!(writer.log.in_memory().len(), 0);
    drop(writer);
    let found = states(&opened(&scratch).legacy);
    assert_eq!(found.len(), 10);
    assert!(found.values().all(|state| state == "{99}"), "{found:?}");
}
