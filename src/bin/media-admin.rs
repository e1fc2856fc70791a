//! `media-admin`: shows and changes what the dispatcher and its relays do, by the management port.

use std::process::ExitCode;

fn main() -> ExitCode {
    mediaproxy::admin::main()
}
