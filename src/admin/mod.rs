//! The administrator's tool: one command of the management port in a form for people, and looks at this host.
//!
//! ```text
//!  options    the command line        help: in words
//!  client     a connection: socket, TCP or TLS; one command, its answer
//!  show       summary and sessions as tables      view: JSON as types; table, quantity
//!  top        the same, live                      screen: the terminal while it is ours; keys
//!  drained    waits for a drained relay's last call
//!  doctor     is this host fit?                   clock, reach
//!  rehearsal  what all of it makes of any answer, for tests
//! ```

mod client;
mod doctor;
mod drained;
mod keys;
mod options;
mod quantity;
pub mod rehearsal;
mod screen;
mod show;
mod table;
mod top;
mod view;

use std::io::{self, Write};
use std::process::ExitCode;

use self::client::{Client, Failure};
use self::options::{Command, Options, Parsed};
use crate::sys::terminal;
use crate::text_layout::{clean, fold};

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Fine,
    /// A problem was found, or the dispatcher refused.
    Bad,
    /// The command line was not understood.
    Usage,
    /// No connection to the dispatcher, or it was lost.
    NoConnection,
}

impl Outcome {
    fn status(self) -> u8 {
        match self {
            Outcome::Fine => 0,
            Outcome::Bad => 1,
            Outcome::Usage => 2,
            Outcome::NoConnection => 3,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> ExitCode {
        ExitCode::from(outcome.status())
    }
}

/// All of `main`.
pub fn main() -> ExitCode {
    match options::parse(std::env::args_os().skip(1)) {
        Ok(Parsed::Text(text)) => {
            print(&text);
            Outcome::Fine.into()
        }
        Ok(Parsed::Run(options)) => run(&options).into(),
        Err(why) => {
            eprintln!("media-admin: {why}; see media-admin --help");
            Outcome::Usage.into()
        }
    }
}

fn run(options: &Options) -> Outcome {
    let done = match &options.command {
        Command::Summary => show::summary(options),
        Command::Sessions(_) => show::sessions(options),
        Command::Top { .. } => top::run(options),
        Command::Doctor { .. } => return doctor::run(options),
        Command::Explain { .. }
        | Command::End { .. }
        | Command::Drain { .. }
        | Command::Resume(_)
        | Command::Version => pass_on(options),
    };
    match done {
        Ok(()) => Outcome::Fine,
        Err(Failure::Refused(why)) => {
            eprintln!("media-admin: {why}");
            Outcome::Bad
        }
        Err(Failure::Lost(why)) => {
            eprintln!("media-admin: {why}");
            Outcome::NoConnection
        }
    }
}

/// What the dispatcher answers is for people already.
fn pass_on(options: &Options) -> Result<(), Failure> {
    let mut client = Client::connect(&options.target)?;
    let lines = client.ask(&options.command.line(options.json));
    let lines = lines.map_err(|failure| match failure {
        // The port's command by the name that it has here.
        Failure::Refused(why) => Failure::Refused(why.replace("; end media ", "; end --media ")),
        lost => lost,
    })?;
    // JSON stays as it is: a program may read it from a terminal, too.
    let width = terminal::stdout_width().filter(|_| !options.json);
    for line in &lines {
        // Of something that was done all the same: seen where the rest goes to a file, too.
        if matches!(options.command, Command::Drain { .. }) && line.starts_with("warning: ") {
            eprintln!("media-admin: {}", clean(line));
            continue;
        }
        for part in fold(&clean(line), width) {
            print(&format!("{part}\n"));
        }
    }
    match options.command {
        Command::Drain { wait: true, .. } => drained::wait(options, &lines),
        _ => Ok(()),
    }
}

/// Nobody to read it is no reason to fail; what cannot be written is.
fn print(text: &str) {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("media-admin: the output cannot be written: {error}");
            std::process::exit(i32::from(Outcome::Bad.status()));
        }
        _ => {}
    }
}
