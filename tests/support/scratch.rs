//! Directories that go away with their owner.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory that goes away with its owner.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// An empty directory of this process's own, readable by nobody else.
    pub fn new(name: &str) -> Result<Scratch, String> {
        let made = Command::new("mktemp")
            .args(["-d", "--tmpdir", &format!("{name}-XXXXXXXX")])
            .output()
            .map_err(|error| format!("mktemp: {error}"))?;
        let path = String::from_utf8_lossy(&made.stdout).trim().to_owned();
        if path.is_empty() {
            let why = String::from_utf8_lossy(&made.stderr).trim().to_owned();
            return Err(format!("no scratch directory: {why}"));
        }
        Ok(Scratch { path: path.into() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
