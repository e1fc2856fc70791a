//! Two minutes of every attack of one_by_one.rs at once, slower than each alone, while calls go on. `SOAK_SECONDS` is
//! another length, `SOAK_WITHOUT=NAME,NAME` leaves attacks out; `make soak` is ten minutes, with a line every ten seconds. What normal calls saw, each error with its
//! cause, is told at the end and kept in `target/tmp/attacks/soak.md`.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use mediaproxy::sys::clock;

use super::field::{Field, Setting};
use super::load::{Figures, Load};
use super::trial::{self, Attack, HEAD, Limits, Row};
use super::{neighbours, probes, rogues, strangers};

const SECONDS: u64 = 120;

/// All attackers share this machine with the daemons and the calls.
const EASE: u32 = 20;

/// Without an attack, to compare with.
const QUIET: Duration = Duration::from_secs(3);

/// Of everything at once, before what is measured: what is kept for good has a bound, and is filled by then.
const FIRST: Duration = Duration::from_secs(10);

/// KiB that are remembered of a call that is over.
const REMEMBERED: u64 = 3;

/// Ends of calls that the dispatcher does not know, which it records of two relays in an hour, and KiB that it remembers of
/// them.
const UNKNOWN: u64 = 40_000;
const UNKNOWN_KEPT: u64 = 32 << 10;

const ATTACKS: &[Attack] = &[
    ("half requests", neighbours::half_requests),
    ("unread answers", neighbours::unread_answers),
    ("unknown removals", neighbours::unknown_removals),
    ("deaf administrators", neighbours::deaf_administrators),
    ("false answers", neighbours::lies),
    ("unread logs", neighbours::stalled_logs),
    ("ringing", neighbours::ringing),
    ("silent at the relay port", strangers::silent_to_relay_port),
    (
        "silent at the management port",
        strangers::silent_to_management,
    ),
    ("replayed hellos", strangers::replayed_hellos),
    ("garbage", strangers::garbage),
    ("datagrams", strangers::datagrams),
    ("slow scrapers", strangers::slow_scrapers),
    ("long lists", rogues::long_lists),
    ("invented ends", rogues::invented_ends),
    ("huge call-ids", rogues::huge_call_ids),
    ("others' dialogs", rogues::others_dialogs),
    ("arrays", rogues::arrays),
    ("rogue dispatcher", rogues::dispatcher),
];

const PROBES: &[probes::Probe] = &[
    probes::RELAY_CONNECTS,
    probes::ADMINISTRATOR_ASKS,
    probes::ADMINISTRATOR_ASKS_HERE,
    probes::BOTH_SCRAPED,
    probes::DIALOG_REFUSED,
];

/// Faults by what they are about, numbers left out, with how many there were and one of each.
fn by_cause(faults: &[String]) -> Vec<String> {
    let mut kinds: BTreeMap<String, (usize, &String)> = BTreeMap::new();
    for fault in faults {
        let kind: String = fault
            .chars()
            .filter(|c| !c.is_ascii_digit())
            .take(120)
            .collect();
        kinds.entry(kind).or_insert((0, fault)).0 += 1;
    }
    let told = kinds.values();
    told.map(|(count, fault)| format!("{count} x {fault}"))
        .collect()
}

