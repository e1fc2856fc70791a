//! Reads the byte vectors of the tests: what `conntrack` and `nft` send, as hexadecimal text.

use crate::netlink::message::Messages;
use crate::netlink::nftables::Batch;

/// The bytes of hexadecimal digits; blanks and line ends are passed over.
pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// The bodies of a batch's messages, without the two that frame it.
pub(crate) fn bodies(batch: Batch<'_>) -> Vec<Vec<u8>> {
    let (bytes, _) = batch.end_acknowledged().unwrap();
    let messages: Result<Vec<_>, _> = Messages::new(&bytes).collect();
    let messages = messages.unwrap();
    // NFNL_MSG_BATCH_BEGIN and _END.
    let (first, last) = (messages.first().unwrap(), messages.last().unwrap());
    assert_eq!((first.kind, last.kind), (0x10, 0x11));
    assert_eq!(first.body, [0, 0, 0, 10]);
    let inner = &messages[1..messages.len() - 1];
    inner.iter().map(|message| message.body.to_vec()).collect()
}
