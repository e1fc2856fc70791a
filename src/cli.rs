//! The command line of both daemons: arguments to typed options, `--help`, `--version`.
//!
//! Another option is a line in [`HELP`] and an arm in `parse`; one that not both daemons have is listed by its
//! [`Program`].

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lexopt::{Arg, Parser, ValueExt};

use crate::sys::process::Mode;

/// A daemon as `--help` shows it.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Of the binary, the pid file and the log lines.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// Options that it has beyond those of both.
    pub own: &'static [OptionHelp],
}

/// An option and what it means, as `--help` lists it.
pub type OptionHelp = (&'static str, &'static str);

/// See [`Options::check`].
pub const CHECK: OptionHelp = (
    "--check",
    "say what is wrong with this host for a relay, and end with 0 or 1",
);

/// What the administrator asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub mode: Mode,
    /// Absolute: the daemon leaves the working directory.
    pub config_dir: PathBuf,
    /// Absolute.
    pub runtime_dir: PathBuf,
    /// Log level DEBUG, whatever the configuration says.
    pub debug: bool,
    /// Read the configuration, say what is wrong, and end.
    pub check_config: bool,
    /// Look at the host, too; only of a program that lists [`CHECK`].
    pub check: bool,
}

const CONFIG_DIR: &str = "/etc/mediaproxy";
const RUNTIME_DIR: &str = "/run/mediaproxy";

/// Exit status of a command line that cannot be understood.
const USAGE_STATUS: u8 = 2;

/// The options of both.
const HELP: &[OptionHelp] = &[
    (
        "--no-fork",
        "stay in the foreground and log to the terminal",
    ),
    (
        "--systemd",
        "stay in the foreground, log for the journal, tell systemd when ready",
    ),
    (
        "--config-dir PATH",
        "directory of config.ini (/etc/mediaproxy)",
    ),
    (
        "--runtime-dir PATH",
        "directory of sockets and pid file, created if missing (/run/mediaproxy)",
    ),
    ("--debug", "log level DEBUG"),
    (
        "--check-config",
        "read the configuration, say what is wrong, and end with 0 or 1",
    ),
    ("--version", "show the version"),
    ("--help", "show this text"),
];

/// What the arguments say.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Run(Options),
    Help,
    Version,
}

/// A command line that cannot be understood, in words for who wrote it.
#[derive(Debug, PartialEq, Eq)]
struct UsageError(String);

impl From<lexopt::Error> for UsageError {
    fn from(error: lexopt::Error) -> UsageError {
        UsageError(error.to_string())
    }
}

/// Reads the process's arguments. The other result is what `main` returns at once: after `--help` and
/// `--version`, or after a message about a wrong command line.
///
/// # Errors
/// Exit status 0 or 2; everything is said already.
pub fn options(program: &Program) -> Result<Options, ExitCode> {
    match parse(program, std::env::args_os().skip(1)) {
        Ok(Command::Run(options)) => Ok(options),
        Ok(Command::Help) => {
            print!("{}", Help(program));
            Err(ExitCode::SUCCESS)
        }
        Ok(Command::Version) => {
            println!("{} {}", program.name, env!("CARGO_PKG_VERSION"));
            Err(ExitCode::SUCCESS)
        }
        Err(UsageError(text)) => {
            let name = program.name;
            eprintln!("{name}: {text}; see {name} --help");
            Err(ExitCode::from(USAGE_STATUS))
        }
    }
}

fn parse(
    program: &Program,
    arguments: impl Iterator<Item = OsString>,
) -> Result<Command, UsageError> {
    let mut options = Options {
        mode: Mode::Background,
        config_dir: CONFIG_DIR.into(),
        runtime_dir: RUNTIME_DIR.into(),
        debug: false,
        check_config: false,
        check: false,
    };
    let mut parser = Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            // systemd's foreground is the same with more, in whatever order they come.
            Arg::Long("no-fork") if options.mode == Mode::Systemd => {}
            Arg::Long("no-fork") => options.mode = Mode::Foreground,
            Arg::Long("systemd") => options.mode = Mode::Systemd,
            Arg::Long("config-dir") => options.config_dir = directory(&mut parser)?,
            Arg::Long("runtime-dir") => options.runtime_dir = directory(&mut parser)?,
            Arg::Long("debug") => options.debug = true,
            // MediaProxy's; there is nothing of that kind to debug here.
            Arg::Long("debug-memory") => {}
            Arg::Long("check-config") => options.check_config = true,
            Arg::Long("check") if program.own.contains(&CHECK) => options.check = true,
            Arg::Long("version") | Arg::Short('V') => return Ok(Command::Version),
            Arg::Long("help") | Arg::Short('h') => return Ok(Command::Help),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Command::Run(options))
}

fn directory(parser: &mut Parser) -> Result<PathBuf, UsageError> {
    let path: PathBuf = parser
        .value()?
        .parse_with(|text| Ok::<_, std::convert::Infallible>(PathBuf::from(text)))?;
    absolute(&path)
}

