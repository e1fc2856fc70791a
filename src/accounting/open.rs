//! From the configuration to backends.

use super::{Backend, database};
use crate::config::{self, DispatcherConfig, FileSection, RadiusSection};

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
            config::Backend::Radius => backends.push(radius(&config.radius)?),
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

#[cfg(feature = "radius")]
fn radius(section: &RadiusSection) -> Result<Box<dyn Backend>, String> {
    Ok(Box::new(super::radius::Radius::open(section)?))
}

#[cfg(not(feature = "radius"))]
fn radius(_: &RadiusSection) -> Result<Box<dyn Backend>, String> {
    Err(not_built("radius", "radius"))
}

#[cfg(not(all(feature = "file", feature = "radius")))]
fn not_built(kind: &str, feature: &str) -> String {
    format!("accounting = {kind}: this build cannot do that (cargo feature {feature})")
}
