//! Signals as values: blocked in every thread, taken by one with `sigwaitinfo(2)`.

use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

use super::clock::moment;

/// What an administrator or the service manager may want of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT, Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP.
    Hangup,
    /// SIGUSR1.
    User1,
    /// SIGUSR2.
    User2,
    /// SIGQUIT, Ctrl-\.
    Quit,
}

impl Signal {
    const ALL: [(libc::c_int, Signal); 6] = [
        (libc::SIGINT, Signal::Interrupt),
        (libc::SIGTERM, Signal::Terminate),
        (libc::SIGHUP, Signal::Hangup),
        (libc::SIGUSR1, Signal::User1),
        (libc::SIGUSR2, Signal::User2),
        (libc::SIGQUIT, Signal::Quit),
    ];

    fn from_number(number: libc::c_int) -> Option<Signal> {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == number)
            .map(|&(_, signal)| signal)
    }
}

/// Holds the signals back until somebody waits for them.
pub struct SignalWaiter {
    set: libc::sigset_t,
}

impl SignalWaiter {
    /// Blocks the signals in this thread and in all that it starts from now on: call it before the first thread
    /// is started. A broken connection is an error of the write, never SIGPIPE.
    pub fn block() -> SignalWaiter {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that it is given.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for (number, _) in Signal::ALL {
            // SAFETY: the set is initialised.
            unsafe { libc::sigaddset(&mut set, number) };
        }
        // SAFETY: the set lives through the call, which fails only where SIG_BLOCK is unknown.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()) };
        for (number, _) in Signal::ALL {
            // SAFETY: plain values. The default action replaces one that was inherited (nohup ignores SIGHUP):
            // an ignored signal would never be seen by sigwaitinfo.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
        // SAFETY: plain values.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        SignalWaiter { set }
    }

    /// The next signal.
    pub fn wait(&self) -> Signal {
        loop {
            // SAFETY: the set is initialised; no details are asked for.
            let number = unsafe { libc::sigwaitinfo(&self.set, ptr::null_mut()) };
            if let Some(signal) = Signal::from_number(number) {
                return signal;
            }
        }
    }

    /// The next signal, if one comes within the time.
    pub fn wait_for(&self, limit: Duration) -> Option<Signal> {
        let deadline = moment().saturating_add(limit);
        loop {
            let left = deadline.since(moment());
            let timeout = libc::timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(libc::time_t::MAX),
                // Less than a thousand million: fits everywhere.
                tv_nsec: left.subsec_nanos() as libc::c_long,
            };
            // SAFETY: set and time are initialised; no details are asked for.
            let number = unsafe { libc::sigtimedwait(&self.set, ptr::null_mut(), &timeout) };
            if let Some(signal) = Signal::from_number(number) {
                return Some(signal);
            }
            if left.is_zero() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test has a thread of its own: what it blocks and sends to itself is seen by nobody else.
    fn send(number: libc::c_int) {
        // SAFETY: plain value; goes to the calling thread.
        assert_eq!(unsafe { libc::raise(number) }, 0);
    }

    #[test]
    fn each_signal_is_held_and_told() {
        let waiter = SignalWaiter::block();
        for (number, signal) in Signal::ALL {
            send(number);
            assert_eq!(waiter.wait(), signal);
            send(number);
            assert_eq!(waiter.wait_for(Duration::from_secs(10)), Some(signal));
        }
        assert_eq!(waiter.wait_for(Duration::ZERO), None);
        assert_eq!(waiter.wait_for(Duration::from_millis(2)), None);
    }
}
