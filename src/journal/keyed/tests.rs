//! What of each key counts, whatever the disk does.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use super::*;
use crate::sys::scratch::Scratch;

thread_local! {
    static TOLD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What was said since it was last asked.
fn told() -> Vec<String> {
    TOLD.with_borrow_mut(std::mem::take)
}

/// Lines such as `put 7 words`.
struct Words<const VERSION: u32>;

impl<const VERSION: u32> Kind for Words<VERSION> {
    type Key = u32;
    /// How long the words are.
    type Value = usize;
    const NAME: &'static str = "some words";
    const VERSION: u32 = VERSION;
    const REMOVED: &'static str = "gone";

    fn tell(news: News<'_, u32>) {
        let text = match news {
            News::Refused(why, _) => format!("refused: {why}"),
            News::GivenUp(text, _) => format!("given up: {}", String::from_utf8_lossy(text)),
            News::Unfit(why, _) => format!("unfit: {why}"),
            News::TakenAgain => "taken again".to_owned(),
            News::Unsynced(error, _) => format!("unsynced: {error}"),
            News::Damaged(key) => format!("damaged: {key}"),
            News::NotRemoved(error) => format!("not removed: {error}"),
        };
        TOLD.with_borrow_mut(|told| told.push(text));
    }
}

type Log = KeyedLog<Words<1>>;

const OPTIONS: Options = Options {
    size: 1 << 20,
    segment: 1 << 12,
    memory: 1 << 10,
    moved: 10,
};

fn read<const VERSION: u32>(text: &[u8]) -> Line<Words<VERSION>> {
    let text = String::from_utf8_lossy(text);
    let mut words = text.splitn(3, ' ');
    let word = words.next();
    let key = words.next().and_then(|key| key.parse().ok());
    match (word, key) {
        (Some("put"), Some(key)) => Line::Put(key, words.next().unwrap_or_default().len()),
        (Some("gone"), Some(key)) => Line::Remove(key),
        _ => Line::Other,
    }
}

fn open_with<const VERSION: u32>(scratch: &Scratch, options: Options) -> KeyedLog<Words<VERSION>> {
    KeyedLog::open(scratch.path(), options, read).unwrap()
}

fn open(scratch: &Scratch) -> Log {
    open_with(scratch, OPTIONS)
}

fn put(log: &Log, key: u32, words: &str) {
    log.put(key, words.len(), format!("put {key} {words}").into_bytes());
}

fn all(log: &Log) -> Vec<(u32, String)> {
    let mut keys = Vec::new();
    log.each(|key, length| keys.push((key, *length)));
    let text = |(key, length): (u32, usize)| {
        let text = String::from_utf8(log.text(key).unwrap()).unwrap();
        let words = text.splitn(3, ' ').nth(2).unwrap().to_owned();
        assert_eq!(words.len(), length, "{text}");
        (key, words)
    };
    keys.into_iter().map(text).collect()
}

fn expected(pairs: &[(u32, &str)]) -> Vec<(u32, String)> {
    pairs
        .iter()
        .map(|(k, words)| (*k, (*words).to_owned()))
        .collect()
}

fn file(scratch: &Scratch, name: &str) -> PathBuf {
    scratch.path().join(name)
}

#[test]
fn the_last_record_of_a_key_counts_until_it_is_removed() {
    let scratch = Scratch::new("keyed");
    let log = open(&scratch);
    put(&log, 1, "one");
    put(&log, 2, "two");
    put(&log, 1, "another");
    put(&log, 3, "three");
    log.remove(3);
    log.remove(4);
    let left = expected(&[(2, "two"), (1, "another")]);
    assert_eq!(all(&log), left);
    assert_eq!(log.text(3), None);
    drop(log);
    let log = open(&scratch);
    assert_eq!((all(&log), log.count()), (left, 2));
    let text = fs::read_to_string(file(&scratch, "0000000001.journal")).unwrap();
    let lines: Vec<&str> = text.lines().map(|line| &line[9..]).collect();
    let written = [
        "format some words 1",
        "put 1 one",
        "put 2 two",
        "put 1 another",
        "put 3 three",
        "gone 3",
    ];
    assert_eq!(lines, written);
    assert_eq!(told(), [""; 0]);
}

/// The machine stopped while the last change was written.
#[test]
fn a_torn_end_costs_one_change_of_one_key() {
    let scratch = Scratch::new("keyed");
    let log = open(&scratch);
    put(&log, 1, "one");
    put(&log, 2, "two");
    put(&log, 1, "another");
    drop(log);
    let path = file(&scratch, "0000000001.journal");
    let whole = fs::read(&path).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n');
    for cut in last.unwrap() + 1..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let log = open(&scratch);
        assert_eq!(
            all(&log),
            expected(&[(1, "one"), (2, "two")]),
            "cut at {cut}"
        );
    }
}

