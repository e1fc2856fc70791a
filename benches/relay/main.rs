//! `make bench`: call set-up, listing, memory and forwarding in user space, beside Debian's rtpengine in the same
//! run, as ratios that hold on any machine. Everything on loopback, bounded in time; root is not needed but for
//! the count of system calls (perf).
//!
//! The first argument is the directory of the binaries; more of them name the parts wanted, all by default. Exit status: 0 when every bound holds, 1 otherwise.

mod aside;
mod callers;
mod flows;
mod journal;
mod listing;
mod neighbours;
mod processes;
mod rtpengine;
mod setup;
mod sides;

/// The tests' daemons and proxy. They are in no package that both could depend on, since whoever builds the daemons is not
/// to build that too.
#[path = "../../tests/support"]
#[allow(dead_code, reason = "the tests use the rest")]
mod support {
    pub mod daemons;
    pub mod management;
    pub mod ports;
    pub mod proxy;
    pub mod scratch;
}

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Claims, each with its bound, and whether all hold.
pub struct Verdicts {
    all_hold: bool,
}

impl Verdicts {
    /// Prints one claim and whether it holds.
    pub fn claim(&mut self, what: &str, holds: bool) {
        println!("  {}: {what}", if holds { "PASS" } else { "FAIL" });
        self.all_hold &= holds;
    }
}

type Part = fn(&Path, &mut Verdicts) -> Result<(), String>;

/// What is measured, by name, in order.
const PARTS: [(&str, Part); 4] = [
    ("setup", setup::run),
    ("journal", journal::run),
    ("listing", listing::run),
    ("flows", flows::run),
];

fn main() -> ExitCode {
    // cargo bench adds "--bench".
    let arguments = std::env::args_os().skip(1);
    let mut arguments = arguments.filter(|argument| argument != "--bench");
    let Some(binaries) = arguments.next().map(PathBuf::from) else {
        eprintln!(
            "usage: cargo bench --bench relay -- DIRECTORY (of the daemons; `make bench` knows) [PART..]"
        );
        return ExitCode::from(2);
    };
    let wanted: Vec<OsString> = arguments.collect();
    let mut verdicts = Verdicts { all_hold: true };
    for (name, part) in PARTS {
        if !wanted.is_empty() && !wanted.iter().any(|part| part == name) {
            continue;
        }
        if let Err(why) = part(&binaries, &mut verdicts) {
            eprintln!("bench: {why}");
            return ExitCode::FAILURE;
        }
    }
    if verdicts.all_hold {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The middle, the smallest and the largest of some measurements.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Spread {
            median: values.get(values.len() / 2).copied().unwrap_or_default(),
            least: values.first().copied().unwrap_or_default(),
            most: values.last().copied().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let Spread {
            median,
            least,
            most,
        } = self;
        write!(f, "{median:.digits$} ({least:.digits$} to {most:.digits$})")
    }
}
