//! Netlink messages and attributes: build and iterate (linux/netlink.h, linux/netfilter/nfnetlink.h). Pure.
//!
//! Nothing here panics on what the kernel sends: a message or attribute whose length does not fit is
//! [`Truncated`].

use std::fmt;
use std::net::Ipv4Addr;

/// Request flags (NLM_F_*).
pub const REQUEST: u16 = 0x01;
pub const ACK: u16 = 0x04;
/// The answer repeats what the request has changed.
pub const ECHO: u16 = 0x08;
pub const DUMP: u16 = 0x300;
/// With a request that makes something: not if it exists.
pub const EXCL: u16 = 0x200;
pub const CREATE: u16 = 0x400;
/// With a request that makes something: at the end.
pub const APPEND: u16 = 0x800;

/// Message types that are not a subsystem's (NLMSG_*).
pub const ERROR: u16 = 2;
pub const DONE: u16 = 3;

/// The dump was changed while it ran.
pub const DUMP_INTERRUPTED: u16 = 0x10;

const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const MESSAGE_HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;

/// A message or attribute is longer than what is there, or shorter than its own header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated;

impl fmt::Display for Truncated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("truncated netlink message")
    }
}

/// Builds messages one after the other in one buffer.
#[derive(Debug, Default)]
pub struct Builder {
    bytes: Vec<u8>,
    message: usize,
}

/// Where an attribute that holds others began.
#[must_use]
pub struct Nest(usize);

impl Builder {
    /// Begins a message to netfilter. `kind` is subsystem and message (`subsystem << 8 | message`), `resource`
    /// the header's res_id. The length is kept right as attributes are added.
    pub fn message(&mut self, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) {
        self.message = self.bytes.len();
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        self.set_length();
    }