fn absolute(path: &Path) -> Result<PathBuf, UsageError> {
    std::path::absolute(path)
        .map_err(|error| UsageError(format!("directory \"{}\": {error}", path.display())))
}

struct Help<'a>(&'a Program);

impl fmt::Display for Help<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Help(program) = self;
        writeln!(f, "{}: {}\n", program.name, program.about)?;
        writeln!(f, "usage: {} [OPTIONS]\n", program.name)?;
        let lines = || program.own.iter().chain(HELP);
        let width = lines().map(|(option, _)| option.len()).max();
        let width = width.unwrap_or_default();
        for (option, meaning) in lines() {
            writeln!(f, "  {option:width$}  {meaning}")?;
        }
        writeln!(
            f,
            "\nWithout --no-fork and --systemd it goes into the background, writes a pid file and logs to syslog."
        )?;
        writeln!(
            f,
            "Exit status: 0 a clean end, 1 could not start, 2 wrong command line,\n78 configuration, files that it names, or certificates must be mended."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: Program = Program {
        name: "media-test",
        about: "tests things",
        own: &[],
    };

    fn run(arguments: &[&str]) -> Options {
        match parse(&PROGRAM, arguments.iter().map(OsString::from)) {
            Ok(Command::Run(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    fn wrong(arguments: &[&str]) -> String {
        let arguments = arguments.iter().map(OsString::from);
        parse(&PROGRAM, arguments).unwrap_err().0
    }

    #[test]
    fn options_and_defaults() {
        let default = run(&[]);
        assert_eq!(default.mode, Mode::Background);
        assert_eq!(default.config_dir, Path::new("/etc/mediaproxy"));
        assert_eq!(default.runtime_dir, Path::new("/run/mediaproxy"));
        assert!(!default.debug && !default.check_config);

        let all = run(&[
            "--systemd",
            "--no-fork",
            "--config-dir",
            "/a",
            "--runtime-dir=/b c",
            "--debug",
            "--debug-memory",
            "--check-config",
        ]);
        assert_eq!(all.mode, Mode::Systemd);
        assert_eq!(all.config_dir, Path::new("/a"));
        assert_eq!(all.runtime_dir, Path::new("/b c"));
        assert!(all.debug && all.check_config);

        assert_eq!(run(&["--no-fork"]).mode, Mode::Foreground);
        let relative = run(&["--config-dir", "conf"]).config_dir;
        assert_eq!(relative, std::env::current_dir().unwrap().join("conf"));
    }

    #[test]
    fn help_and_version() {
        for (argument, command) in [
            ("--help", Command::Help),
            ("-h", Command::Help),
            ("--version", Command::Version),
            ("-V", Command::Version),
        ] {
            assert_eq!(parse(&PROGRAM, [argument.into()].into_iter()), Ok(command));
        }
        let help = Help(&PROGRAM).to_string();
        assert!(help.starts_with("media-test: tests things\n\nusage: media-test [OPTIONS]\n"));
        let columns: Vec<_> = HELP
            .iter()
            .map(|(option, meaning)| {
                let line = help
                    .lines()
                    .find(|line| line.trim_start().starts_with(option));
                line.unwrap().find(meaning).unwrap()
            })
            .collect();
        assert!(columns.iter().all(|column| *column == columns[0]), "{help}");
        assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    }

    /// Nothing is listed that is not understood.
    #[test]
    fn help_lists_what_there_is() {
        for (option, _) in HELP {
            let arguments = option.split(' ').map(OsString::from);
            assert!(parse(&PROGRAM, arguments).is_ok(), "{option}");
        }
    }

    #[test]
    fn an_option_of_one_program_is_none_of_the_other() {
        assert_eq!(wrong(&["--check"]), "invalid option '--check'");
        assert!(!Help(&PROGRAM).to_string().contains("--check "));
        let program = Program {
            own: &[CHECK],
            ..PROGRAM
        };
        let arguments = ["--check", "--config-dir", "/a"].map(OsString::from);
        match parse(&program, arguments.into_iter()) {
            Ok(Command::Run(options)) => assert!(options.check),
            other => panic!("{other:?}"),
        }
        let help = Help(&program).to_string();
        assert!(help.contains("  --check "), "{help}");
        assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    }

    #[test]
    fn wrong_command_lines() {
        for (arguments, message) in [
            (&["--fork"][..], "invalid option '--fork'"),
            (&["-x"], "invalid option '-x'"),
            (&["start"], "unexpected argument \"start\""),
            (
                &["--config-dir"],
                "missing argument for option '--config-dir'",
            ),
            (
                &["--config-dir", ""],
                "directory \"\": cannot make an empty path absolute",
            ),
            (
                &["--no-fork=yes"],
                "unexpected argument for option '--no-fork': \"yes\"",
            ),
        ] {
            assert_eq!(wrong(arguments), message);
        }
    }
}
