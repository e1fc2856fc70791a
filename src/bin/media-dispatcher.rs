//! `media-dispatcher`: beside the SIP proxy; spreads calls over relays.

use std::process::ExitCode;

use mediaproxy::cli::Program;
use mediaproxy::dispatcher::daemon;

const PROGRAM: Program = Program {
    name: "media-dispatcher",
    about: "spreads the calls of a SIP proxy over media relays",
    own: &[],
};

fn main() -> ExitCode {
    daemon::main(&PROGRAM)
}
