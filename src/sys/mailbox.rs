//! A channel whose receiver waits in epoll: crossbeam's channel for the messages, an eventfd to wake up.
//!
//! The eventfd is written only when the receiver has not been woken yet, and never read: it is watched
//! edge-triggered. In a rush a message costs no system call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};

use super::owned;

/// The receiver is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

#[derive(Debug)]
struct Bell {
    fd: OwnedFd,
    has_rung: AtomicBool,
}

/// Where messages are put in; one for each thread that sends.
#[derive(Debug)]
pub struct Postbox<T> {
    messages: Sender<T>,
    bell: Arc<Bell>,
}

/// Where messages come out; belongs to one thread. Watch it edge-triggered (see [`super::epoll`]).
#[derive(Debug)]
pub struct Mailbox<T> {
    messages: Receiver<T>,
    bell: Arc<Bell>,
}

/// A mailbox for up to `capacity` messages.
///
/// # Errors
/// When no eventfd can be had.
pub fn mailbox<T>(capacity: usize) -> io::Result<(Postbox<T>, Mailbox<T>)> {
    with_bell(crossbeam_channel::bounded(capacity))
}

/// A mailbox for any number of messages: who sends never waits, and has to see to it that there are not too many.
///
/// # Errors
/// When no eventfd can be had.
pub fn unbounded_mailbox<T>() -> io::Result<(Postbox<T>, Mailbox<T>)> {
    with_bell(crossbeam_channel::unbounded())
}

fn with_bell<T>(
    (sender, receiver): (Sender<T>, Receiver<T>),
) -> io::Result<(Postbox<T>, Mailbox<T>)> {
    // SAFETY: takes no pointers.
    let fd = owned(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
    let has_rung = AtomicBool::new(false);
    let bell = Arc::new(Bell { fd, has_rung });
    let postbox = Postbox {
        messages: sender,
        bell: Arc::clone(&bell),
    };
    let mailbox = Mailbox {
        messages: receiver,
        bell,
    };
    Ok((postbox, mailbox))
}

impl<T> Clone for Postbox<T> {
    fn clone(&self) -> Self {
        Postbox {
            messages: self.messages.clone(),
            bell: Arc::clone(&self.bell),
        }
    }
}

impl<T> Postbox<T> {
    /// Puts a message in; waits while the mailbox is full.
    ///
    /// # Errors
    /// [`Closed`] when nobody will ever read it.
    pub fn send(&self, message: T) -> Result<(), Closed> {
        self.messages.send(message).map_err(|_| Closed)?;
        self.bell.ring();
        Ok(())
    }

    /// Wakes the receiver by a message; where the mailbox is full it has enough to wake up for.
    pub fn nudge(&self, message: T) {
        if self.messages.try_send(message).is_ok() {
            self.bell.ring();
        }
    }
}

impl Bell {
    fn ring(&self) {
        if self.has_rung.swap(true, Ordering::SeqCst) {
            return;
        }
        let one = 1u64;
        // SAFETY: eight bytes are read from a live variable. It cannot fail: the descriptor is open, and its
        // counter would take 2^64 rings to be full.
        unsafe {
            libc::write(
                self.fd.as_raw_fd(),
                (&raw const one).cast(),
                size_of::<u64>(),
            )
        };
    }
}

impl<T> Mailbox<T> {
    /// To be called after a wake-up and before messages are taken: what is sent from now on wakes again.
    pub fn listen(&self) {
        self.bell.has_rung.store(false, Ordering::SeqCst);
    }

    /// The next message, if there is one.
    pub fn take(&self) -> Option<T> {
        self.messages.try_recv().ok()
    }

    /// Whether there is none at the moment.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl<T> AsFd for Mailbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::epoll::{Epoll, Events, Trigger};
    use super::*;
    use std::time::Duration;

    fn watched<T>(mailbox: &Mailbox<T>) -> Epoll {
        let epoll = Epoll::new().unwrap();
        epoll.add(mailbox, 7, Trigger::Edge).unwrap();
        epoll
    }

    #[test]
    fn wakes_once_for_many_and_again_for_later_ones() {
        let (postbox, mailbox) = mailbox(10).unwrap();
        let epoll = watched(&mailbox);
        let mut events = Events::new();
        let mut wait = |limit| {
            epoll.wait(&mut events, Some(limit)).unwrap();
            events.token(0)
        };
        assert_eq!(wait(Duration::ZERO), None);
        postbox.send(1).unwrap();
        postbox.send(2).unwrap();
        assert_eq!(wait(Duration::from_secs(5)), Some(7));
        assert_eq!(wait(Duration::ZERO), None, "reported once");
        mailbox.listen();
        assert_eq!((mailbox.take(), mailbox.take()), (Some(1), Some(2)));
        postbox.send(3).unwrap();
        assert_eq!(wait(Duration::from_secs(5)), Some(7));
        assert_eq!(mailbox.take(), Some(3));
        assert!(mailbox.is_empty());
    }

    #[test]
    fn nothing_is_lost_between_many_senders_and_a_sleeping_receiver() {
        let (postbox, mailbox) = mailbox(4).unwrap();
        let epoll = watched(&mailbox);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let postbox = postbox.clone();
                scope.spawn(move || (0..2000).for_each(|n: u64| postbox.send(n).unwrap()));
            }
            let (mut count, mut sum) = (0, 0);
            let mut events = Events::new();
            while count < 8000 {
                epoll
                    .wait(&mut events, Some(Duration::from_secs(10)))
                    .unwrap();
                assert!(!events.is_empty(), "a wake-up was lost after {count}");
                mailbox.listen();
                while let Some(n) = mailbox.take() {
                    count += 1;
                    sum += n;
                }
            }
            assert_eq!(sum, 4 * 1999 * 2000 / 2);
        });
    }

    #[test]
    fn a_closed_mailbox_says_so() {
        let (postbox, mailbox) = mailbox(1).unwrap();
        drop(mailbox);
        assert_eq!(postbox.send(1), Err(Closed));
    }
}
