//! The SIP proxy's socket: one thread for each connection, its requests served in order, each answer in one
//! write (the proxy's module looks for a whole line in each read).

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::concurrency_limit::ConcurrencyLimit;
use super::counts::Asked;
use super::service::{ERROR, Served};
use super::shared::Dispatcher;
use super::threads::{accept_all, spawn};
use crate::logging::sparse::Sparse;
use crate::moment::Moment;
use crate::proto::Excerpt;
use crate::proto::control::{PROXY_LIMITS, Requests};
use crate::sys::clock;
use crate::sys::datagram::undisturbed;
use crate::sys::peer::credentials;

/// Connections at once; a proxy has one for each of its processes.
const MAX_CONNECTIONS: usize = 1000;

/// How long a proxy may leave an answer unread before its connection is closed.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// How long a connection that says nothing may take to be closed again.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// Bytes read at a time.
const READ_SIZE: usize = 8 * 1024;

/// The accepting thread.
pub(super) fn accept(dispatcher: &Arc<Dispatcher>, listener: &UnixListener) {
    let gate = ConcurrencyLimit::new(MAX_CONNECTIONS, MAX_CONNECTIONS);
    let mut refused = Sparse::default();
    accept_all(
        "the SIP proxy's socket",
        || listener.accept(),
        |(socket, _)| {
            let Some(pass) = gate.enter(None) else {
                if let Some(skipped) = refused.due() {
                    log::error!(
                        "SIP proxy: a connection was closed, {MAX_CONNECTIONS} are open{skipped}"
                    );
                }
                return;
            };
            if let (Some(enders), Ok(client)) = (dispatcher.enders.get(), credentials(&socket)) {
                enders.is_asked_by(client.uid);
            }
            let dispatcher = Arc::clone(dispatcher);
            let run = move || {
                talk(&dispatcher, &socket);
                drop(pass);
            };
            if let Err(error) = spawn("proxy", run) {
                log::error!("SIP proxy: no thread for its connection: {error}");
            }
        },
    );
}

/// Connects as a proxy does, says nothing and waits for the end: the accepting thread and one of a connection have to
/// run for that.
///
/// # Errors
/// Nobody listens, or the end does not come in time.
pub(super) fn probe(path: &Path) -> io::Result<()> {
    let mut socket = UnixStream::connect(path)?;
    socket.set_read_timeout(Some(PROBE_LIMIT))?;
    socket.shutdown(Shutdown::Write)?;
    match undisturbed(|| socket.read(&mut [0]))? {
        0 => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn talk(dispatcher: &Dispatcher, socket: &UnixStream) {
    log::debug!("SIP proxy: a connection");
    let _counted = dispatcher.counts.proxies.enter();
    match socket
        .set_write_timeout(Some(WRITE_LIMIT))
        .and_then(|()| serve(dispatcher, socket))
    {
        Ok(()) => log::debug!("SIP proxy: a connection was closed"),
        Err(error) => log::warn!("SIP proxy: a connection is lost: {error}"),
    }
}

/// Serves until the proxy closes the connection or it breaks.
fn serve(dispatcher: &Dispatcher, mut socket: &UnixStream) -> io::Result<()> {
    let mut requests = Requests::new(PROXY_LIMITS, &[]);
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let count = match socket.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let arrival = clock::moment();
        requests.extend(buffer.get(..count).unwrap_or_default());
        loop {
            match requests.next_request() {
                Ok(None) => break,
                Ok(Some(Ok(frame))) => {
                    let served = dispatcher.serve(frame, arrival);
                    answer(dispatcher, socket, served, arrival)?;
                }
                Ok(Some(Err(bad))) => {
                    let command = Excerpt(bad.command);
                    log::warn!("bad request \"{command}\" from the SIP proxy: {}", bad.why);
                    refuse(dispatcher, socket, arrival)?;
                }
                Err(broken) => {
                    refuse(dispatcher, socket, arrival)?;
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        broken.to_string(),
                    ));
                }
            }
        }
    }
}

fn answer(
    dispatcher: &Dispatcher,
    socket: &UnixStream,
    served: Served<'_>,
    arrival: Moment,
) -> io::Result<()> {
    let written = write_line(socket, &served.answer);
    let took = clock::moment().since(arrival);
    dispatcher
        .counts
        .request(served.asked, served.answer == ERROR, took);
    if written.is_err() {
        dispatcher.undo(served);
    }
    written
}

fn refuse(dispatcher: &Dispatcher, socket: &UnixStream, arrival: Moment) -> io::Result<()> {
    let took = clock::moment().since(arrival);
    dispatcher.counts.request(Asked::Invalid, true, took);
    write_line(socket, ERROR)
}

fn write_line(mut socket: &UnixStream, line: &str) -> io::Result<()> {
    socket.write_all(format!("{line}\r\n").as_bytes())
}
