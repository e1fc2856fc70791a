//! TLS between dispatcher, relay and management clients (protocol.md sections 2 and 6).
//!
//! ```text
//!  Store      the files, read again when they change     reload, context, files
//!  connect    a handshake, then two halves               handshake, stream
//!  accept
//!  Passport   what the peer's subject must be            passport, subject
//!  Trust      who is let in                              trust, verify, crl
//!             certificates, lists and dates in DER       x509, der, date
//!  provider   the algorithms                             crypto
//! ```
//!
//! Both sides show certificates. There is no host name, no session resumption and no SNI.
//! What is hidden from the documentation is public for the fuzz targets alone.

pub mod advice;
mod context;
mod crl;
mod crypto;
mod date;
mod der;
mod error;
mod files;
mod handshake;
mod passport;
mod reload;
mod stream;
mod subject;
mod trust;
mod verify;
mod x509;

#[cfg(test)]
mod tests;

pub use context::{Context, Paths, PeerCertificates, Validity};
#[doc(hidden)]
pub use crl::Crl;
pub use crypto::provider;
pub use error::{Error, Reason};
pub use files::LoadError;
pub use handshake::{HANDSHAKE_LIMIT, accept, connect};
pub use passport::Passport;
pub use reload::{LOOK_INTERVAL, Reload, Store, Watch};
pub use stream::{Closer, Peer, Reader, WRITE_LIMIT, Writer, plain_tcp, plain_unix};
pub use subject::{Attribute, Subject};
#[doc(hidden)]
pub use x509::Certificate;
