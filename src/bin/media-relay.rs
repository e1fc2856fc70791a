//! `media-relay`: in front of the phones; relays the media of the calls that dispatchers send it.

use std::process::ExitCode;

use mediaproxy::cli::{self, Program};
use mediaproxy::config;
use mediaproxy::relay::daemon;

const PROGRAM: Program = Program {
    name: "media-relay",
    about: "relays the media of calls for media-dispatcher",
};

fn main() -> ExitCode {
    let options = match cli::options(&PROGRAM) {
        Ok(options) => options,
        Err(status) => return status,
    };
    let loaded = match config::load_relay(&options.config_dir) {
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
