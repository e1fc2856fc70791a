//! From the configuration to backends.

use super::{Backend, database};
use crate::config::{self, DispatcherConfig, FileSection};

/// The backends of `accounting =`.
///
/// # Errors
/// A sentence with the key: what cannot be used, or is not in this build.
pub fn backends(config: &DispatcherConfig) -> Result<Vec<Box<dyn Backend>>, String> {
    let mut backends = Vec::new();
    for kind in &config.accounting {
        match kind {
            config::Backend::File => backends.push(file(&config.file)?),
            config::Backend::Database => backends.extend(database::open(&config.database)?),
            config::Backend::Radius => {}
        }
    }
    Ok(backends)
}

#[cfg(feature = "file")]
fn file(section: &FileSection) -> Result<Box<dyn Backend>, String> {
    Ok(Box::new(super::file::File::new(section)))
}

#[cfg(not(feature = "file"))]
fn file(_: &FileSection) -> Result<Box<dyn Backend>, String> {
    Err(not_built("file", "file"))
}

#[cfg(not(feature = "file"))]
fn not_built(kind: &str, feature: &str) -> String {
    format!("accounting = {kind}: this build cannot do that (cargo feature {feature})")
}
