//! Why a request could not be served.

/// Why a request could not be served; nothing of it was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Ipv6Media,
    OldCSeq,
    /// The answer's media types are not those of the offer.
    OtherMediaTypes,
    NoPorts,
    TooManyStreams,
    TooManyStreamsInAll,
    TooManySessions,
}

impl Refusal {
    /// In words for people.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Refusal::Ipv6Media => "IPv6 media is not relayed",
            Refusal::OldCSeq => "an old CSeq that is not remembered",
            Refusal::OtherMediaTypes => "the answer's media types are not those of the offer",
            Refusal::NoPorts => "no ports left",
            Refusal::TooManyStreams => "too many streams in one session",
            Refusal::TooManyStreamsInAll => "too many streams in all sessions",
            Refusal::TooManySessions => "too many sessions for the ports that there are",
        }
    }
}
