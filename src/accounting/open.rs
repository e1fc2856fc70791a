//! From the configuration to backends.

use super::Backend;
use crate::config::DispatcherConfig;

/// The backends of `accounting =`.
///
/// # Errors
/// A sentence with the key: what cannot be used, or is not in this build.
pub fn backends(_config: &DispatcherConfig) -> Result<Vec<Box<dyn Backend>>, String> {
    Ok(Vec::new())
}
