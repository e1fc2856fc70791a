//! Which of the streams that were agreed on a new offer goes on with (C3). Changes nothing.

use super::stream::Stream;
use crate::proto::Party;
use crate::proto::media::MediaDescription;

/// What a new offer says of the agreed streams.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Matched {
    /// By line of the offer: the stream that the line goes on with.
    pub kept: Vec<Option<usize>>,
    /// By line of the offer: the stream that the line closes by port 0.
    pub disabled: Vec<Option<usize>>,
}

/// Matches the lines of an offer. `agreed` has the stream of each line of the last answered offer.
pub(super) fn matched(
    agreed: &[Option<usize>],
    streams: &[Stream],
    offerer: Party,
    media: &[MediaDescription],
) -> Matched {
    let mut matching = Matching {
        agreed,
        streams,
        offerer,
        taken: vec![false; agreed.len()],
    };
    let mut kept = vec![None; media.len()];
    for how in [How::SamePlace, How::Elsewhere, How::SameLine] {
        for (line, description) in media.iter().enumerate() {
            if kept[line].is_none() && description.port != 0 {
                kept[line] = matching.take(line, description, how);
            }
        }
    }
    // A line that goes on with another's stream, or that is not there any more, has no use for its own.
    let is_left = |line: usize| kept.get(line).is_none_or(Option::is_some);
    let disabled = media.iter().enumerate().map(|(line, description)| {
        let is_off = description.port == 0;
        is_off.then(|| matching.take_disabled(line, description, is_left))?
    });
    Matched {
        disabled: disabled.collect(),
        kept,
    }
}

/// In this order: a line keeps its index (RFC 3264 section 8). Phones that drop or reorder lines all the same are
/// known by their ports, before a line that says nothing of its place is taken for the one with its index.
#[derive(Clone, Copy)]
enum How {
    /// The same line, the same address and port.
    SamePlace,
    /// Another line with the address and port.
    Elsewhere,
    /// The same line, on hold without an address, or one whose address was not told so far.
    SameLine,
}

struct Matching<'a> {
    agreed: &'a [Option<usize>],
    streams: &'a [Stream],
    offerer: Party,
    /// By line of the answered offer.
    taken: Vec<bool>,
}

impl Matching<'_> {
    fn take(&mut self, line: usize, media: &MediaDescription, how: How) -> Option<usize> {
        let is_there = |&line: &usize| {
            let stream = self.goes_on(line, media);
            stream.is_some_and(|stream| self.is_at(stream, media))
        };
        let says_nothing = |&line: &usize| {
            let stream = self.goes_on(line, media);
            let untold = |stream: &Stream| stream.legs[self.offerer].described.is_none();
            stream.is_some_and(|stream| media.address.is_zero() || untold(stream))
        };
        let found = match how {
            How::SamePlace => Some(line).filter(is_there),
            How::Elsewhere => (0..self.agreed.len()).find(is_there),
            How::SameLine => Some(line).filter(says_nothing),
        };
        found.and_then(|line| self.mark(line))
    }

    /// The stream of an agreed line, where a line of this type can go on with it.
    fn goes_on(&self, line: usize, media: &MediaDescription) -> Option<&Stream> {
        let stream = self.free(line)?;
        let fits = stream.media_type == media.media_type;
        (fits && stream.is_live() && !stream.declined).then_some(stream)
    }

    fn free(&self, line: usize) -> Option<&Stream> {
        let index = (*self.agreed.get(line)?)?;
        (!self.taken[line]).then(|| &self.streams[index])
    }

    /// Returns true if the offerer of a stream is where a line says, as far as it says so.
    fn is_at(&self, stream: &Stream, media: &MediaDescription) -> bool {
        let leg = &stream.legs[self.offerer];
        let described = leg.described.as_ref();
        leg.is_same(media)
            || described.is_some_and(|d| media.address.is_zero() && d.port == media.port)
    }

    fn mark(&mut self, line: usize) -> Option<usize> {
        self.taken[line] = true;
        self.agreed[line]
    }

    /// The stream of the line with its index; where that goes on elsewhere or is of another type, one of its own type
    /// that is left.
    fn take_disabled(
        &mut self,
        line: usize,
        media: &MediaDescription,
        is_left: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let is_it = |&other: &usize| {
            let stream = self.free(other).filter(|_| other == line || is_left(other));
            stream.is_some_and(|stream| stream.media_type == media.media_type)
        };
        let alike = [line].into_iter().chain(0..self.agreed.len()).find(is_it);
        let found = alike.or_else(|| self.free(line).map(|_| line));
        found.and_then(|other| self.mark(other))
    }
}
