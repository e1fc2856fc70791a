//! A directory for one test, gone when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(purpose: &str) -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mediaproxy-{purpose}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Moves this thread alone into a mount namespace of its own, so that it can mount what nobody else sees; root only.
pub fn enter_mount_namespace() -> std::io::Result<()> {
    // SAFETY: no pointers.
    super::check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let root = c"/".as_ptr();
    let nothing = std::ptr::null();
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the path is a string that ends in NUL; the other pointers may be null for a change of propagation.
    super::check(unsafe { libc::mount(nothing, root, nothing, flags, std::ptr::null()) }).map(drop)
}
