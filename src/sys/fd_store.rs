//! Descriptors that systemd keeps for this service while no process of it runs, and hands to the next one: `FDSTORE=1`
//! of sd_pid_notify_with_fds(3) on the way there, sd_listen_fds(3) on the way back.
//!
//! systemd compares each new descriptor with each that it has, by one system call: so the more there are, the longer one
//! takes. [`FdStore::wait_done`] tells how long.

use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{check, count, notify, owned};

/// The first descriptor that is handed over, by sd_listen_fds(3).
const FIRST: RawFd = 3;

/// Descriptors in one message at most.
const MOST: usize = 2;

/// How long the service manager may leave a message unread.
const UNREAD: Duration = Duration::from_secs(5);

/// The way to the store.
#[derive(Debug)]
pub struct FdStore {
    socket: UnixDatagram,
    /// How many descriptors fit.
    pub room: usize,
}

/// Room for ancillary data of [`MOST`] descriptors, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

impl FdStore {
    /// The store of the service manager that has started this process; none where it keeps nothing for it.
    ///
    /// `$FDSTORE` says how many descriptors fit. systemd sets it since version 254; before, the unit has to.
    ///
    /// # Errors
    /// There is one, and it cannot be reached.
    pub fn from_environment() -> io::Result<Option<FdStore>> {
        let room = std::env::var("FDSTORE").ok();
        let room = room.and_then(|room| room.parse().ok()).unwrap_or_default();
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(address) if room > 0 && !address.is_empty() => {
                let socket = UnixDatagram::unbound()?;
                socket.connect_addr(&notify::address_of(&address)?)?;
                FdStore::new(socket, room).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The store behind a connected socket.
    ///
    /// # Errors
    /// As of setsockopt(2).
    pub fn new(socket: UnixDatagram, room: usize) -> io::Result<FdStore> {
        socket.set_write_timeout(Some(UNREAD))?;
        Ok(FdStore { socket, room })
    }

    /// Has descriptors kept under a name, two at most. What happens to them meanwhile is no reason to close them: to a
    /// socket an ICMP error happens.
    ///
    /// # Errors
    /// The service manager cannot be told; `WouldBlock` where it has not read for five seconds.
    pub fn keep(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}");
        self.send(&text, descriptors)
    }

    /// Has what is kept under a name closed.
    ///
    /// # Errors
    /// As of [`FdStore::keep`].
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
    }

    /// Waits until the service manager has done all that it was told (`BARRIER=1` of sd_notify_barrier(3)). Returns
    /// false where it has not in time.
    ///
    /// # Errors
    /// As of [`FdStore::keep`], and of pipe(2).
    pub fn wait_done(&self, limit: Duration) -> io::Result<bool> {
        let mut ends = [0; 2];
        // SAFETY: the kernel writes two descriptors.
        check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
        let [here, there] = ends;
        let (here, there) = (owned(here)?, owned(there)?);
        self.send("BARRIER=1", &[borrowed(&there)])?;
        drop(there);
        is_hung_up(&here, limit)
    }

    fn send(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let descriptors: Vec<RawFd> = descriptors
            .iter()
            .take(MOST)
            .map(AsRawFd::as_raw_fd)
            .collect();
        let mut control = Control([0; 64]);
        let mut piece = IoSlice::new(text.as_bytes());
        // SAFETY: integers and pointers, for which zero is a value; musl's type has private padding.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = (&raw mut piece).cast();
        header.msg_iovlen = 1;
        if !descriptors.is_empty() {
            let length = mem::size_of_val(descriptors.as_slice()) as libc::c_uint;
            header.msg_control = control.0.as_mut_ptr().cast();
            // SAFETY: arithmetic.
            header.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as _;
            // SAFETY: the header has a control buffer that is longer than its length, which has room for one message of
            // two descriptors.
            unsafe {
                let at = libc::CMSG_FIRSTHDR(&raw const header);
                (*at).cmsg_level = libc::SOL_SOCKET;
                (*at).cmsg_type = libc::SCM_RIGHTS;
                (*at).cmsg_len = libc::CMSG_LEN(length) as _;
                let data = libc::CMSG_DATA(at).cast::<RawFd>();
                ptr::copy_nonoverlapping(descriptors.as_ptr(), data, descriptors.len());
            }
        }
        loop {
            let socket = self.socket.as_raw_fd();
            // SAFETY: the header points to one piece of text (an IoSlice is an iovec) and one control buffer, all alive.
            match count(unsafe { libc::sendmsg(socket, &raw const header, libc::MSG_NOSIGNAL) }) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }
}

fn borrowed(fd: &OwnedFd) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(fd)
}

