//! What a stranger may send to the metrics port.

use mediaproxy::metrics::http::{MAX_REQUEST, Parsed, parse};

/// However a request is cut into pieces, it comes to the same, and no input is waited for without end.
pub fn http(data: &[u8]) {
    let whole = parse(data);
    match &whole {
        Parsed::More => assert!(data.len() < MAX_REQUEST, "more than the longest request"),
        Parsed::Request(request) => {
            assert!(request.path.starts_with('/'), "{request:?}");
            assert!(request.path.bytes().all(|byte| byte.is_ascii_graphic()));
        }
        Parsed::Refused(_) => {}
    }
    if let Some(end) = (0..data.len()).find(|end| parse(&data[..*end]) != Parsed::More) {
        let first = parse(&data[..end]);
        let followed = [&data[..end], b"X: y\r\n\r\n"].concat();
        if let Parsed::Request(_) = first {
            assert_eq!(parse(&followed), first, "what follows a request changes it");
            assert_eq!(whole, first);
        }
    }
}
