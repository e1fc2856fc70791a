//! The relays' port: TLS handshakes, each on its own thread, then a reading and a writing thread for each
//! link.

use std::fmt::Display;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::concurrency_limit::ConcurrencyLimit;
use super::conversation::Conversation;
use super::failed_connections::{Cause, Port};
use super::link::{Ask, Link};
use super::link_end::{end, judge};
use super::ports::tend;
use super::relay_commands::write_plain;
use super::shared::Dispatcher;
use super::threads::spawn;
use crate::door::admission::Limits;
use crate::door::origin::Origin;
use crate::door::{Door, Visit};
use crate::sys::sync::lock;
use crate::sys::{clock, memory};
use crate::tls::{self, HANDSHAKE_LIMIT, Peer, Reader, Writer};

/// Connections that are no links yet.
const LIMITS: Limits = Limits {
    silent: 128,
    working: 64,
    inside: 0,
    patience: HANDSHAKE_LIMIT,
    is_costly: true,
};

/// Links at once, in all and from one address.
const LINKS: (usize, usize) = (512, 128);

/// Bytes read at a time.
const READ_SIZE: usize = 16 * 1024;

/// The accepting thread.
pub(super) fn accept(dispatcher: &Arc<Dispatcher>, listener: &TcpListener) {
    let door = dispatcher.door(Port::Relays, LIMITS);
    // Those of the dispatcher before this one come back as what they are, whoever else wants to.
    for relay in lock(&dispatcher.registry).relays.known() {
        door.remember(Origin::of(relay.address));
    }
    let links = ConcurrencyLimit::new(LINKS.0, LINKS.1);
    let serve = |socket, name: String, visit| {
        let (shared, links) = (Arc::clone(dispatcher), Arc::clone(&links));
        let (door, who) = (Arc::clone(&door), name.clone());
        let run = move || shake_hands(&shared, &door, &links, socket, &who, visit);
        if let Err(error) = spawn("relay", run) {
            log::error!("{name}: no thread for it: {error}");
        }
    };
    tend(Port::Relays, &door, listener, &serve);
}

/// Returns when its link has ended.
fn shake_hands(
    dispatcher: &Arc<Dispatcher>,
    door: &Door,
    links: &Arc<ConcurrencyLimit>,
    socket: TcpStream,
    name: &str,
    visit: Visit,
) {
    let fail = |cause, why: &dyn Display| dispatcher.failed(Port::Relays, cause, name, why);
    let context = dispatcher.store.fresh();
    let passport = dispatcher.settings.passport.as_ref();
    let address = socket.peer_addr();
    let accepted = tls::accept(socket, &context, passport, HANDSHAKE_LIMIT);
    drop(context);
    let (reader, writer, peer) = match accepted {
        Ok(connection) => connection,
        Err(_) if visit.gave_way() => return,
        Err(error) => return fail(Cause::of(&error), &error),
    };
    visit.prove();
    drop(visit);
    // It was connected, or there were no handshake.
    let Ok(address) = address else { return };
    let Some(_pass) = links.enter(Some(address.ip())) else {
        return fail(Cause::NoRoom, &"too many links, from there or at all");
    };
    run_link(dispatcher, reader, writer, &peer, address);
    // It was here until now: so it is the last one that is forgotten.
    door.remember(Origin::of(address.ip()));
}

fn run_link(
    dispatcher: &Arc<Dispatcher>,
    mut reader: Reader,
    writer: Writer,
    peer: &Peer,
    address: SocketAddr,
) {
    let closer = reader.closer();
    let link = lock(&dispatcher.registry).link_up(address.ip().to_canonical(), |id| {
        let shutdown = Box::new(move || closer.close());
        let link = Link::new(id, address, peer.certificates.clone(), shutdown);
        Arc::new(link)
    });
    // It may have been revoked since its handshake began, when the files were looked at.
    judge(dispatcher, &dispatcher.store.current(), &link);
    match peer.subject() {
        Some(subject) => log::info!("relay {address}: connected, certificate \"{subject}\""),
        None => log::info!("relay {address}: connected"),
    }
    // Links without a known relay are asked too: the first line tells who it is.
    let sent = link.send(clock::moment(), Ask::Purge, |out, sequence, _| {
        write_plain(out, "sessions", sequence)
    });
    let writing = Arc::clone(&link);
    let spawned = spawn("relay writer", move || write(&writing, writer));
    let mut is_cut = false;
    let why = match (sent, spawned) {
        // A fault of ours in one relay's conversation ends its link, and never leaves it half open.
        (Ok(()), Ok(())) => {
            let mut conversation = Conversation::new(dispatcher, &link);
            let reading = AssertUnwindSafe(|| read(&mut conversation, &mut reader));
            let why = catch_unwind(reading);
            // What the lines before a panic told.
            let _ = catch_unwind(AssertUnwindSafe(|| conversation.settle()));
            is_cut = conversation.is_cut();
            why.unwrap_or_else(|_| "internal error: a panic".to_owned())
        }
        (Err(refused), _) => refused.to_string(),
        (_, Err(error)) => format!("no thread to write to it: {error}"),
    };
    end(dispatcher, &link, &why);
    if is_cut {
        memory::give_back();
    }
}

fn write(link: &Link, mut writer: Writer) {
    match link.write_to(|batch| writer.write_all(batch)) {
        Ok(()) => writer.finish(),
        Err(error) => link.close(&format!("writing failed: {error}")),
    }
    link.note_written();
}

/// Reads until the link ends and says why it did.
fn read(conversation: &mut Conversation<'_>, reader: &mut Reader) -> String {
    let mut buffer = vec![0; READ_SIZE];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return "closed by the relay".to_owned(),
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                if let Err(too_long) = conversation.take(bytes) {
                    return too_long.to_string();
                }
            }
            // TimedOut is the network's: this reader has no limit of its own.
            Err(error) => return error.to_string(),
        }
    }
}
