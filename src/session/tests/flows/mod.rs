//! Random call flows against a model of phones that was written from the RFCs: what the model says each phone may expect is what
//! it gets. `phones` is the model, `proxy` the SIP proxy and the network that reorders and repeats; here is what is checked, and
//! what is made of a failure.
//!
//! `FLOWS=100000 cargo test --lib flows` tries more, `FLOWS_FROM=N` from another seed on.

mod phones;
mod proxy;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use self::phones::{Agreed, Chance, Half, Line, Side};
use self::proxy::{Coverage, TAGS, World, tag};
use super::PacketVerdict;
use crate::session::Action;

const STEPS: usize = 60;

/// A packet as the kind of a line has it.
fn packet(kind: &str) -> Vec<u8> {
    match kind {
        "image" => vec![0, 1, 3, 6, 0, 1, 2, 3],
        _ => super::rtp(8),
    }
}

impl World<'_> {
    /// The dialog whose phones can be heard now.
    fn counting(&self) -> Option<usize> {
        match self.winner {
            Some(winner) => Some(winner).filter(|_| !self.unknown),
            None => self.ringing,
        }
    }

    /// Each phone sends a packet for each line that is agreed, and the other gets it where it said, from the port that it was told.
    fn listen(&mut self) -> Result<(), String> {
        if self.ended || self.cut {
            return Ok(());
        }
        if self.begun && self.lab.engine.sessions().live_count() != 1 {
            return Err("the call is gone".into());
        }
        let Some(branch) = self.counting() else {
            return Ok(());
        };
        let halves = [Side::Caller, Side::Callee].map(|side| self.half(side, branch));
        if halves.iter().any(|half| half.over) {
            return Ok(());
        }
        let Some(agreed) = both(halves) else {
            return Ok(());
        };
        self.sounded = true;
        self.lab.pass(6);
        let count = agreed[0].mine.len();
        let mut live = 0;
        for index in 0..count {
            live += usize::from(agreed[0].mine[index].is_on());
            for side in [Side::Caller, Side::Callee] {
                self.speak(side, branch, &agreed, index)?;
            }
        }
        let answered = self.winner.is_some();
        let bound = self.lab.host.bound.len();
        if answered && self.clean && bound != 4 * live {
            return Err(format!("{bound} ports are bound for {live} lines"));
        }
        Ok(())
    }

    fn speak(
        &mut self,
        side: Side,
        branch: usize,
        agreed: &[Agreed; 2],
        index: usize,
    ) -> Result<(), String> {
        let (mine, theirs) = (&agreed[side as usize], &agreed[side.other() as usize]);
        let (line, other) = (&mine.mine[index], &theirs.mine[index]);
        let is_heard = line.is_on() && line.direction.sends() && other.direction.receives() && !other.hidden
            // An SDP without an address does not say where a branch is whose place another has had.
            && !(line.hidden && side == Side::Callee && self.is_forked());
        if !is_heard {
            return Ok(());
        }
        let (port, back) = (mine.told[index], theirs.told[index]);
        let data = packet(line.kind);
        let verdict = self.lab.packet(&line.at.to_string(), port, &data);
        let name = tag(branch, side);
        let hears = PacketVerdict::Forward {
            from_port: back,
            to: other.at,
        };
        self.note(|| format!("  {} {name} {} -> {port}: {verdict:?}", line.kind, line.at));
        if verdict != hears {
            return Err(format!(
                "{} of {name} from {} to port {port}: {verdict:?}, should be {hears:?}",
                line.kind, line.at
            ));
        }
        // Nobody hears another branch.
        if side == Side::Callee {
            for other in (0..self.seen.len()).filter(|&other| other != branch) {
                let half = self.half(Side::Callee, other);
                let lines = half.agreed.iter().flat_map(|agreed| &agreed.mine);
                let same = |line: &&Line| line.is_on() && line.stream == mine.mine[index].stream;
                let Some(at) = lines.clone().find(same).map(|line| line.at) else {
                    continue;
                };
                let verdict = self.lab.packet(&at.to_string(), port, &data);
                if matches!(verdict, PacketVerdict::Forward { .. }) {
                    let name = TAGS[other];
                    return Err(format!("{name} at {at} is heard: {verdict:?}"));
                }
            }
        }
        Ok(())
    }

    /// Nothing is left, and the call is told as it was.
    fn end(&mut self, chance: &mut Chance) -> Result<(), String> {
        self.finish(chance)?;
        if self.cut {
            self.lab.pass(100_000);
        } else if !self.ended {
            return Err("the model's call does not end".into());
        }
        let (sessions, bound) = (
            self.lab.engine.sessions().live_count(),
            self.lab.host.bound.len(),
        );
        if (sessions, bound) != (0, 0) {
            return Err(format!("{sessions} sessions and {bound} ports are left"));
        }
        if !self.begun || self.cut {
            return Ok(());
        }
        let ended = self.lab.actions.iter().find_map(|action| match action {
            Action::Removed { ended, .. } => Some(ended.clone()),
            _ => None,
        });
        let ended = ended.ok_or("no statistics")?;
        // A call that only rang with media is told, too (C5); its to_tag says that nobody answered.
        if self.winner.is_some() && !ended.is_answered {
            return Err("an answered call is not accounted".into());
        }
        let told: serde_json::Value = serde_json::from_slice(&ended.statistics).unwrap();
        let to_tag = self.winner.map(|winner| TAGS[winner]);
        if told["to_tag"].as_str() == to_tag {
            Ok(())
        } else {
            Err(format!("accounted with to_tag {}", told["to_tag"]))
        }
    }
}

