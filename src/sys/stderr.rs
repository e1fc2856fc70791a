//! Standard error for a daemon: a reader that does not read may not stop the one who writes.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Until it is seen that it is none.
static MAY_BE_SOCKET: AtomicBool = AtomicBool::new(true);

/// Writes one piece of text. Where standard error is a socket, as for a service of systemd, and its reader is
/// behind, it fails with `WouldBlock`.
///
/// # Errors
/// Standard error is closed, or its reader is behind.
pub fn write(text: &[u8]) -> io::Result<()> {
    if !MAY_BE_SOCKET.load(Ordering::Relaxed) {
        return io::stderr().write_all(text);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length are those of the text.
    let sent = unsafe { libc::send(libc::STDERR_FILENO, text.as_ptr().cast(), text.len(), flags) };
    match usize::try_from(sent) {
        // A piece that fits the socket's buffer is taken whole.
        Ok(sent) if sent == text.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::WriteZero.into()),
        Err(_) => {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ENOTSOCK) => {
                    MAY_BE_SOCKET.store(false, Ordering::Relaxed);
                    io::stderr().write_all(text)
                }
                _ => Err(error),
            }
        }
    }
}
