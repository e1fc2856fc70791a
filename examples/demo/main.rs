//! `make demo`: a few calls through both daemons on loopback, without root, with phones that exchange RTP and
//! RTCP and notice every packet that is lost, doubled or delivered to the wrong call.
//!
//! The argument is the directory of the binaries. Exit status: 0 when every packet arrived once, 1 otherwise.

mod calls;
mod phones;
mod show;

/// The tests' daemons and proxy (as benches/relay/main.rs has them).
#[path = "../../tests/support"]
#[allow(dead_code, reason = "the tests use the rest")]
mod support {
    pub mod daemons;
    pub mod management;
    pub mod ports;
    pub mod proxy;
    pub mod scratch;
}

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use mediaproxy::sys::clock;
use mediaproxy::sys::signals::SignalWaiter;

use calls::{Call, Step};
use phones::Phones;
use show::Screen;
use support::daemons::{self, Daemons};
use support::management::Management;
use support::ports::PortRange;
use support::proxy::Proxy;
use support::scratch::Scratch;

/// How long the calls last.
const LENGTH: Duration = Duration::from_secs(9);
/// Longest wait for packets that are under way when the phones have gone quiet.
const SETTLE: Duration = Duration::from_secs(1);
/// Ports for the relay: four for each stream, with room for those that are taken.
const PORTS: u16 = 400;

/// Somebody wants us to end: everything is put away before we do.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let Some(binaries) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!(
            "usage: demo DIRECTORY (where media-dispatcher and media-relay are; `make demo` knows)"
        );
        return ExitCode::from(2);
    };
    match run(&binaries) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("demo: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The whole of it; whether nothing was lost.
fn run(binaries: &Path) -> Result<bool, String> {
    watch_for_interrupts();
    let scratch = Scratch::new("mediaproxy-demo")?;
    let directory = scratch.path();
    println!(
        "Everything of this demo is in {} and goes away with it.\n",
        directory.display()
    );
    println!(
        "1. Certificates. Dispatcher and relay meet over TLS and each proves who it is, so that nobody"
    );
    println!("   else can hand calls to your relay. (tls/make-certs.sh makes them.)");
    daemons::make_certificates(directory)?;
    println!(
        "2. media-dispatcher listens for the SIP proxy on a UNIX socket; media-relay connects to it, and"
    );
    println!("   phones will send their packets through it.");
    let ports = PortRange::find(PORTS)?;
    daemons::write_config(directory, ports)?;
    let mut daemons = Daemons::start(binaries, directory)?;
    println!(
        "3. Four calls. For each SDP that passes, the SIP proxy asks for ports and writes them into it in"
    );
    println!(
        "   place of the phones' own, so both phones talk to the relay. That is what we do now.\n"
    );
    let outcome = place_calls(&daemons, &binaries.join("media-admin"));
    if let Err(why) = &outcome {
        // A daemon that is gone is the likelier cause than what was seen of it.
        daemons.check().map_err(|cause| format!("{why}\n{cause}"))?;
    }
    let ended = daemons.stop();
    let clean = outcome?;
    ended?;
    println!("\nBoth daemons ended as asked, the scratch directory is removed.");
    Ok(clean)
}

/// Ctrl-C and TERM end the demo in good order. To be called before any thread is started.
fn watch_for_interrupts() {
    let signals = SignalWaiter::block();
    thread::spawn(move || {
        signals.wait();
        INTERRUPTED.store(true, Ordering::Relaxed);
    });
}

fn interrupted() -> Result<(), String> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        Err("interrupted".to_owned())
    } else {
        Ok(())
    }
}

/// The calls from the first offer to the last word on them.
fn place_calls(daemons: &Daemons, admin: &Path) -> Result<bool, String> {
    let told = |error: std::io::Error| error.to_string();
    let mut calls = calls::all().map_err(told)?;
    let phones = Phones::start(calls.iter().flat_map(Call::legs).collect()).map_err(told)?;
    let mut proxy = Proxy::connect(&daemons.control_socket()).map_err(told)?;
    let mut management = Management::connect(&daemons.management_socket()).map_err(told)?;
    let mut screen = Screen::new();
    let mut script: Vec<(Duration, usize, Step)> = calls::script();
    let start = clock::moment();
    while clock::moment() - start < LENGTH {
        interrupted()?;
        let passed = clock::moment() - start;
        while script.first().is_some_and(|(when, _, _)| *when <= passed) {
            let (_, index, step) = script.remove(0);
            let told = calls[index].take_step(step, &mut proxy, &phones)?;
            screen.event(passed, &told);
        }
        screen.update(passed, || management.ask("sessions").map_err(told))?;
        thread::sleep(Duration::from_millis(20));
    }
    settle(&calls);
    screen.finish();
    let sessions = management.ask("sessions").map_err(told)?;
    let seen = ["sessions", "summary"].map(|command| admin_says(admin, daemons, command));
    for call in &mut calls {
        call.hang_up(&mut proxy)?;
    }
    let left = management.ask("sessions").map_err(told)?;
    println!(
        "4. All have hung up. Just before, `media-admin sessions` and `media-admin summary` had said:\n"
    );
    for text in seen {
        println!("{}", text?);
    }
    if !left.is_empty() {
        return Err(format!("sessions are left after hanging up: {left:?}"));
    }
    Ok(show::totals(&calls, &sessions))
}

/// What `media-admin` says of the calls, as an administrator sees it.
fn admin_says(admin: &Path, daemons: &Daemons, command: &str) -> Result<String, String> {
    let mut call = Command::new(admin);
    call.arg("--socket").arg(daemons.management_socket());
    let output = call.arg(command).output();
    let output = output.map_err(|error| format!("{}: {error}", admin.display()))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("media-admin {command}: {why}"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Quiet, until what is under way has arrived.
fn settle(calls: &[Call]) {
    calls
        .iter()
        .flat_map(Call::legs)
        .for_each(|leg| leg.be_quiet());
    let start = clock::moment();
    // A packet may have left just as its phone went quiet: look twice.
    let mut arrived = 0;
    while arrived < 2 && clock::moment() - start < SETTLE {
        thread::sleep(Duration::from_millis(50));
        let all = calls
            .iter()
            .flat_map(Call::sums)
            .all(|(_, sum)| sum.is_clean());
        arrived = if all { arrived + 1 } else { 0 };
    }
}
