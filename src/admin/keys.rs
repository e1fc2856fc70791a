//! Keys of a terminal: letters, and the sequences that others send (ECMA-48; xterm's).

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::screen::Happening;

/// What keys without a letter send first, and how long the rest of it may take.
const ESCAPE: u8 = 0x1b;
const SEQUENCE_LIMIT: Duration = Duration::from_millis(50);

/// Ctrl-Z.
const SUSPEND: u8 = 0x1a;

/// What was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Letter(u8),
    Enter,
    Escape,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    /// The key of that name; the last line.
    Last,
    Suspend,
    /// No more will come, or somebody wants the program to end.
    End,
    /// Nothing that means anything here.
    None,
}

/// What a happening and those right after it mean.
pub(super) fn key(first: Happening, more: &Receiver<Happening>) -> Key {
    match first {
        Happening::Key(ESCAPE) => sequence(more),
        Happening::Key(b'\r' | b'\n') => Key::Enter,
        Happening::Key(SUSPEND) => Key::Suspend,
        Happening::Key(b'k') => Key::Up,
        Happening::Key(b'j') => Key::Down,
        Happening::Key(letter) => Key::Letter(letter),
        Happening::Signal | Happening::NoKeys => Key::End,
    }
}

/// What follows [`ESCAPE`]: it comes at once.
fn sequence(more: &Receiver<Happening>) -> Key {
    let mut number = 0_u32;
    let mut is_first = true;
    loop {
        match more.recv_timeout(SEQUENCE_LIMIT) {
            Ok(Happening::Key(b'[' | b'O')) if is_first => {}
            // What ends a sequence (ECMA-48 section 5.4).
            Ok(Happening::Key(last @ 0x40..=0x7e)) => {
                return match (last, number) {
                    (b'A', _) => Key::Up,
                    (b'B', _) => Key::Down,
                    (b'H', _) | (b'~', 1 | 7) => Key::Home,
                    (b'F', _) | (b'~', 4 | 8) => Key::Last,
                    (b'~', 5) => Key::PageUp,
                    (b'~', 6) => Key::PageDown,
                    _ => Key::None,
                };
            }
            Ok(Happening::Key(byte)) => {
                let digit = u32::from(byte.wrapping_sub(b'0'));
                number = number.saturating_mul(10).saturating_add(digit);
            }
            Err(RecvTimeoutError::Timeout) if is_first => return Key::Escape,
            Err(RecvTimeoutError::Timeout) => return Key::None,
            Ok(Happening::Signal | Happening::NoKeys) | Err(RecvTimeoutError::Disconnected) => {
                return Key::End;
            }
        }
        is_first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressed(bytes: &[u8]) -> Vec<Key> {
        let (sender, receiver) = crossbeam_channel::unbounded();
        for byte in bytes {
            sender.send(Happening::Key(*byte)).unwrap();
        }
        let mut keys = Vec::new();
        while let Ok(first) = receiver.try_recv() {
            keys.push(key(first, &receiver));
        }
        keys
    }

    #[test]
    fn sequences_are_one_key_each() {
        let bytes = b"\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[H\x1b[4~\x1b[15~\x1b[1;5Cq\r\x1a";
        assert_eq!(
            pressed(bytes),
            [
                Key::Up,
                Key::Down,
                Key::PageUp,
                Key::PageDown,
                Key::Home,
                Key::Last,
                Key::None,
                Key::None,
                Key::Letter(b'q'),
                Key::Enter,
                Key::Suspend,
            ]
        );
        assert_eq!(pressed(b"\x1b"), [Key::Escape]);
    }

    #[test]
    fn a_signal_ends_it_even_within_a_sequence() {
        let (sender, receiver) = crossbeam_channel::unbounded();
        sender.send(Happening::Signal).unwrap();
        assert_eq!(key(Happening::Key(ESCAPE), &receiver), Key::End);
        assert_eq!(key(Happening::NoKeys, &receiver), Key::End);
    }
}
