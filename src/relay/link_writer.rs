//! The writing side of a link: what it says first on each connection (hello, and the ended calls that its dispatcher has not
//! confirmed), then whatever comes.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use log::{debug, info};

use super::dispatcher::Dispatcher;
use super::send_queue::{Piece, Task, write_batch};
use super::shared::Shared;
use super::spool::Spool;
use crate::tls::Writer;
use crate::words::counted;

/// How long the list of kept records may take.
const LISTING_LIMIT: Duration = Duration::from_secs(5);

/// Bytes of kept records in one write.
const WRITE_SIZE: usize = 64 * 1024;

/// The writing thread of one connection: who we are, what was not confirmed before, then whatever comes. No answer
/// may overtake a session that has ended: the dispatcher would take it for lost.
pub(super) fn write(shared: &Shared, dispatcher: &Dispatcher, number: u64, mut writer: Writer) {
    let hello = shared.identity.hello_line(dispatcher.owner);
    let greeted = greet(&hello, shared.ended.spool.as_ref(), dispatcher, |bytes| {
        let written = writer.write_all(bytes);
        written.map_err(|error| format!("writing failed: {error}"))
    });
    if let Err(why) = greeted {
        return dispatcher.queue.close(&why);
    }
    let keepalive = shared.settings.keepalive_interval;
    let (mut batch, mut unsent, mut buffer) = (VecDeque::new(), Vec::new(), Vec::new());
    loop {
        match dispatcher.queue.next_task(number, keepalive, &mut batch) {
            Task::Write => {}
            Task::Finish => return writer.finish(),
            Task::Stop => return,
        }
        let written = write_batch(&mut batch, &mut unsent, &mut buffer, |bytes| {
            writer.write_all(bytes)
        });
        if let Err(error) = written {
            return broke_off(dispatcher, batch, unsent, &error);
        }
    }
}

/// A batch could not be written: what is for the dispatcher, whatever its connection, stays for the next one.
pub(super) fn broke_off(
    dispatcher: &Dispatcher,
    batch: VecDeque<Piece>,
    unsent: Vec<Vec<u8>>,
    error: &io::Error,
) {
    let left = batch.into_iter().filter_map(Piece::notice);
    let notices: Vec<Vec<u8>> = unsent.into_iter().chain(left).collect();
    dispatcher.queue.put_back(notices.into_iter());
    dispatcher.queue.close(&format!("writing failed: {error}"));
}

/// Says it. Answers come after it: without the list of what was not confirmed the connection has to end.
///
/// # Errors
/// A sentence: the list is not to be had in time, or as of `write`.
pub(super) fn greet(
    hello: &[u8],
    spool: Option<&Spool>,
    dispatcher: &Dispatcher,
    mut write: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), String> {
    write(hello)?;
    let Some(spool) = spool else {
        return Ok(());
    };
    let unconfirmed = spool.unconfirmed(dispatcher.address, LISTING_LIMIT)?;
    if !unconfirmed.is_empty() {
        let calls = counted(unconfirmed.len(), "ended call");
        info!("{dispatcher}: {calls} not confirmed by it yet: reported once more");
    }
    let mut together = Vec::new();
    for id in unconfirmed {
        match spool.line(id) {
            Some(line) => together.extend_from_slice(&line),
            // Confirmed meanwhile, or damaged, which the spool says when it finds it.
            None => debug!("{dispatcher}: session {id} is not on disk any more"),
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
        let dispatcher = Dispatcher::new(Owner(0), "192.0.2.1:25060".parse().unwrap(), "x");
        let mut written = Vec::new();
        let greeted = greet(b"hello\r\n", Some(&spool), &dispatcher, |bytes| {
            written.extend_from_slice(bytes);
            Ok(())
        });
        assert!(greeted.unwrap_err().contains("in time"));
        assert_eq!(written, b"hello\r\n");
    }
}