#[test]
fn everything_at_once() {
    let seconds = std::env::var("SOAK_SECONDS").ok();
    let seconds = seconds.map_or(SECONDS, |text| {
        text.parse().expect("SOAK_SECONDS is a number")
    });
    let length = Duration::from_secs(seconds);
    let _turn = trial::turn();
    let mut field = Field::start(
        "soak",
        Setting {
            rogue_dispatcher: true,
            more: "[Dispatcher]\nmax_unanswered_per_address = 100\n",
        },
    );
    let target = field.target.clone();
    let without = std::env::var("SOAK_WITHOUT").unwrap_or_default();
    let is_in = |(name, _): &&Attack| !without.split(',').any(|one| one == *name);
    let attacks: Vec<Attack> = ATTACKS.iter().filter(is_in).copied().collect();
    let warm = Load::run(&target, Duration::from_secs(1));
    let empty = field.taken();
    let first = Load::start(&target);
    thread::sleep(Duration::from_secs(1));
    trial::attack(&mut field, (&attacks, EASE), &[], FIRST, |_, _| ()).unwrap();
    let first = first.finish();
    let quiet = Load::run(&target, QUIET);
    let before = trial::settled(&field, empty, REMEMBERED * (first.calls + quiet.calls));
    println!("empty {empty:?}\nbefore {before:?}");
    let books = target.logs.each_ref().map(|log| log.book());

    let load = Load::start(&target);
    thread::sleep(Duration::from_secs(1));
    let asked_before = trial::asked_to_end(&target).len();
    let start = clock::moment();
    let mut next = Duration::from_secs(10);
    let seen = trial::attack(
        &mut field,
        (&attacks, EASE),
        PROBES,
        length,
        |taken, failed| {
            let now = clock::moment() - start;
            if now < next {
                return;
            }
            next += Duration::from_secs(10);
            let figures = load.figures();
            let lines: u64 = target.logs.iter().map(|log| log.book().strange).sum();
            println!(
                "{:4} s: {} calls, {} packets, {} lost, {} errors, {} late, p50 {:.1?}, p99 {:.1?}; dispatcher {} MiB, {} files, \
             {} s of processors; relay {} MiB, {} files, {} s; {lines} lines; {failed} tries failed",
                now.as_secs(),
                figures.calls,
                figures.packets.sent,
                figures.packets.lost,
                figures.errors.len(),
                figures.late.len(),
                figures.percentile(50),
                figures.percentile(99),
                taken[0].memory >> 10,
                taken[0].descriptors,
                taken[0].processor / 100,
                taken[1].memory >> 10,
                taken[1].descriptors,
                taken[1].processor / 100,
            );
        },
    );
    thread::sleep(Duration::from_secs(1));
    let figures = load.finish();
    let seen = seen.unwrap();
    let (recorded, invented) = trial::records(&target.records, &[&warm, &first, &quiet, &figures]);
    let limits = Limits {
        length,
        times: 20,
        in_any_case: Duration::from_millis(400),
        lost: 1000,
        // One for each end that was taken for that of a call of before; and those of calls that rang or were a dispatcher's.
        lines: (2000 + invented, 60),
        kept: UNKNOWN_KEPT + REMEMBERED * figures.calls,
        invented: UNKNOWN,
        // A scrape that gave way to slow ones, or a dialog that another answer overtook, while everything attacks.
        failed: 1,
        ..Limits::default()
    };
    let after = trial::settled(&field, before, limits.kept);
    let row = Row {
        name: "soak".to_owned(),
        quiet,
        attacked: figures,
        taken: [0, 1].map(|i| [before[i], seen.most[i], after[i]]),
        logs: [0, 1].map(|i| target.logs[i].book().since(&books[i])),
        did: seen.did,
        probes: seen.probes,
        invented,
    };
    let mut complaints = row.complaints(&limits);
    complaints.extend(recorded);
    let asked = trial::asked_to_end(&target).split_off(asked_before);
    if !asked.is_empty() {
        complaints.push(format!("calls that go on were to be ended: {asked:?}"));
    }
    complaints.extend(field.stop().err());
    let causes = causes(&row.attacked);
    trial::keep(&row, &causes, &target.logs);
    println!(
        "{HEAD}\n{row}\n{}\n{}",
        row.did.join("\n"),
        causes.join("\n")
    );
    assert!(complaints.is_empty(), "{}", complaints.join("\n  "));
}

/// Whatever a normal call saw, and why.
fn causes(figures: &Figures) -> Vec<String> {
    let mut told = Vec::new();
    for (what, faults) in [
        ("errors", &figures.errors),
        ("media", &figures.media),
        ("late", &figures.late),
    ] {
        told.push(format!("{what}: {}", faults.len()));
        told.extend(
            by_cause(faults)
                .into_iter()
                .map(|fault| format!("  {fault}")),
        );
    }
    told
}
