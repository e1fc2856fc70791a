//! One attack, or several at once: calls before it, with it and after it, and what must be the same.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use mediaproxy::moment::Moment;
use mediaproxy::sys::clock;

use super::field::{Field, Setting, Target};
use super::load::{Figures, Load, standing};
use super::pace::Going;
use super::probes::{self, Probe};
use super::watch::{Book, Log, NORMAL, Taken};

/// What somebody does, and says of it afterwards.
pub type Attack = (&'static str, fn(&Target, &Going) -> String);

/// Calls without an attack, to compare with; and what is before them, so that every thread and buffer is there.
const WARM: Duration = Duration::from_millis(500);
const QUIET: Duration = Duration::from_millis(1500);
/// Calls go on for so long before and after an attack.
const BEFORE: Duration = Duration::from_millis(300);
const AFTER: Duration = Duration::from_millis(700);
/// How often what must be possible is tried.
const PROBED: Duration = Duration::from_millis(400);
/// In so long memory and descriptors are back, and all calls recorded.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an attack may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long it lasts.
    pub length: Duration,
    /// Set-up in the worst of a hundred cases, as a multiple of that without an attack, and what is fine in any case: the
    /// machine has other work.
    pub times: u32,
    pub in_any_case: Duration,
    /// Packets of a million.
    pub lost: u64,
    /// Requests of normal calls that may be refused.
    pub errors: u64,
    /// Lines of both logs that are about no normal call: so many, and so many a second.
    pub lines: (u64, u64),
    /// Bytes of the longest of these.
    pub line: usize,
    /// KiB that a daemon may keep besides a tenth of what it had: what it remembers of calls that are over.
    pub kept: u64,
    /// KiB that a daemon may take for good the first time, where what it keeps has a bound that one wave fills. The attack
    /// that is measured is the second one then, which may take nothing more.
    pub first: Option<u64>,
    /// Calls that are nobody's and were recorded all the same.
    pub invented: u64,
    /// Probes of a thousand that may fail.
    pub failed: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            length: Duration::from_millis(2500),
            times: 10,
            in_any_case: Duration::from_millis(250),
            lost: 0,
            errors: 0,
            lines: (40, 5),
            line: 1000,
            kept: 1024,
            first: None,
            invented: 0,
            failed: 0,
        }
    }
}

/// What was measured, as one line of a table.
pub struct Row {
    pub name: String,
    pub quiet: Figures,
    pub attacked: Figures,
    /// The dispatcher's and the relay's: before, the most, after.
    pub taken: [[Taken; 3]; 2],
    pub logs: [Book; 2],
    pub did: Vec<String>,
    pub probes: (usize, Vec<String>),
    pub invented: u64,
}

pub const HEAD: &str = "| attack | calls | p50 / p99 quiet (ms) | p50 / p99 / longest attacked (ms) | lost of packets | errors, late | \
     dispatcher MiB before, most, after | relay MiB | descriptors before, most, after | lines (KiB) | invented recorded |\n\
     |---|---|---|---|---|---|---|---|---|---|---|";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
        let (quiet, attacked) = (&self.quiet, &self.attacked);
        let memory = |taken: &[Taken; 3]| {
            let mib = taken.map(|taken| format!("{:.1}", taken.memory as f64 / 1024.0));
            mib.join(", ")
        };
        let descriptors = self.taken.each_ref().map(|taken| {
            let all = taken.map(|taken| taken.descriptors.to_string());
            all.join(", ")
        });
        let lines: u64 = self.logs.iter().map(|log| log.strange).sum();
        let bytes: u64 = self.logs.iter().map(|log| log.bytes).sum();
        write!(
            f,
            "| {} | {} | {} / {} | {} / {} / {} | {} of {} | {}, {} | {} | {} | {} | {lines} ({}) | {} |",
            self.name,
            attacked.calls,
            ms(quiet.percentile(50)),
            ms(quiet.percentile(99)),
            ms(attacked.percentile(50)),
            ms(attacked.percentile(99)),
            ms(attacked.longest()),
            attacked.packets.lost,
            attacked.packets.sent,
            attacked.errors.len(),
            attacked.late.len(),
            memory(&self.taken[0]),
            memory(&self.taken[1]),
            descriptors.join("; "),
            bytes / 1024,
            self.invented,
        )
    }
}

