//! What a link says first on each connection: hello, and the ended calls that its dispatcher has not confirmed.

use std::time::Duration;

use log::{debug, info};

use super::link::Link;
use super::spool::Spool;
use crate::words::counted;

/// How long the list of kept records may take.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of kept records in one write.
const WRITE_SIZE: usize = 64 * 1024;

/// Says it. Answers come after it: without the list of what was not confirmed the connection has to end.
///
/// # Errors
/// A sentence: the list is not to be had in time, or as of `write`.
pub fn greet(
    hello: &[u8],
    spool: Option<&Spool>,
    link: &Link,
    mut write: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), String> {
    write(hello)?;
    let Some(spool) = spool else {
        return Ok(());
    };
    let unconfirmed = spool.unconfirmed(link.address, LIST_TIMEOUT)?;
    if !unconfirmed.is_empty() {
        let calls = counted(unconfirmed.len(), "ended call");
        info!("{link}: {calls} not confirmed by it yet: reported once more");
    }
    let mut together = Vec::new();
    for id in unconfirmed {
        match spool.line(id) {
            Some(line) => together.extend_from_slice(&line),
            // Confirmed meanwhile, or damaged, which the spool says when it finds it.
            None => debug!("{link}: session {id} is not on disk any more"),
        }
        if together.len() > WRITE_SIZE {
            write(&together)?;
            together.clear();
        }
    }
    write(&together)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::spool;
    use crate::session::Owner;
    use crate::sys::scratch::Scratch;

    #[test]
    fn no_connection_goes_on_without_what_was_not_confirmed() {
        let scratch = Scratch::new("greeting");
        let opened = spool::open(scratch.path(), 40_000, 16 << 20).unwrap();
        let spool = opened.spool();
        // Its thread is gone, which comes to the same as one that hangs, and sooner.
        drop(opened);
        let link = Link::new(Owner(0), "192.0.2.1:25060".parse().unwrap(), "x");
        let mut written = Vec::new();
        let greeted = greet(b"hello\r\n", Some(&spool), &link, |bytes| {
            written.extend_from_slice(bytes);
            Ok(())
        });
        assert!(greeted.unwrap_err().contains("in time"));
        assert_eq!(written, b"hello\r\n");
    }
}
