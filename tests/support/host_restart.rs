//! What the start of a host does to the daemons' files.

use std::fs;
use std::io;
use std::path::Path;

/// Removes what a relay would know of the calls of one that was killed: the runtime directory of a host that starts anew is
/// empty.
pub fn forget_calls(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory.join("run"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("relay-") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
