//! The lock on a relay's port range: a listening abstract UNIX socket (unix(7)), which exists once in each network
//! namespace and goes away with its process, however that ends. Each relay has it while it runs. The range is in its
//! name, so that who wants another range sees whether they overlap; who listens is told by the kernel.

use std::fmt;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread;
use std::time::Duration;

use super::{check, clock, owned, peer};

/// Before the range in the socket's name, which is `mediaproxy-relay-40000-60000`.
const NAME: &str = "mediaproxy-relay-";

/// Whoever has this looks at the others' locks and takes its own: of two relays that start together one sees the other.
const LOOKING: &str = "mediaproxy-relay-looks";

/// How long another one may look.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// Let go at a time.
const ASKED: usize = 100;

/// Set among a socket's flags in the kernel's table when it listens (`__SO_ACCEPTCON`).
const LISTENS: u32 = 1 << 16;

/// Held as long as it lives.
#[derive(Debug)]
pub struct RangeLock {
    socket: UnixListener,
}

impl RangeLock {
    /// Lets those go who have asked whose it is; to be called now and then, else the kernel keeps what is left of them,
    /// and after 4096 of them tells nobody any more.
    pub fn let_go(&self) {
        for _ in 0..ASKED {
            if self.socket.accept().is_err() {
                return;
            }
        }
    }
}

/// A range that a relay in this network namespace has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub first: u16,
    /// Behind the last port. An older relay tells its first port alone.
    pub end: u32,
    /// Of the lock's socket.
    pub inode: u64,
    name: String,
}

/// Why there is no lock.
#[derive(Debug)]
pub enum Refused {
    /// Another relay has ports of this range.
    Taken(Held),
    Failed(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Refused {
        Refused::Failed(error)
    }
}

impl Held {
    /// Whether ports of this range are among those.
    pub fn overlaps(&self, (first, end): (u16, u32)) -> bool {
        u32::from(self.first) < end && u32::from(first) < self.end
    }

    /// The process that has it, as this one sees it: none where that is in another container, is an older relay, or is
    /// gone by now.
    pub fn pid(&self) -> Option<i32> {
        let pid = listener(&self.name).ok()?;
        (pid > 0).then_some(pid)
    }
}

/// `40000 to 59999, pid 4711`.
impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end - 1 {
            last if last == u32::from(self.first) => write!(f, "{} and more", self.first)?,
            last => write!(f, "{} to {last}", self.first)?,
        }
        match self.pid() {
            Some(pid) => write!(f, ", pid {pid}"),
            None => Ok(()),
        }
    }
}

/// Takes the lock of a range: its first port and the end, which is not included.
///
/// # Errors
/// Another relay in this network namespace has ports of it; or no lock can be had at all.
pub fn lock((first, end): (u16, u32)) -> Result<RangeLock, Refused> {
    let _looking = look()?;
    if let Some(other) = overlapping((first, end)) {
        return Err(Refused::Taken(other));
    }
    let socket = bind(&format!("{NAME}{first}-{end}"))?;
    socket.set_nonblocking(true)?;
    Ok(RangeLock { socket })
}

