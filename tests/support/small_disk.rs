//! A disk that is soon full.

use std::path::Path;
use std::process::Command;

use super::programs::{run, tried};
use super::scratch::Scratch;
use super::skip::skip;

/// A disk of 128 KiB. Gone with its owner.
pub struct SmallDisk(Scratch);

impl SmallDisk {
    /// None, and the reason to skip, where that is not allowed.
    pub fn mount() -> Option<SmallDisk> {
        let scratch = Scratch::new("mediaproxy-disk").unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=128k", "none"])
            .arg(scratch.path());
        match tried(&mut mount) {
            Ok(_) => Some(SmallDisk(scratch)),
            Err(_) => {
                skip("a full disk: needs root, to mount a small one");
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// There is room again.
    pub fn enlarge(&self) {
        let remount = ["-o", "remount,size=64m"];
        run(Command::new("mount").args(remount).arg(self.path()));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Once nobody has anything open in it.
        let _ = tried(Command::new("umount").arg("-l").arg(self.path()));
    }
}
