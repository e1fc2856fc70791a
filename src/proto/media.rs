//! One item of the `media` header: what an m= line of an SDP says that a relay needs (RFC 8866 section 5.14,
//! RFC 3264 for directions).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::saved::{Exact, is_usual};
use super::{Excerpt, Text};

/// Who sends, as the writer of the SDP sees it (RFC 8866 section 6.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    #[default]
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

/// Where the writer of the SDP wants its media.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaAddress {
    Ip(IpAddr),
    /// A host name; never looked up: its owner is known once it sends.
    Name(Text),
}

impl MediaAddress {
    /// 0.0.0.0: a hold as of RFC 2543, which says nothing of where the party is.
    pub fn is_zero(&self) -> bool {
        *self == MediaAddress::Ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

/// As in a `media` header: an address, or else a name.
impl Serialize for MediaAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            MediaAddress::Ip(ip) => ip.serialize(serializer),
            MediaAddress::Name(name) => name.write(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for MediaAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MediaAddress, D::Error> {
        let text = String::deserialize(deserializer)?;
        let address = parse_address(text.as_bytes());
        address.ok_or_else(|| serde::de::Error::custom("not an address"))
    }
}

impl fmt::Display for MediaAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MediaAddress::Ip(ip) => ip.fmt(f),
            MediaAddress::Name(name) => name.fmt(f),
        }
    }
}

/// The kind of media: audio, video, image, text, application or any other token. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MediaType(Arc<str>);

impl MediaType {
    /// The token in lower case (it is compared without case).
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// T.38 and the like (RFC 6466): no codec, no RTCP to wait for.
    pub fn is_image(&self) -> bool {
        &*self.0 == "image"
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MediaType, D::Error> {
        let text = String::deserialize(deserializer)?;
        let media_type = parse_type(text.as_bytes());
        media_type.ok_or_else(|| serde::de::Error::custom("not a media type"))
    }
}

/// One m= line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaDescription {
    #[serde(rename = "type")]
    pub media_type: MediaType,
    pub address: MediaAddress,
    /// RTP port; 0 rejects or disables the stream.
    pub port: u16,
    #[serde(default, skip_serializing_if = "is_usual")]
    pub direction: Direction,
    /// The SDP offered or took ICE candidates (RFC 8839).
    #[serde(default, skip_serializing_if = "is_usual")]
    pub ice: bool,
}

/// Why a `media` header cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadMedia(String);

impl fmt::Display for BadMedia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads the whole header: items separated by commas, in the order of the m= lines.
pub fn parse_list(value: &[u8]) -> Result<Vec<MediaDescription>, BadMedia> {
    value.split(|&b| b == b',').map(parse_item).collect()
}

/// `type:address:port:direction[:name=value...]`. An IPv6 address comes with its colons, so what is fixed is
/// taken from both ends and the address is what is left. A line with port 0 is rejected or disabled: its address says
/// nothing, and may be missing or of any form.
fn parse_item(item: &[u8]) -> Result<MediaDescription, BadMedia> {
    let bad = |what: &str| BadMedia(format!("{what} in \"{}\"", Excerpt(item)));
    let mut fields: Vec<&[u8]> = item.split(|&b| b == b':').collect();
    let mut ice = false;
    while let Some((name, value)) = fields.last().and_then(|field| split_option(field)) {
        if name.eq_ignore_ascii_case(b"ice") {
            ice = value.eq_ignore_ascii_case(b"yes");
        }
        fields.pop();
    }
    let [media_type, address @ .., port, direction] = fields.as_slice() else {
        return Err(bad("expected type:address:port:direction"));
    };
    let media_type = parse_type(media_type).ok_or_else(|| bad("not a media type"))?;
    let port = std::str::from_utf8(before_slash(port)).ok();
    let port: Option<u16> = port.and_then(|p| p.parse().ok());
    let port = port.ok_or_else(|| bad("not a port (0 to 65535)"))?;
    let address = match parse_address(&address.join(&b':')) {
        None if port == 0 => NOWHERE,
        address => address.ok_or_else(|| bad("not an address"))?,
    };
    let direction = parse_direction(direction)
        .ok_or_else(|| bad("not a direction (sendrecv, sendonly, recvonly, inactive)"))?;
    Ok(MediaDescription {
        media_type,
        address,
        port,
        direction,
        ice,
    })
}

fn split_option(field: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = field.iter().position(|&b| b == b'=')?;
    Some((&field[..equals], &field[equals + 1..]))
}

/// Bytes of a media type, and of a host's name (RFC 1035 section 2.3.4).
const MAX_TYPE: usize = 64;
const MAX_HOST: usize = 255;

fn parse_type(token: &[u8]) -> Option<MediaType> {
    let text = std::str::from_utf8(token).ok()?;
    let is_token =
        (1..=MAX_TYPE).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    is_token.then(|| MediaType(text.to_ascii_lowercase().into()))
}

/// The address of a line that is rejected or disabled and has none.
const NOWHERE: MediaAddress = MediaAddress::Ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

/// The part before a slash: RFC 8866 lets a port be followed by a number of ports, an address by TTL or count.
fn before_slash(field: &[u8]) -> &[u8] {
    field.split(|&b| b == b'/').next().unwrap_or(field)
}

