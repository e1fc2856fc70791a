//! A directory of one test case from that of another.

use std::fs;
use std::path::Path;

/// With all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = entry.map(|e| (e.path(), to.join(e.file_name()))).unwrap();
        if path.is_dir() {
            copy(&path, &to)
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}
