//! `media-relay`: in front of the phones; relays the media of the calls that dispatchers send it.

use std::process::ExitCode;

use mediaproxy::cli::{CHECK, Program};
use mediaproxy::relay::daemon;

const PROGRAM: Program = Program {
    name: "media-relay",
    about: "relays the media of calls for media-dispatcher",
    own: &[CHECK],
};

fn main() -> ExitCode {
    daemon::main(&PROGRAM)
}
