//! A JSON array of objects that arrives in pieces, cut into its elements: a list of any length is never in memory whole.
//! What is in an element is not looked at beyond its end.

/// See the module.
#[derive(Debug)]
pub struct Elements {
    state: State,
    /// The element that has begun.
    element: Vec<u8>,
    /// Brackets that are open in it.
    depth: u32,
    in_string: bool,
    is_escaped: bool,
    /// Bytes of an element.
    limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    /// An element or the end may come: none has come yet.
    Opened,
    Element,
    AfterElement,
    AfterComma,
    End,
}

/// Why a list is not read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// It is no array of objects.
    NoList,
    /// An element has more bytes than it may.
    TooLong(usize),
}

impl Elements {
    /// Takes elements of up to `limit` bytes.
    pub fn new(limit: usize) -> Elements {
        Elements {
            state: State::Start,
            element: Vec::new(),
            depth: 0,
            in_string: false,
            is_escaped: false,
            limit,
        }
    }

    /// Hands every element that ends in these bytes to `take`.
    ///
    /// # Errors
    /// What the list is not, or as of `take`.
    pub fn feed<E: From<Bad>>(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for &byte in bytes {
            if self.state != State::Element && byte.is_ascii_whitespace() {
                continue;
            }
            self.state = match (self.state, byte) {
                (State::Start, b'[') => State::Opened,
                (State::Opened | State::AfterComma, b'{') => State::Element,
                (State::AfterElement, b',') => State::AfterComma,
                (State::Opened | State::AfterElement, b']') => State::End,
                (State::Element, _) => State::Element,
                _ => return Err(Bad::NoList.into()),
            };
            if self.state != State::Element {
                continue;
            }
            self.element.push(byte);
            if self.element.len() > self.limit {
                return Err(Bad::TooLong(self.element.len()).into());
            }
            if self.is_over(byte) {
                self.state = State::AfterElement;
                take(&self.element)?;
                self.element.clear();
                self.element.shrink_to(KEPT_CAPACITY);
            }
        }
        Ok(())
    }

    /// Returns true if this byte ends the element.
    fn is_over(&mut self, byte: u8) -> bool {
        if self.in_string {
            self.in_string = self.is_escaped || byte != b'"';
            self.is_escaped = !self.is_escaped && byte == b'\\';
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        self.depth == 0
    }

    /// Returns true if the array has come to its end.
    pub fn is_whole(&self) -> bool {
        self.state == State::End
    }
}

/// Memory that is kept for the next element, bytes.
const KEPT_CAPACITY: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, piece: usize, limit: usize) -> Result<Option<Vec<String>>, Bad> {
        let mut elements = Elements::new(limit);
        let mut found = Vec::new();
        for bytes in text.as_bytes().chunks(piece) {
            elements.feed(bytes, |element| {
                found.push(String::from_utf8(element.to_vec()).unwrap());
                Ok::<(), Bad>(())
            })?;
        }
        Ok(elements.is_whole().then_some(found))
    }

    #[test]
    fn elements_come_whole_in_any_pieces() {
        let text = r#" [ {"a": "}\"]\\"} ,{"b":[{},"{"]}, {} ]  "#;
        for piece in 1..text.len() {
            let found = read(text, piece, 100).unwrap().unwrap();
            assert_eq!(found, [r#"{"a": "}\"]\\"}"#, r#"{"b":[{},"{"]}"#, "{}"]);
        }
        assert_eq!(read("[]", 1, 0), Ok(Some(vec![])));
    }

    #[test]
    fn what_is_no_list_of_objects_is_none() {
        for bad in [
            "error", "{}", "[1]", "[{}{}]", "[,{}]", "[{},]", "[[]]", "[] x", "[\"\"]",
        ] {
            assert_eq!(read(bad, 2, 100), Err(Bad::NoList), "{bad}");
        }
        for unfinished in ["", "[", "[{", "[{}", "[{\"a\":\"]"] {
            assert_eq!(read(unfinished, 2, 100), Ok(None), "{unfinished}");
        }
    }

    #[test]
    fn an_element_is_bounded() {
        assert_eq!(
            read("[{\"a\":1}]", 4, 7),
            Ok(Some(vec!["{\"a\":1}".into()]))
        );
        assert_eq!(read("[{\"a\":12}]", 4, 7), Err(Bad::TooLong(8)));
    }
}
