//! The host as a whole: whether its clock is kept right, what room a file system has, what this thread may do there
//! (adjtimex(2), statvfs(3), access(2)).

use std::ffi::CString;
use std::fs;
use std::io;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::check;

/// Whether something keeps the clock right, as it has told the kernel.
///
/// # Errors
/// The kernel does not tell.
pub fn is_clock_synchronised() -> io::Result<bool> {
    // SAFETY: all of a timex may be zero, which asks and changes nothing.
    let mut state: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes one timex to a valid place.
    let result = check(unsafe { libc::adjtimex(&raw mut state) })?;
    // TIME_ERROR (linux/timex.h).
    Ok(result != 5 && state.status & libc::STA_UNSYNC == 0)
}

/// Names this boot of the host, as no other one: a UUID.
///
/// # Errors
/// As of the file, or what stands in it instead.
pub fn boot_id() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let id = text.trim_end();
    let is_one = id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_one
        .then(|| id.to_owned())
        .ok_or_else(|| io::Error::other("the kernel does not tell which boot this is"))
}

/// Bytes that an ordinary process may still write to the file system of a path.
///
/// # Errors
/// As of the system call.
pub fn room(path: &Path) -> io::Result<u64> {
    let path = c_path(path)?;
    // SAFETY: all of a statvfs may be zero.
    let mut found: libc::statvfs = unsafe { mem::zeroed() };
    // SAFETY: path and place live through the call.
    check(unsafe { libc::statvfs(path.as_ptr(), &raw mut found) })?;
    // The types differ between machines.
    #[allow(clippy::unnecessary_cast, reason = "32 bits on some")]
    Ok((found.f_bavail as u64).saturating_mul(found.f_frsize as u64))
}

/// Whether this thread may make files in a directory.
///
/// # Errors
/// Why not.
pub fn may_write(directory: &Path) -> io::Result<()> {
    let path = c_path(directory)?;
    // SAFETY: the path lives through the call.
    check(unsafe { libc::access(path.as_ptr(), libc::W_OK | libc::X_OK) }).map(drop)
}

/// Whether this thread may read and write a file.
///
/// # Errors
/// Why not.
pub fn may_change(file: &Path) -> io::Result<()> {
    let path = c_path(file)?;
    // SAFETY: the path lives through the call.
    check(unsafe { libc::access(path.as_ptr(), libc::R_OK | libc::W_OK) }).map(drop)
}

/// Whether this thread may connect to a UNIX socket or send to it: to write is what that needs (unix(7)).
///
/// # Errors
/// Why not.
pub fn may_send(socket: &Path) -> io::Result<()> {
    let path = c_path(socket)?;
    // SAFETY: the path lives through the call.
    check(unsafe { libc::access(path.as_ptr(), libc::W_OK) }).map(drop)
}

/// Whether this thread may use what is in a directory.
///
/// # Errors
/// Why not.
pub fn may_enter(directory: &Path) -> io::Result<()> {
    let path = c_path(directory)?;
    // SAFETY: the path lives through the call.
    check(unsafe { libc::access(path.as_ptr(), libc::X_OK) }).map(drop)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_told_and_what_is_not_is_an_error() {
        assert!(is_clock_synchronised().is_ok());
        let directory = std::env::temp_dir();
        assert!(room(&directory).unwrap() > 0);
        may_write(&directory).unwrap();
        may_enter(&directory).unwrap();
        let nowhere = Path::new("/nonexistent/a");
        assert!(room(nowhere).is_err() && may_write(nowhere).is_err());
        assert!(may_change(nowhere).is_err() && may_enter(nowhere).is_err());
        assert!(may_send(nowhere).is_err());
    }
}