impl Row {
    /// What is beyond the limits.
    pub fn complaints(&self, limits: &Limits) -> Vec<String> {
        let mut found = Vec::new();
        for (when, figures) in [
            ("without an attack", &self.quiet),
            ("attacked", &self.attacked),
        ] {
            let told = |faults: &[String]| {
                faults
                    .iter()
                    .take(8)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join("\n    ")
            };
            if figures.errors.len() as u64 > limits.errors {
                let (count, told) = (figures.errors.len(), told(&figures.errors));
                found.push(format!("{when}: {count} errors:\n    {told}"));
            }
            let packets = figures.packets;
            let allowed = packets.sent * limits.lost / 1_000_000;
            if packets.lost > allowed || packets.doubled > 0 || packets.crossed > 0 {
                let told = told(&figures.media);
                found.push(format!("{when}: media, {packets:?}:\n    {told}"));
            }
            if figures.calls == 0 {
                found.push(format!("{when}: no call at all"));
            }
        }
        let (quiet, attacked) = (self.quiet.percentile(99), self.attacked.percentile(99));
        if attacked > (quiet * limits.times).max(limits.in_any_case) {
            let late = self.attacked.late.first();
            found.push(format!(
                "set-up: p99 {attacked:?} instead of {quiet:?}; {late:?}"
            ));
        }
        for (name, [before, most, after]) in ["dispatcher", "relay"].iter().zip(&self.taken) {
            if after.memory > back(before.memory, limits.kept) {
                found.push(format!(
                    "{name}: {} KiB before, {} at most, {} after",
                    before.memory, most.memory, after.memory
                ));
            }
            if after.descriptors > back(before.descriptors, 1) {
                found.push(format!(
                    "{name}: {} descriptors, {} after",
                    before.descriptors, after.descriptors
                ));
            }
        }
        let seconds = (limits.length + BEFORE + AFTER).as_secs();
        for (name, log) in ["dispatcher", "relay"].iter().zip(&self.logs) {
            let allowed = limits.lines.0 + limits.lines.1 * seconds;
            if log.strange > allowed || log.longest > limits.line {
                let most = log.most().join("\n    ");
                found.push(format!(
                    "{name}: {} lines in the log ({allowed} allowed), the longest of {} bytes:\n    {most}",
                    log.strange, log.longest
                ));
            }
        }
        let (done, failed) = &self.probes;
        if failed.len() > (done * limits.failed).div_ceil(1000) {
            let told = failed
                .iter()
                .take(5)
                .cloned()
                .collect::<Vec<_>>()
                .join("\n    ");
            found.push(format!(
                "of {done} tries {} failed:\n    {told}",
                failed.len()
            ));
        }
        if self.invented > limits.invented {
            found.push(format!(
                "{} calls were recorded that never were",
                self.invented
            ));
        }
        found
    }
}

/// What a daemon may have afterwards.
fn back(before: u64, more: u64) -> u64 {
    before + before / 10 + more
}

/// Attackers at work.
pub struct Attackers {
    going: Going,
    threads: Vec<(&'static str, thread::JoinHandle<String>)>,
}

impl Attackers {
    pub fn start(field: &Field, attacks: &[Attack], ease: u32) -> Attackers {
        let going = Going::at_ease(ease);
        let threads = attacks.iter().map(|(name, attack)| {
            let (target, going, attack) = (field.target.clone(), going.clone(), *attack);
            (*name, thread::spawn(move || attack(&target, &going)))
        });
        Attackers {
            threads: threads.collect(),
            going,
        }
    }

