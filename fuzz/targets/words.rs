//! What the engine's fuzz target says to it: few call-ids, tags and addresses, so that they meet often.

use mediaproxy::proto::control::{MessageKind, Remove, Signaling, Update};
use mediaproxy::proto::media::parse_list;
use mediaproxy::proto::{CSeq, CallId, DialogId, Tag};

use super::Choices;

const CALLS: [&str; 2] = ["one", "two"];
const TAGS: [&str; 3] = ["a", "b", "c"];
const TYPES: [&str; 3] = ["audio", "video", "image"];
const ADDRESSES: [&str; 6] = [
    "198.41.0.4",
    "10.0.0.5",
    "0.0.0.0",
    "198.41.0.9",
    "some.host",
    "::5",
];
const PORTS: [u16; 4] = [4000, 0, 65535, 4002];
const DIRECTIONS: [&str; 4] = ["sendrecv", "sendonly", "recvonly", "inactive"];

fn to_tag(choices: &mut Choices<'_>) -> Option<Tag> {
    let index = choices.below(TAGS.len() + 1);
    let index = index.checked_sub(1)?;
    Some(Tag(TAGS[index].into()))
}

pub fn remove(choices: &mut Choices<'_>) -> Remove {
    Remove {
        call_id: CallId((*choices.pick(&CALLS)).into()),
        from_tag: Tag((*choices.pick(&TAGS)).into()),
        to_tag: to_tag(choices),
    }
}

pub fn update(choices: &mut Choices<'_>) -> Update {
    let call_id = CallId((*choices.pick(&CALLS)).into());
    let kind = *choices.pick(&[MessageKind::Request, MessageKind::Reply]);
    let from_tag = Tag((*choices.pick(&TAGS)).into());
    let to_tag = to_tag(choices);
    let cseq = CSeq(choices.below(9) as u32);
    let destination = choices.yes().then(|| [10, 0, 0, 1].into());
    let items: Vec<String> = (0..choices.below(5)).map(|_| item(choices)).collect();
    let media = (!items.is_empty()).then(|| items.join(","));
    Update {
        kind,
        call_id,
        cseq,
        from_uri: "a@example.com".into(),
        to_uri: "b@example.com".into(),
        from_tag,
        to_tag,
        user_agent: "agent\r\n\u{1b}[31m".into(),
        signaling: Signaling {
            destination,
            ..Signaling::default()
        },
        dialog_id: choices.yes().then(|| DialogId("1:2".into())),
        session_id: None,
        media: media.map(|list| parse_list(list.as_bytes()).expect("a good list")),
    }
}

fn item(choices: &mut Choices<'_>) -> String {
    let kind = *choices.pick(&TYPES);
    let address = *choices.pick(&ADDRESSES);
    let port = *choices.pick(&PORTS);
    let direction = *choices.pick(&DIRECTIONS);
    let ice = ["no", "yes"][choices.below(2)];
    format!("{kind}:{address}:{port}:{direction}:ice={ice}")
}

pub fn datagram(choices: &mut Choices<'_>) -> Vec<u8> {
    let head: &[u8] = match choices.below(5) {
        0 => &[0x80, 8],
        1 => &[0x80, 200],
        2 => &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42],
        3 => &[22, 254],
        _ => return Vec::new(),
    };
    let mut data = head.to_vec();
    data.resize(40, 0);
    data
}