fn parse_address(address: &[u8]) -> Option<MediaAddress> {
    let address = before_slash(address);
    let text = std::str::from_utf8(address).ok();
    if let Some(ip) = text.and_then(|t| t.parse::<IpAddr>().ok()) {
        return Some(match ip.to_canonical() {
            // The hold of RFC 2543, as IPv6 writes it.
            IpAddr::V6(ip) if ip.is_unspecified() => NOWHERE,
            ip => MediaAddress::Ip(ip),
        });
    }
    // A name has no colon; what has one is a broken IPv6 address.
    let is_name = (1..=MAX_HOST).contains(&address.len())
        && address
            .iter()
            .all(|&b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    is_name.then(|| MediaAddress::Name(address.into()))
}

fn parse_direction(word: &[u8]) -> Option<Direction> {
    let directions = [
        ("sendrecv", Direction::SendRecv),
        ("sendonly", Direction::SendOnly),
        ("recvonly", Direction::RecvOnly),
        ("inactive", Direction::Inactive),
    ];
    let mut known = directions.into_iter();
    let (_, direction) = known.find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()))?;
    Some(direction)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(item: &str) -> Result<MediaDescription, String> {
        parse_list(item.as_bytes())
            .map(|mut list| list.remove(0))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_usual_forms() {
        let list =
            parse_list(b"audio:10.0.0.5:4000:sendrecv:ice=no,video:10.0.0.5:4002:sendonly:ice=yes")
                .unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(list[0].media_type.as_str(), "audio");
        assert_eq!(
            list[0].address,
            MediaAddress::Ip("10.0.0.5".parse().unwrap())
        );
        assert_eq!((list[0].port, list[0].ice), (4000, false));
        assert_eq!(list[1].direction, Direction::SendOnly);
        assert!(list[1].ice);
    }

    #[test]
    fn ipv6_names_and_unknown_options() {
        let v6 = one("audio:2001:db8::2:6000:sendrecv:ice=no").unwrap();
        assert_eq!(v6.address, MediaAddress::Ip("2001:db8::2".parse().unwrap()));
        assert_eq!(v6.port, 6000);
        let name = one("audio:media.example.org:6000:inactive:a=b:ice=yes:c=d").unwrap();
        assert_eq!(name.address, MediaAddress::Name("media.example.org".into()));
        assert!(name.ice);
        assert_eq!(
            one("IMAGE:1.2.3.4:0:recvonly").unwrap().media_type.as_str(),
            "image"
        );
    }

    #[test]
    fn a_line_with_port_0_needs_no_address() {
        for (item, address) in [
            ("video::0:inactive", "0.0.0.0"),
            ("video::::0:inactive:ice=no", "0.0.0.0"),
            ("video:2001:db8::1:0:sendrecv:ice=no", "2001:db8::1"),
            ("video:what ever:0:recvonly", "0.0.0.0"),
            ("video:1.2.3.4:0/2:sendrecv", "1.2.3.4"),
        ] {
            let line = one(item).unwrap();
            let address = MediaAddress::Ip(address.parse().unwrap());
            assert_eq!((line.port, line.address), (0, address), "{item}");
        }
    }

    #[test]
    fn directions_in_capitals_and_counts_after_a_slash_are_taken() {
        for (item, direction) in [
            ("audio:1.2.3.4:4000:SENDRECV", Direction::SendRecv),
            ("audio:1.2.3.4:4000/1:SendOnly", Direction::SendOnly),
            ("audio:1.2.3.4/127:4000:RECVONLY", Direction::RecvOnly),
            ("audio:::ffff:1.2.3.4:4000:Inactive", Direction::Inactive),
        ] {
            let line = one(item).unwrap();
            assert_eq!((line.port, line.direction), (4000, direction), "{item}");
            let address = MediaAddress::Ip("1.2.3.4".parse().unwrap());
            assert_eq!(line.address, address, "{item}");
        }
    }

    #[test]
    fn an_unspecified_ipv6_address_is_a_hold_like_0_0_0_0() {
        let line = one("audio::::4000:sendrecv:ice=no").unwrap();
        assert_eq!((line.port, line.address), (4000, NOWHERE));
    }

    #[test]
    fn bad_forms_say_what_is_wrong() {
        let cases = [
            ("", "expected type"),
            ("audio", "expected type"),
            ("audio:4000:sendrecv", "not an address"),
            (":1.2.3.4:4000:sendrecv", "not a media type"),
            ("audio:1.2.3.4:65536:sendrecv", "not a port"),
            ("audio:1.2.3.4:-1:sendrecv", "not a port"),
            ("audio:1.2.3.4::sendrecv", "not a port"),
            ("audio:1.2.3.4:4000:both", "not a direction"),
            ("audio:1:2:3:4000:sendrecv", "not an address"),
            ("audio::4000:sendrecv", "not an address"),
            ("audio:1.2.3.4:4000:sendrecv,", "expected type"),
            ("audio:a b:4000:sendrecv", "not an address"),
        ];
        for (item, want) in cases {
            let error = parse_list(item.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(want), "{item}: {error}");
        }
    }
}
