//! How clients come in: by the TCP port, with TLS or without, and by the UNIX socket.

use std::fmt::Display;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::answer::{Client, Who};
use crate::dispatcher::failed_connections::{Cause, Port};
use crate::dispatcher::ports;
use crate::dispatcher::shared::Dispatcher;
use crate::dispatcher::threads::spawn;
use crate::door::admission::Limits;
use crate::door::origin::Origin;
use crate::door::{Arrival, Door, Turned, Visit};
use crate::logging::sparse::Sparse;
use crate::sys::peer;
use crate::sys::sync::lock;
use crate::tls::{self, HANDSHAKE_LIMIT, Reader, Writer};

/// Clients at once, on the port and on the socket each; who has not asked for longest goes for one more.
const MAX_CLIENTS: usize = 64;

/// How long a client may say nothing.
const IDLE_LIMIT: Duration = Duration::from_secs(300);

/// A client that is let in.
type Opened = (Reader, Writer, Who);

/// The accepting thread of the TCP port.
pub(crate) fn accept_tcp(dispatcher: &Arc<Dispatcher>, listener: &TcpListener) {
    let is_costly = dispatcher.settings.management_use_tls;
    let patience = if is_costly {
        HANDSHAKE_LIMIT
    } else {
        IDLE_LIMIT
    };
    let limits = Limits {
        silent: 128,
        working: 64,
        inside: MAX_CLIENTS,
        patience,
        is_costly,
    };
    let door = dispatcher.door(Port::Management, limits);
    ports::tend(Port::Management, &door, listener, &|socket, name, visit| {
        let open = |dispatcher: &Dispatcher, name, visit: &Visit| {
            connect_tcp(dispatcher, socket, name, visit)
        };
        admit(dispatcher, name, visit, open);
    });
}

/// The accepting thread of the UNIX socket.
pub(crate) fn accept_unix(dispatcher: &Arc<Dispatcher>, listener: &UnixListener) {
    let limits = Limits {
        silent: MAX_CLIENTS,
        working: MAX_CLIENTS,
        inside: MAX_CLIENTS,
        patience: IDLE_LIMIT,
        is_costly: false,
    };
    let gave_way = Mutex::new(Sparse::default());
    let door = Door::new(limits, move |why, name| match why {
        Turned::GaveWay | Turned::Busy => {
            if let Some(skipped) = lock(&gave_way).due() {
                log::warn!("{name}: closed, more than {MAX_CLIENTS} are connected{skipped}");
            }
        }
        _ => log::debug!("{name}: {why}"),
    });
    let accept = || {
        let socket = listener.accept()?.0;
        let (uid, name) = match peer::credentials(&socket) {
            Ok(peer::Credentials { uid, pid }) => {
                (uid, format!("local client (uid {uid}, pid {pid})"))
            }
            Err(_) => (u32::MAX, "local client".to_owned()),
        };
        Ok(Arrival {
            socket: socket.into(),
            origin: Origin::User(uid),
            name,
        })
    };
    door.tend(
        "the management socket",
        listener.as_fd(),
        &accept,
        &|arrival, visit| {
            let socket = UnixStream::from(arrival.socket);
            let open = |_: &Dispatcher, name, _: &Visit| {
                let (reader, writer, _) = tls::plain_unix(socket).ok()?;
                Some((reader, writer, Who::plain(name, true)))
            };
            admit(dispatcher, arrival.name, visit, open);
        },
    );
}

/// None where it is not let in, which was told. Only with TLS and a passport is it certain that a client is the
/// administrator's.
fn connect_tcp(
    dispatcher: &Dispatcher,
    socket: TcpStream,
    name: String,
    visit: &Visit,
) -> Option<Opened> {
    let settings = &dispatcher.settings;
    let fail = |cause, why: &dyn Display| {
        if !visit.gave_way() {
            dispatcher.failed(Port::Management, cause, &name, why);
        }
    };
    if !settings.management_use_tls {
        let connected = tls::plain_tcp(socket);
        let (reader, writer, _) = connected
            .inspect_err(|error| fail(Cause::Network, error))
            .ok()?;
        return Some((reader, writer, Who::plain(name, false)));
    }
    let context = dispatcher.store.fresh();
    let passport = settings.management_passport.as_ref();
    let (reader, writer, peer) = tls::accept(socket, &context, passport, HANDSHAKE_LIMIT)
        .inspect_err(|error| fail(Cause::of(error), error))
        .ok()?;
    visit.prove();
    let who = Who {
        name: match peer.subject() {
            Some(subject) => format!("{name}, certificate \"{subject}\""),
            None => name,
        },
        may_change: passport.is_some(),
        certificates: peer.certificates,
    };
    Some((reader, writer, who))
}

fn admit(
    dispatcher: &Arc<Dispatcher>,
    name: String,
    visit: Visit,
    open: impl FnOnce(&Dispatcher, String, &Visit) -> Option<Opened> + Send + 'static,
) {
    let shared = Arc::clone(dispatcher);
    let who = name.clone();
    let run = move || serve(&shared, &who, &visit, open);
    if let Err(error) = spawn("management client", run) {
        log::error!("{name}: no thread for it: {error}");
    }
}

fn serve(
    dispatcher: &Dispatcher,
    name: &str,
    visit: &Visit,
    open: impl FnOnce(&Dispatcher, String, &Visit) -> Option<Opened>,
) {
    let _counted = dispatcher.counts.clients.enter();
    let Some((reader, writer, who)) = open(dispatcher, name.to_owned(), visit) else {
        return;
    };
    visit.go_in();
    let talked = reader.set_timeout(Some(IDLE_LIMIT)).and_then(|()| {
        let mut client = Client::new(dispatcher, writer, who);
        let talked = client.talk(reader, visit);
        client.writer.finish();
        talked
    });
    match talked {
        Ok(()) => log::debug!("{name}: done"),
        Err(_) if visit.gave_way() => {}
        Err(error) => log::info!("{name}: {error}"),
    }
}