/// What both agreed on, where it is the same.
fn both(halves: [&Half; 2]) -> Option<[Agreed; 2]> {
    let [caller, callee] = halves.map(|half| half.agreed.clone());
    let (caller, callee) = (caller?, callee?);
    let streams = |agreed: &Agreed| agreed.mine.iter().map(|l| l.stream).collect::<Vec<_>>();
    assert_eq!(
        streams(&caller),
        streams(&callee),
        "the model's phones agree on different things"
    );
    Some([caller, callee])
}

/// A flow: how it starts, and a number for each step.
#[derive(Clone)]
struct Flow {
    start: u64,
    steps: Vec<u64>,
}

impl Flow {
    fn of(seed: u64) -> Flow {
        let mut chance = Chance(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        Flow {
            start: chance.next(),
            steps: (0..STEPS).map(|_| chance.next()).collect(),
        }
    }

    /// The failure, if there is one, with the steps that it took and what happened.
    fn run(&self, coverage: &mut Coverage, logs: bool) -> Result<(), (usize, String)> {
        let mut world = World::new(self.start, coverage, logs);
        let mut step = 0;
        let result = catch_unwind(AssertUnwindSafe(|| {
            for &number in &self.steps {
                step += 1;
                world.step(number)?;
            }
            step = self.steps.len();
            world.end(&mut Chance(self.start))
        }));
        let failure = match result {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(words)) => words,
            Err(panic) => {
                let words = panic.downcast::<String>().map(|words| *words);
                format!("panic: {}", words.unwrap_or_default())
            }
        };
        let log = world.log.take().unwrap_or_default().join("\n");
        Err((step, format!("{log}\n  => {failure}")))
    }

    /// The same failure in fewer steps.
    fn shrunk(mut self, kind: &str) -> Flow {
        let fails = |flow: &Flow| {
            let (step, words) = flow.run(&mut Coverage::new(), false).err()?;
            (kind_of(&words) == kind).then_some(step)
        };
        if let Some(step) = fails(&self) {
            self.steps.truncate(step);
        }
        let mut index = self.steps.len();
        while index > 0 {
            index -= 1;
            let mut less = self.clone();
            less.steps.remove(index);
            if let Some(step) = fails(&less) {
                less.steps.truncate(step);
                self = less;
                index = index.min(self.steps.len());
            }
        }
        self
    }
}

/// What a failure is like, without what differs from flow to flow.
fn kind_of(failure: &str) -> String {
    let line = failure.rsplit("=> ").next().unwrap_or_default();
    let words = line.split(|c: char| !c.is_ascii_alphabetic());
    let is_medium = |word: &&str| ["audio", "video", "image", "application", "text"].contains(word);
    let words = words.filter(|word| word.len() > 1 && !is_medium(word));
    words.collect::<Vec<_>>().join(" ")
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What a message of a phone finds in its dialog, as the proxy sees it: `state | message`, a row for each pair that RFC 6337's
/// patterns and their crossings on the way allow. Each must have happened.
const TABLE: &str = include_str!("table.txt");

/// So many flows reach every row.
const FLOWS: u64 = 4000;

#[test]
fn c2_c3_c4_random_flows_give_each_phone_what_the_model_says() {
    let count = number("FLOWS").unwrap_or(FLOWS);
    let from = number("FLOWS_FROM").unwrap_or(0);
    let mut coverage = Coverage::new();
    let mut failures: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for seed in from..from + count {
        if let Err((_, words)) = Flow::of(seed).run(&mut coverage, false) {
            failures.entry(kind_of(&words)).or_insert((0, seed)).0 += 1;
        }
    }
    for (kind, (count, seed)) in &failures {
        let flow = Flow::of(*seed).shrunk(kind);
        let failure = flow.run(&mut Coverage::new(), true).err();
        let words = failure.map(|(_, words)| words).unwrap_or_default();
        eprintln!("== {count} flows, first seed {seed}: {kind}\n{words}");
    }
    assert!(failures.is_empty(), "flows fail, see above");
    let reached: BTreeSet<String> = coverage
        .iter()
        .map(|(state, message)| format!("{state} | {message}"))
        .collect();
    let missing: Vec<&str> = TABLE
        .lines()
        .filter(|&row| !reached.contains(row))
        .collect();
    assert!(
        count < FLOWS || missing.is_empty(),
        "never reached: {missing:#?}"
    );
    let again = |state: &str| {
        reached
            .iter()
            .any(|row| row.starts_with(state) && row.ends_with("once more"))
    };
    for state in TABLE.lines().filter_map(|row| Some(row.split_once('|')?.0)) {
        assert!(
            count < FLOWS || again(state) || state == "new, nothing ",
            "nothing came once more in: {state}"
        );
    }
}