#[test]
fn what_is_damaged_on_disk_costs_itself_alone() {
    let scratch = Scratch::new("keyed");
    let log = open(&scratch);
    put(&log, 1, "one");
    put(&log, 2, "two");
    let path = file(&scratch, "0000000001.journal");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(3).position(|part| part == b"one").unwrap();
    bytes[at] = b'O';
    fs::write(&path, &bytes).unwrap();
    assert_eq!(log.text(1), None);
    // Found when the segment is made small.
    for number in 0..400 {
        put(&log, 3, &"x".repeat(20 + number % 2));
    }
    log.tend();
    assert_eq!(told(), ["damaged: 1"]);
    assert_eq!(
        (log.count(), log.text(2).unwrap()),
        (2, b"put 2 two".to_vec())
    );
}

#[test]
fn what_the_disk_refuses_is_kept_in_memory_and_written_later() {
    let scratch = Scratch::new("keyed");
    let mut log = open(&scratch);
    put(&log, 1, "one");
    put(&log, 2, "two");
    put(&log, 3, "three");
    let full = log.size();
    log.set_size(full);
    put(&log, 1, "another");
    put(&log, 4, "four");
    put(&log, 4, "four again");
    log.remove(2);
    put(&log, 5, "five");
    log.remove(5);
    let left = expected(&[(1, "another"), (3, "three"), (4, "four again")]);
    assert_eq!(all(&log), left);
    let texts = |log: &Log| -> Vec<String> {
        let texts = log.in_memory().into_iter();
        texts
            .map(|text| String::from_utf8(text.to_vec()).unwrap())
            .collect()
    };
    assert_eq!(texts(&log), ["put 1 another", "put 4 four again"]);
    log.tend();
    assert_eq!(told(), ["refused: the journal has reached its size limit"]);
    // What the disk has is what the next start finds should this process be killed now.
    let before = expected(&[(1, "one"), (2, "two"), (3, "three")]);
    assert_eq!(all(&open(&scratch)), before);
    log.set_size(OPTIONS.size);
    put(&log, 6, "behind those that wait");
    assert_eq!(texts(&log).len(), 3);
    log.tend();
    assert_eq!(
        (told(), texts(&log)),
        (vec!["taken again".into()], Vec::new())
    );
    let left = expected(&[
        (3, "three"),
        (1, "another"),
        (4, "four again"),
        (6, "behind those that wait"),
    ]);
    assert_eq!(all(&log), left);
    drop(log);
    assert_eq!(all(&open(&scratch)), left);
}

#[test]
fn memory_is_bounded_while_the_disk_refuses() {
    let scratch = Scratch::new("keyed");
    let mut log = open(&scratch);
    put(&log, 1, "one");
    let full = log.size();
    log.set_size(full);
    for key in 0..100 {
        put(&log, key, &"x".repeat(90));
    }
    let count = log.in_memory().len();
    assert!((8..=10).contains(&count), "{count}");
    // Those that fit, and the first one on disk or in memory.
    assert_eq!(log.count(), count);
    assert_eq!(
        told().len(),
        1 + 100 - count,
        "the refusal, and each that is given up"
    );
    (0..100).for_each(|key| log.remove(key));
    assert_eq!((log.count(), log.in_memory().len()), (0, 0));
    log.set_size(OPTIONS.size);
    log.tend();
    assert_eq!(told(), ["taken again"]);
    assert!(all(&open(&scratch)).is_empty(), "nothing comes back");
}