/// Waits until nobody has the other end of a pipe.
fn is_hung_up(end: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let mut entry = libc::pollfd {
        fd: end.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    let milliseconds = libc::c_int::try_from(limit.as_millis()).unwrap_or(libc::c_int::MAX);
    loop {
        // SAFETY: one entry.
        match check(unsafe { libc::poll(&raw mut entry, 1, milliseconds) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(|ready| ready > 0),
        }
    }
}

/// What was kept for this process, by name. A second call gets nothing.
pub fn inherited() -> Vec<(String, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let variable = |name| std::env::var(name).unwrap_or_default();
    let is_ours = variable("LISTEN_PID").parse() == Ok(std::process::id());
    if !is_ours || TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let count: RawFd = variable("LISTEN_FDS").parse().unwrap_or_default();
    let names = variable("LISTEN_FDNAMES");
    let names = names.split(':').map(str::to_owned);
    let descriptors = FIRST..FIRST.saturating_add(count);
    let take = |(name, number)| open(number).map(|descriptor| (name, descriptor));
    names.zip(descriptors).filter_map(take).collect()
}

/// A descriptor that was open when this process began; from now on no program that it starts gets it.
fn open(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: a number that is no descriptor is an error.
    let set = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: it is open. It was before this process opened anything, which takes other numbers, and nobody else takes
    // those that the environment names: this runs once.
    (set == 0).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// A message and the descriptors with it, for tests that are the service manager.
#[cfg(test)]
pub fn receive(socket: &UnixDatagram) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut text = [0_u8; 512];
    let mut control = Control([0; 64]);
    let mut piece = libc::iovec {
        iov_base: text.as_mut_ptr().cast(),
        iov_len: text.len(),
    };
    // SAFETY: as in `send`.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    let flags = libc::MSG_CMSG_CLOEXEC;
    // SAFETY: text and control buffer are alive.
    let receive = || count(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) });
    let length = super::datagram::undisturbed(receive)?;
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has filled the control buffer, and made these descriptors for us.
    unsafe {
        if let Some(first) = libc::CMSG_FIRSTHDR(&raw const header).as_ref() {
            let data = libc::CMSG_DATA(first).cast::<RawFd>();
            let length: usize = first.cmsg_len as _;
            let bytes = length - libc::CMSG_LEN(0) as usize;
            for index in 0..bytes / mem::size_of::<RawFd>() {
                descriptors.push(owned(data.add(index).read_unaligned())?);
            }
        }
    }
    let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
    Ok((text.into_owned(), descriptors))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::thread;

    use super::*;

    fn store() -> (FdStore, UnixDatagram) {
        let (ours, managers) = UnixDatagram::pair().unwrap();
        (FdStore::new(ours, 100).unwrap(), managers)
    }

    #[test]
    fn what_is_kept_is_the_socket_itself() {
        let (store, manager) = store();
        let pair = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let addresses = pair.each_ref().map(|socket| socket.local_addr().unwrap());
        store
            .keep("40000", &pair.each_ref().map(AsFd::as_fd))
            .unwrap();
        // Closed here, and still bound: what comes meanwhile waits in it.
        drop(pair);
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"meanwhile", addresses[0]).unwrap();
        let (text, kept) = receive(&manager).unwrap();
        assert_eq!(text, "FDSTORE=1\nFDPOLL=0\nFDNAME=40000");
        let kept: Vec<UdpSocket> = kept.into_iter().map(UdpSocket::from).collect();
        let there: Vec<_> = kept
            .iter()
            .map(|socket| socket.local_addr().unwrap())
            .collect();
        assert_eq!(there, addresses);
        let mut buffer = [0; 16];
        let length = kept.first().unwrap().recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"meanwhile");

        store.remove("40000").unwrap();
        let (text, none) = receive(&manager).unwrap();
        assert_eq!(
            (text.as_str(), none.len()),
            ("FDSTOREREMOVE=1\nFDNAME=40000", 0)
        );
    }

    #[test]
    fn a_manager_that_has_not_come_so_far_is_waited_for() {
        let (store, manager) = store();
        assert!(!store.wait_done(Duration::from_millis(5)).unwrap());
        let (text, kept) = receive(&manager).unwrap();
        assert_eq!((text.as_str(), kept.len()), ("BARRIER=1", 1));
        let answering = thread::spawn(move || receive(&manager).map(|(_, kept)| drop(kept)));
        assert!(store.wait_done(Duration::from_secs(60)).unwrap());
        answering.join().unwrap().unwrap();
    }

    #[test]
    fn nobody_there() {
        let (store, manager) = store();
        drop(manager);
        assert!(store.keep("40000", &[]).is_err());
        assert!(store.wait_done(Duration::from_secs(1)).is_err());
        // Of this process nobody keeps anything.
        assert!(inherited().is_empty());
    }
}
