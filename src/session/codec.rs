//! Codecs by their RTP payload types.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An RTP payload type, 0 to 127, shown by its name for people (RFC 3551 section 6, M6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Codec(pub u8);

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "G711u",
            1 => "1016",
            2 => "G721",
            3 => "GSM",
            4 => "G723",
            5 | 6 => "DVI4",
            7 => "LPC",
            8 => "G711a",
            9 => "G722",
            10 | 11 => "L16",
            14 => "MPA",
            15 => "G728",
            18 => "G729",
            25 => "CelB",
            26 => "JPEG",
            28 => "nv",
            31 => "H261",
            32 => "MPV",
            33 => "MP2T",
            34 => "H263",
            dynamic @ 96.. => return write!(f, "Dynamic({dynamic})"),
            unknown => return write!(f, "Unknown({unknown})"),
        };
        f.write_str(name)
    }
}
