//! Programs that tests run for what they print.

use std::process::{Command, Stdio};

pub fn is_root() -> bool {
    run(Command::new("id").arg("-u")).trim() == "0"
}

/// What the program printed.
pub fn run(command: &mut Command) -> String {
    tried(command).unwrap_or_else(|why| panic!("{command:?}: {why}"))
}

pub fn tried(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
