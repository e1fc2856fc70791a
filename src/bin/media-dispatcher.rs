//! `media-dispatcher`: beside the SIP proxy; spreads calls over relays.

use std::process::ExitCode;

use mediaproxy::cli::{self, Program};
use mediaproxy::config;
use mediaproxy::dispatcher::daemon;

const PROGRAM: Program = Program {
    name: "media-dispatcher",
    about: "spreads the calls of a SIP proxy over media relays",
};

fn main() -> ExitCode {
    let options = match cli::options(&PROGRAM) {
        Ok(options) => options,
        Err(status) => return status,
    };
    let loaded = match config::load_dispatcher(&options.config_dir) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if options.check_config {
        loaded.warnings.iter().for_each(|text| eprintln!("{text}"));
        println!("{}: can be used", loaded.path.display());
        return ExitCode::SUCCESS;
    }
    daemon::run(PROGRAM.name, &options, loaded)
}
