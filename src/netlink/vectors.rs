//! Reads the byte vectors of the tests: what `conntrack` and `nft` send, as hexadecimal text.

/// The bytes of hexadecimal digits; blanks and line ends are passed over.
pub fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}
