//! A client of the dispatcher's management socket: one command, the lines of its answer.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// One connection.
pub struct Management {
    stream: BufReader<UnixStream>,
}

impl Management {
    pub fn connect(socket: &Path) -> io::Result<Management> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Management {
            stream: BufReader::with_capacity(256 * 1024, stream),
        })
    }

    /// The lines up to the empty one that ends an answer, or the one line of an array.
    pub fn ask(&mut self, command: &str) -> io::Result<Vec<String>> {
        let request = format!("{command}\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end() {
                "" => return Ok(lines),
                text => lines.push(text.to_owned()),
            }
            if line.starts_with('[') {
                return Ok(lines);
            }
        }
    }
}

/// One command on a connection of its own.
pub fn ask(socket: &Path, command: &str) -> io::Result<Vec<String>> {
    Management::connect(socket)?.ask(command)
}