/// Waits until nobody else looks.
fn look() -> io::Result<UnixListener> {
    let end = clock::moment() + RELEASE_LIMIT;
    loop {
        match bind(LOOKING) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && clock::moment() < end => {
                thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

fn bind(name: &str) -> io::Result<UnixListener> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// The lock of a relay in this network namespace that has ports of this range. To look is not to take: a relay that
/// starts at this moment is not kept from it.
pub fn overlapping(range: (u16, u32)) -> Option<Held> {
    held().into_iter().find(|held| held.overlaps(range))
}

/// The ranges whose locks are held in this network namespace, by their first ports.
pub fn held() -> Vec<Held> {
    parse(&fs::read_to_string("/proc/thread-self/net/unix").unwrap_or_default())
}

/// Of a table of UNIX sockets (proc_pid_net(5)); the name of an abstract one begins with @ there. Connections to a lock
/// that nobody has accepted are there by its name, too, and have no inode.
fn parse(table: &str) -> Vec<Held> {
    let lock = |line: &str| {
        let mut words = line.split_whitespace().skip(3);
        let flags = u32::from_str_radix(words.next()?, 16).ok()?;
        let kind = words.next()?;
        let inode = words.nth(1)?.parse().ok()?;
        let name = words.next()?.strip_prefix('@')?;
        let range = name.strip_prefix(NAME)?;
        let (first, end) = match range.split_once('-') {
            Some((first, end)) => (first.parse().ok()?, end.parse().ok()?),
            None => {
                let first: u16 = range.parse().ok()?;
                (first, u32::from(first) + 1)
            }
        };
        // Older relays' locks are datagram sockets.
        let is_lock = kind == "0002" || flags & LISTENS != 0;
        let is_range = u32::from(first) < end;
        (is_lock && is_range && inode != 0).then(|| Held {
            first,
            end,
            inode,
            name: name.to_owned(),
        })
    };
    let mut all: Vec<Held> = table.lines().filter_map(lock).collect();
    all.sort_unstable_by_key(|held| held.first);
    all
}

/// The process that listens at an abstract name (SO_PEERCRED); 0 where it is in another PID namespace.
fn listener(name: &str) -> io::Result<i32> {
    // SAFETY: no pointers.
    let socket = owned(unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        libc::socket(libc::AF_UNIX, kind, 0)
    })?;
    // SAFETY: all bytes zero are an address, of no name.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    // An abstract name is what follows a zero byte.
    let Some(place) = address.sun_path.get_mut(1..=name.len()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    for (to, from) in place.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let length = mem::offset_of!(libc::sockaddr_un, sun_path) + 1 + name.len();
    // SAFETY: the address is initialised and at least `length` bytes long.
    check(unsafe {
        libc::connect(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            length as libc::socklen_t,
        )
    })?;
    Ok(peer::credentials(&socket)?.pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU16, Ordering};

    /// 64 ports from here on that no relay has, nor another test here or another run of the tests. Relays of other tests
    /// begin at 10,000.
    fn unused_ports() -> u16 {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        loop {
            let shift = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            let place = (std::process::id().wrapping_mul(3) + shift) % 140;
            let first = 1025 + 64 * place as u16;
            if overlapping((first, u32::from(first) + 64)).is_none() {
                return first;
            }
        }
    }

    fn taken(range: (u16, u32)) -> Held {
        match lock(range) {
            Err(Refused::Taken(held)) => held,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn held_once_for_each_port_until_dropped() {
        let first = unused_ports();
        let at = |start: u16, end: u16| (first + start, u32::from(first + end));
        assert_eq!(overlapping(at(0, 30)), None);
        let mine = lock(at(10, 20)).unwrap();
        for range in [at(10, 20), at(0, 11), at(19, 30), at(12, 14), at(0, 30)] {
            let held = taken(range);
            assert_eq!((held.first, held.end), at(10, 20), "{range:?}");
            assert_eq!(held.pid(), Some(std::process::id() as i32));
        }
        // Those beside it are nobody's.
        let _beside = [lock(at(0, 10)).unwrap(), lock(at(20, 30)).unwrap()];
        assert_eq!(taken(at(9, 20)).first, first, "the first of two");
        drop(mine);
        // A program that another test starts has it, too, from its fork to its exec.
        while overlapping(at(10, 20)).is_some() {
            thread::yield_now();
        }
        lock(at(10, 20)).unwrap();
    }

    /// Those who were told who has it are nowhere taken for relays, and keep nobody from asking.
    #[test]
    fn many_may_ask_who_has_it() {
        let first = unused_ports();
        let range = (first, u32::from(first) + 8);
        let mine = lock(range).unwrap();
        let told = format!("{first} to {}, pid {}", range.1 - 1, std::process::id());
        for _ in 0..200 {
            assert_eq!(taken(range).to_string(), told);
        }
        let all = held().into_iter().filter(|held| held.first == first);
        assert_eq!(all.count(), 1);
        let waiting = || {
            let table = fs::read_to_string("/proc/thread-self/net/unix").unwrap();
            table.matches(&format!("{NAME}{first}-")).count()
        };
        assert!(waiting() > 200);
        mine.let_go();
        mine.let_go();
        mine.let_go();
        assert_eq!(waiting(), 1);
    }

    #[test]
    fn of_those_that_start_together_one_has_it() {
        let first = unused_ports();
        let locks: Vec<_> = thread::scope(|scope| {
            let start = |shift| {
                let range = (first + shift, u32::from(first) + 8);
                scope.spawn(move || lock(range))
            };
            let all: Vec<_> = (0..8).map(start).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(locks.iter().filter(|lock| lock.is_ok()).count(), 1);
        let lost = locks.iter().filter_map(|lock| lock.as_ref().err());
        let all_told = lost.clone().all(|why| matches!(why, Refused::Taken(_)));
        assert!(all_told, "{lost:?}", lost = lost.collect::<Vec<_>>());
    }

    #[test]
    fn locks_are_read_from_the_kernels_table() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0: 00000002 00000000 00010000 0001 01 77 @mediaproxy-relay-40000-41000\n\
            0: 00000002 00000000 00000000 0001 02 0 @mediaproxy-relay-40000-41000\n\
            0: 00000002 00000000 00000000 0001 03 99 @mediaproxy-relay-40000-41000\n\
            0: 00000002 00000000 00000000 0002 01 78 @mediaproxy-relay-50000\n\
            0: 00000002 00000000 00010000 0001 01 79 @mediaproxy-relay-looks\n\
            0: 00000002 00000000 00010000 0001 01 80 @mediaproxy-relay-x-y\n\
            0: 00000002 00000000 00010000 0001 01 81 @mediaproxy-relay-9-9\n\
            0: 00000002 00000000 00000000 0002 01 82\n0: 0 0 0 0 0 83 /mediaproxy-relay-1\n\n";
        let found = parse(table);
        let ranges: Vec<_> = found.iter().map(|h| (h.first, h.end, h.inode)).collect();
        assert_eq!(ranges, [(40000, 41000, 77), (50000, 50001, 78)]);
        let shown: Vec<_> = found.iter().map(Held::to_string).collect();
        assert_eq!(shown, ["40000 to 40999", "50000 and more"]);
    }
}
