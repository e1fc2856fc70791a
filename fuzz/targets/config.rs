//! `config.ini`: any file is settings or errors, and what is said of it is fit for a terminal.

use std::path::Path;

use mediaproxy::config::{self, ConfigError};

use super::visible;

pub fn run(data: &[u8]) {
    let (relay, dispatcher) = config::read_text(Path::new("/etc/mediaproxy"), data);
    match relay {
        Ok(loaded) => {
            let config = loaded.config;
            assert!(!config.dispatchers.is_empty(), "a relay needs one");
            assert!(config.port_range.count() > 0);
            said(data, &loaded.warnings);
        }
        Err(error) => refused(data, &error),
    }
    match dispatcher {
        Ok(loaded) => said(data, &loaded.warnings),
        Err(error) => refused(data, &error),
    }
}

fn refused(data: &[u8], error: &ConfigError) {
    let messages = error.messages();
    assert!(!messages.is_empty(), "refused without a reason");
    said(data, &messages);
}

/// Each names the file, and a line that there is.
fn said(data: &[u8], messages: &[String]) {
    if messages.is_empty() {
        return;
    }
    let lines = data.split(|&b| b == b'\n').count();
    for message in messages {
        visible(message);
        let rest = message.strip_prefix("/etc/mediaproxy/config.ini:");
        let rest = rest.expect("the file's name");
        let number = rest.split(':').next().unwrap_or_default();
        if let Ok(number) = number.parse::<usize>() {
            assert!((1..=lines).contains(&number), "{message}");
        }
    }
}
