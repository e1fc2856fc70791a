//! The cryptography of all TLS, chosen in this one place.

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

/// Returns ring's algorithms, which link statically and need no library at run time.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| Arc::new(rustls::crypto::ring::default_provider()))
        .clone()
}
