//! No public CA: whom a database's certificate must be from is said by its URI alone.
#![no_std]

use pki_types::TrustAnchor;

/// None.
pub const TLS_SERVER_ROOTS: &[TrustAnchor<'static>] = &[];
