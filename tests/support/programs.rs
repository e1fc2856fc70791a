//! Programs that tests run for what they print, and programs that they write.

use std::io::Write;
use std::path::Path;
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
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Writes a program, by another process: where this one starts a third at that moment, the third has the file open for
/// writing, too, until it is there, and nobody can run the program until then.
pub fn write_program(path: &Path, text: &str) {
    let mut shell = Command::new("sh")
        .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = shell.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    assert!(shell.wait().unwrap().success(), "{}", path.display());
}

/// Copies a program, by another process for the same reason.
pub fn copy_program(from: &Path, to: &Path) {
    run(Command::new("cp").arg(from).arg(to));
}
