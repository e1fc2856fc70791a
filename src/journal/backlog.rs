//! What a journal has refused: in memory, oldest first and no more than so many bytes, until the journal takes it.

use std::collections::VecDeque;

/// See the module.
#[derive(Debug)]
pub struct Backlog<T> {
    waiting: VecDeque<(T, usize)>,
    bytes: usize,
}

impl<T> Default for Backlog<T> {
    fn default() -> Backlog<T> {
        Backlog {
            waiting: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<T> Backlog<T> {
    /// Lets something of so many bytes wait. False, and nothing is kept, where all together would be more than `limit`.
    pub fn push(&mut self, one: T, bytes: usize, limit: usize) -> bool {
        let has_room = self.bytes + bytes <= limit;
        if has_room {
            self.bytes += bytes;
            self.waiting.push_back((one, bytes));
        }
        has_room
    }

    /// Gives up those that are not needed any more.
    pub fn retain(&mut self, mut is_needed: impl FnMut(&T) -> bool) {
        self.waiting.retain(|(one, _)| is_needed(one));
        self.bytes = self.waiting.iter().map(|(_, bytes)| bytes).sum();
    }

    /// Tries the oldest ones again, `most` of them at a time, until one is refused, which stays with those behind it.
    ///
    /// # Errors
    /// Why that one was.
    pub fn retry<E>(
        &mut self,
        most: usize,
        mut write: impl FnMut(&T) -> Result<(), E>,
    ) -> Result<(), E> {
        for _ in 0..most {
            let Some((oldest, bytes)) = self.waiting.front() else {
                break;
            };
            write(oldest)?;
            self.bytes -= bytes;
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter().map(|(one, _)| one)
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_waits_than_there_is_room_for_and_the_oldest_goes_first() {
        let mut backlog = Backlog::default();
        assert!(backlog.push("a", 4, 10) && backlog.push("b", 6, 10));
        assert!(!backlog.push("c", 1, 10));
        assert_eq!(backlog.iter().collect::<Vec<_>>(), [&"a", &"b"]);
        let takes =
            |taken| move |one: &&'static str| if *one == taken { Ok(()) } else { Err(*one) };
        assert_eq!(backlog.retry(9, takes("x")), Err("a"));
        assert_eq!(backlog.len(), 2, "it stays");
        assert_eq!(backlog.retry(9, takes("a")), Err("b"));
        assert!(backlog.push("c", 4, 10), "a's room");
        assert_eq!(backlog.retry(1, takes("b")), Ok(()));
        assert_eq!(backlog.iter().collect::<Vec<_>>(), [&"c"], "one at a time");
        assert_eq!(backlog.retry(9, takes("c")), Ok(()));
        assert!(backlog.is_empty() && backlog.push("d", 10, 10));
        backlog.retain(|one| *one != "d");
        assert!(backlog.is_empty() && backlog.push("e", 10, 10));
    }
}