#[test]
fn what_no_disk_takes_costs_itself_alone() {
    let scratch = Scratch::new("keyed");
    let log = open(&scratch);
    put(&log, 1, "one");
    put(&log, 1, "two\nlines");
    put(&log, 2, "two\nlines");
    assert_eq!(told(), ["unfit: it has a line feed in it"; 2]);
    assert_eq!(
        (log.count(), log.text(1).unwrap()),
        (1, b"put 1 one".to_vec())
    );
    assert!(log.in_memory().is_empty());
}

/// A few lasting ones are among many that come and go.
#[test]
fn a_log_stays_small_however_much_goes_through_it() {
    let scratch = Scratch::new("keyed");
    let log = open(&scratch);
    for lasting in 0..40 {
        put(&log, lasting, "lasting");
        for short in 1_000..1_100 {
            put(&log, short, "short");
            log.remove(short);
        }
        log.tend();
        // More than are moved whatever is behind them: only when most of the log is of no use.
        let most = (SPRAWL_FACTOR + 3) * OPTIONS.segment;
        assert!(log.size() < most, "{lasting}: {}", log.size());
    }
    assert!(log.journal.start().segment > 1);
    drop(log);
    let log = open(&scratch);
    let mut left = all(&log);
    left.sort_unstable();
    let lasting: Vec<_> = (0..40).map(|key| (key, "lasting".to_owned())).collect();
    assert_eq!(left, lasting);
}

/// As a version wrote it that knew no formats.
#[test]
fn a_log_without_a_format_is_read_and_goes_on_in_another_segment() {
    let scratch = Scratch::new("keyed");
    let mut old = Vec::new();
    for line in ["put 1 one", "put 2 two", "gone 1"] {
        crate::journal::record::write(&mut old, line.as_bytes()).unwrap();
    }
    let path = file(&scratch, "0000000001.journal");
    fs::write(&path, &old).unwrap();
    let log = open(&scratch);
    assert_eq!(all(&log), expected(&[(2, "two")]));
    assert_eq!(fs::read(&path).unwrap(), old);
    put(&log, 3, "three");
    assert_eq!(fs::read(&path).unwrap(), old);
    let second = fs::read_to_string(file(&scratch, "0000000002.journal")).unwrap();
    assert!(second.contains(" format some words 1\n") && second.contains(" put 3 three\n"));
    drop(log);
    let log = open(&scratch);
    put(&log, 4, "four");
    assert!(!file(&scratch, "0000000003.journal").exists());
    assert_eq!(log.count(), 3);
}

/// An older version was installed again.
#[test]
fn what_a_later_version_wrote_is_set_aside_and_not_lost() {
    let scratch = Scratch::new("keyed");
    let log = open_with::<2>(&scratch, OPTIONS);
    log.put(1, 3, b"put 1 one".to_vec());
    drop(log);
    let path = file(&scratch, "0000000001.journal");
    let later = fs::read(&path).unwrap();
    let log = open(&scratch);
    assert_eq!(log.count(), 0);
    let aside = file(&scratch, "0000000001.foreign0");
    assert_eq!(fs::read(&aside).unwrap(), later);
    put(&log, 2, "two");
    drop(log);
    // The later one reads both, once the file has its name again.
    fs::rename(&aside, file(&scratch, "0000000002.journal")).unwrap();
    assert_eq!(open_with::<2>(&scratch, OPTIONS).count(), 2);
}

/// A dispatcher has one for each live call.
#[test]
fn what_is_known_of_a_key_is_small() {
    type IdAndOrder = (u128, Entry<[u64; 2]>);
    assert!(std::mem::size_of::<IdAndOrder>() <= 80);
}