    /// Adds flags to the message that was begun last.
    pub fn add_flags(&mut self, flags: u16) {
        let at = self.message + 6;
        let old = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        self.bytes[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    /// An attribute with these bytes.
    pub fn put(&mut self, kind: u16, value: &[u8]) {
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(align(self.bytes.len()), 0);
        self.set_length();
    }

    pub fn put_u8(&mut self, kind: u16, value: u8) {
        self.put(kind, &[value]);
    }

    pub fn put_be16(&mut self, kind: u16, value: u16) {
        self.put(kind, &value.to_be_bytes());
    }

    pub fn put_be32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    pub fn put_be64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    pub fn put_ip(&mut self, kind: u16, value: Ipv4Addr) {
        self.put(kind, &value.octets());
    }

    /// A string with the NUL that the kernel wants.
    pub fn put_name(&mut self, kind: u16, name: &str) {
        let mut value = name.as_bytes().to_vec();
        value.push(0);
        self.put(kind, &value);
    }

    /// Begins an attribute that holds others; they follow until [`Builder::end`].
    pub fn begin(&mut self, kind: u16) -> Nest {
        let nest = Nest(self.bytes.len());
        self.put(kind | NESTED, &[]);
        nest
    }

    /// Ends what [`Builder::begin`] began.
    pub fn end(&mut self, nest: Nest) {
        let length = (self.bytes.len() - nest.0) as u16;
        self.bytes[nest.0..nest.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Everything built so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn set_length(&mut self) {
        let length = (self.bytes.len() - self.message) as u32;
        self.bytes[self.message..self.message + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// A message from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// The socket that asked for it or whose request brought it about; 0 is the kernel.
    pub port: u32,
    /// All after the header.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes after the netfilter header.
    pub fn attributes(&self) -> Result<Attributes<'a>, Truncated> {
        let rest = self.body.get(NETFILTER_HEADER..).ok_or(Truncated)?;
        Ok(Attributes { rest })
    }

    /// Of an [`ERROR`] message: the errno, 0 for an acknowledgement.
    pub fn errno(&self) -> Result<i32, Truncated> {
        let code = self.body.first_chunk().ok_or(Truncated)?;
        Ok(i32::from_ne_bytes(*code).wrapping_neg())
    }
}

/// The messages of one datagram.
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    pub fn new(datagram: &'a [u8]) -> Messages<'a> {
        Messages { rest: datagram }
    }

    fn read(&mut self) -> Result<Message<'a>, Truncated> {
        let header: &[u8; MESSAGE_HEADER] = self.rest.first_chunk().ok_or(Truncated)?;
        let length = ne_u32(header, 0) as usize;
        let whole = self.rest.get(..length).ok_or(Truncated)?;
        let body = whole.get(MESSAGE_HEADER..).ok_or(Truncated)?;
        self.rest = self.rest.get(align(length)..).unwrap_or_default();
        Ok(Message {
            kind: ne_u16(header, 4),
            flags: ne_u16(header, 6),
            sequence: ne_u32(header, 8),
            port: ne_u32(header, 12),
            body,
        })
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Truncated>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.rest = &[];
        }
        Some(read)
    }
}

/// Attributes one after the other: type and value.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Those that an attribute holds.
    pub fn nested(value: &'a [u8]) -> Attributes<'a> {
        Attributes { rest: value }
    }

    fn read(&mut self) -> Result<(u16, &'a [u8]), Truncated> {
        let header: &[u8; ATTRIBUTE_HEADER] = self.rest.first_chunk().ok_or(Truncated)?;
        let length = usize::from(ne_u16(header, 0));
        let whole = self.rest.get(..length).ok_or(Truncated)?;
        let value = whole.get(ATTRIBUTE_HEADER..).ok_or(Truncated)?;
        self.rest = self.rest.get(align(length)..).unwrap_or_default();
        Ok((ne_u16(header, 2) & TYPE_MASK, value))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Truncated>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.rest = &[];
        }
        Some(read)
    }
}

/// The first attribute of a type among those that a value holds.
pub fn find(value: &[u8], wanted: u16) -> Result<Option<&[u8]>, Truncated> {
    for attribute in Attributes::nested(value) {
        let (kind, value) = attribute?;
        if kind == wanted {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// A name up to its NUL. Names may hold any byte: what would disturb a terminal is escaped.
pub fn text(value: &[u8]) -> String {
    let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).escape_debug().to_string()
}

/// A value of 16 bits in network order.
pub fn be16(value: &[u8]) -> Result<u16, Truncated> {
    value
        .try_into()
        .map(u16::from_be_bytes)
        .map_err(|_| Truncated)
}

/// A value of 32 bits in network order.
pub fn be32(value: &[u8]) -> Result<u32, Truncated> {
    value
        .try_into()
        .map(u32::from_be_bytes)
        .map_err(|_| Truncated)
}

/// A value of 64 bits in network order.
pub fn be64(value: &[u8]) -> Result<u64, Truncated> {
    value
        .try_into()
        .map(u64::from_be_bytes)
        .map_err(|_| Truncated)
}

/// An IPv4 address.
pub fn ip(value: &[u8]) -> Result<Ipv4Addr, Truncated> {
    be32(value).map(Ipv4Addr::from)
}

fn align(length: usize) -> usize {
    (length + 3) & !3
}

fn ne_u16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn ne_u32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut builder = Builder::default();
        builder.message(0x0100, REQUEST | ACK, 7, 2, 0);
        let nest = builder.begin(1);
        builder.put_u8(1, 17);
        builder.put_be16(2, 30000);
        builder.end(nest);
        builder.put_name(3, "abc");
        builder.message(0x0102, REQUEST, 8, 2, 0);
        builder.put_be32(8, 77);
        builder.bytes().to_vec()
    }

    #[test]
    fn what_is_built_is_read_back() {
        let bytes = sample();
        let messages: Result<Vec<Message>, Truncated> = Messages::new(&bytes).collect();
        let messages = messages.unwrap();
        assert_eq!(
            (messages[0].kind, messages[0].flags, messages[0].sequence),
            (0x100, 5, 7)
        );
        let attributes: Result<Vec<_>, _> = messages[0].attributes().unwrap().collect();
        let attributes = attributes.unwrap();
        assert_eq!(attributes[1], (3, &b"abc\0"[..]));
        let inner: Result<Vec<_>, _> = Attributes::nested(attributes[0].1).collect();
        assert_eq!(inner.unwrap(), [(1, &[17][..]), (2, &[0x75, 0x30][..])]);
        let last = messages[1].attributes().unwrap().next().unwrap().unwrap();
        assert_eq!((last.0, be32(last.1)), (8, Ok(77)));
    }

    #[test]
    fn cut_at_every_byte_it_is_truncated_and_never_a_panic() {
        let bytes = sample();
        for end in 1..bytes.len() {
            let mut seen_error = false;
            for message in Messages::new(&bytes[..end]) {
                seen_error |= message.is_err();
            }
            let whole_messages = end == bytes.len() - 28 || end == 44;
            assert!(seen_error || whole_messages, "{end}");
            for attribute in Attributes::nested(&bytes[20..end.max(20)]) {
                let _ = attribute.map(|(_, value)| Attributes::nested(value).count());
            }
        }
    }

    #[test]
    fn lengths_that_lie_are_truncated() {
        for length in [0u16, 3, 9] {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend_from_slice(&[1, 0, 5, 5]);
            assert_eq!(
                Attributes::nested(&bytes).collect::<Vec<_>>(),
                [Err(Truncated)]
            );
        }
        let mut bytes = sample();
        bytes[..4].copy_from_slice(&15u32.to_ne_bytes());
        assert_eq!(Messages::new(&bytes).collect::<Vec<_>>(), [Err(Truncated)]);
    }
}