    /// What each did.
    pub fn stop(mut self) -> Vec<String> {
        self.going.end();
        let threads = self.threads.drain(..);
        let did = threads.map(|(name, thread)| match thread.join() {
            Ok(did) => format!("{name}: {did}"),
            Err(_) => format!("{name}: it broke"),
        });
        did.collect()
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        self.going.end();
    }
}

/// What was seen while an attack went on.
pub struct Seen {
    /// The most that each daemon took.
    pub most: [Taken; 2],
    pub did: Vec<String>,
    /// How often something was tried that must be possible, and what went wrong.
    pub probes: (usize, Vec<String>),
}

/// Runs the attacks for so long, so many times slower than alone, watches both daemons, and tries what others must be able
/// to do. `tell` is called now and then.
///
/// # Errors
/// A daemon has ended.
pub fn attack(
    field: &mut Field,
    (attacks, ease): (&[Attack], u32),
    probes: &[Probe],
    length: Duration,
    mut tell: impl FnMut([Taken; 2], usize),
) -> Result<Seen, String> {
    let attackers = Attackers::start(field, attacks, ease);
    let end = clock::moment() + length;
    let mut most = field.taken();
    let (mut done, mut failed, mut probe_at) = (0, Vec::new(), Moment::START);
    while clock::moment() < end {
        if clock::moment() >= probe_at {
            probe_at = clock::moment() + PROBED;
            for probe in probes {
                done += 1;
                failed.extend(probes::run(*probe, &field.target).err());
            }
        }
        let taken = field.taken();
        most = [most[0].max(taken[0]), most[1].max(taken[1])];
        tell(taken, failed.len());
        field.check()?;
        thread::sleep(Duration::from_millis(100));
    }
    let did = attackers.stop();
    let taken = field.taken();
    Ok(Seen {
        most: [most[0].max(taken[0]), most[1].max(taken[1])],
        did,
        probes: (done, failed),
    })
}

/// Waits until both have given back what they took, or for as long as that may take.
pub fn settled(field: &Field, before: [Taken; 2], kept: u64) -> [Taken; 2] {
    let end = clock::moment() + PATIENCE;
    loop {
        let taken = field.taken();
        let is_back = taken.iter().zip(before).all(|(after, before)| {
            after.memory <= back(before.memory, kept)
                && after.descriptors <= back(before.descriptors, 1)
        });
        if is_back || clock::moment() > end {
            return taken;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// What is wrong with the records of these calls, once all are there or have had the time for it, and how many others there
/// are.
pub fn records(path: &Path, all: &[&Figures]) -> (Vec<String>, u64) {
    let mut answered: BTreeMap<&str, usize> = BTreeMap::new();
    for call_id in all.iter().flat_map(|figures| &figures.answered) {
        *answered.entry(call_id).or_default() += 1;
    }
    let doubtful = all.iter().flat_map(|figures| &figures.doubtful);
    let doubtful: Vec<&str> = doubtful.map(String::as_str).collect();
    let end = clock::moment() + PATIENCE;
    loop {
        let (recorded, others) = recorded(path);
        let missing = answered
            .iter()
            .filter(|(call_id, count)| recorded.get(**call_id).map_or(0, Vec::len) < **count);
        let missing: Vec<String> = missing
            .map(|(call_id, count)| {
                format!("{call_id} was answered {count} times, not all recorded")
            })
            .collect();
        if !missing.is_empty() && clock::moment() < end {
            thread::sleep(Duration::from_millis(100));
            continue;
        }
        let mut found = missing;
        for (call_id, lines) in &recorded {
            let expected = answered.get(call_id.as_str()).copied().unwrap_or_default();
            let doubts = doubtful.iter().filter(|one| *one == call_id).count();
            if lines.len() > expected + doubts {
                let told = lines.join("\n      ");
                found.push(format!(
                    "{call_id} was answered {expected} times, and recorded:\n      {told}"
                ));
            }
        }
        return (found, others);
    }
}

/// The records of normal calls by Call-ID, and how many others there are.
fn recorded(path: &Path) -> (BTreeMap<String, Vec<String>>, u64) {
    let (mut ours, mut others): (BTreeMap<String, Vec<String>>, u64) = (BTreeMap::new(), 0);
    let Ok(file) = fs::File::open(path) else {
        return (ours, others);
    };
    for line in BufReader::new(file).lines().map_while(Result::ok) {
        // A line that is being written is no record yet.
        let Ok(record) = serde_json::from_str::<serde_json::Value>(&line) else {
            continue;
        };
        match record["call_id"].as_str() {
            Some(call_id) if call_id.starts_with(NORMAL) => {
                ours.entry(call_id.to_owned()).or_default().push(line);
            }
            _ if line.contains("\"probed\"") => {}
            _ => others += 1,
        }
    }
    (ours, others)
}

/// Requests to OpenSIPS about a call of a normal pair of phones: none of these is to be ended.
pub fn asked_to_end(target: &Target) -> Vec<String> {
    let dids = (0..6).map(|index| {
        let number: u64 = standing(index).1.parse().unwrap();
        let digits = |half: u64| -> String { format!("{half:x}").chars().rev().collect() };
        [
            format!("{}.{}", digits(number >> 32), digits(number & 0xffff_ffff)),
            number.to_string(),
        ]
    });
    let names: Vec<String> = dids.flatten().collect();
    let asked = target.dialogs.asked();
    let is_normal =
        |text: &String| text.contains(NORMAL) || names.iter().any(|name| text.contains(name));
    asked.into_iter().filter(is_normal).collect()
}

/// One test at a time: what is measured is the attack, not the test beside it. Held for as long as the test takes.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls without and with these attackers.
///
/// # Panics
/// Where anything is beyond the limits; it says all that is.
pub fn trial(
    name: &str,
    setting: Setting<'_>,
    attacks: &[Attack],
    probes: &[Probe],
    limits: Limits,
) {
    let _turn = turn();
    let mut field = Field::start("attack", setting);
    let target = field.target.clone();
    let warm = Load::run(&target, WARM);
    for probe in probes {
        probes::run(*probe, &target).expect("without an attack");
    }
    let mut complaints = Vec::new();
    if let Some(first) = limits.first {
        let before = field.taken();
        attack(&mut field, (attacks, 1), &[], limits.length, |_, _| ()).unwrap();
        let after = settled(&field, before, first);
        for (before, after) in before.iter().zip(after) {
            if after.memory > back(before.memory, first) {
                let (before, after) = (before.memory, after.memory);
                complaints.push(format!(
                    "the first time: {before} KiB before, {after} after"
                ));
            }
        }
    }
    let quiet = Load::run(&target, QUIET);
    let (before, books) = (field.taken(), target.logs.each_ref().map(|log| log.book()));
    let load = Load::start(&target);
    thread::sleep(BEFORE);
    let attacked = attack(&mut field, (attacks, 1), probes, limits.length, |_, _| ());
    thread::sleep(AFTER);
    let figures = load.finish();
    let seen = attacked.unwrap();
    let after = settled(&field, before, limits.kept);
    let (recorded, invented) = records(&target.records, &[&warm, &quiet, &figures]);
    let row = Row {
        name: name.to_owned(),
        quiet,
        attacked: figures,
        taken: [0, 1].map(|i| [before[i], seen.most[i], after[i]]),
        logs: [0, 1].map(|i| target.logs[i].book().since(&books[i])),
        did: seen.did,
        probes: seen.probes,
        invented,
    };
    complaints.extend(row.complaints(&limits));
    complaints.extend(recorded);
    let asked = asked_to_end(&target);
    if !asked.is_empty() {
        complaints.push(format!("calls that go on were to be ended: {asked:?}"));
    }
    complaints.extend(field.stop().err());
    keep(&row, &[], &target.logs);
    let asked = target.dialogs.asked().len();
    println!(
        "{HEAD}\n{row}\n{}\nOpenSIPS was asked {asked} times",
        row.did.join("\n")
    );
    assert!(
        complaints.is_empty(),
        "{name}:\n  {}",
        complaints.join("\n  ")
    );
}

/// Leaves the row, what else is known and the ends of both logs where whoever wants the figures of a run finds them.
pub fn keep(row: &Row, more: &[String], logs: &[Arc<Log>; 2]) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("attacks");
    let text = format!(
        "{HEAD}\n{row}\n\n{}\n{}\n",
        row.did.join("\n"),
        more.join("\n")
    );
    let file = directory.join(format!("{}.md", row.name.replace(' ', "-")));
    let mut kept = fs::create_dir_all(&directory).and_then(|()| fs::write(&file, text));
    for (log, daemon) in logs.iter().zip(["dispatcher", "relay"]) {
        let path = file.with_extension(format!("{daemon}.log"));
        kept = kept.and_then(|()| fs::write(path, log.kept()));
    }
    if let Err(error) = kept {
        println!("{}: {error}", file.display());
    }
}
