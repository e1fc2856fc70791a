//! HTTP/1.1 (RFC 9112) as far as a scrape needs it: one GET or HEAD on a connection, then its end. Pure.

/// Bytes that a request may have, its headers included.
pub const MAX_REQUEST: usize = 8 * 1024;

/// What came of the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// It has not ended yet.
    More,
    Request(Request),
    /// It can never become one that is served.
    Refused(Status),
}

/// A request that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// HEAD: the answer has no body.
    pub is_head: bool,
    /// Without the query.
    pub path: String,
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    TimedOut,
    TooLarge,
    Unavailable,
    VersionNotSupported,
}

impl Status {
    /// Number and phrase of the status line.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::TimedOut => "408 Request Timeout",
            Status::TooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
            Status::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }
}

/// Reads a request from what has come. Its body, which no request here needs, is left alone.
pub fn parse(bytes: &[u8]) -> Parsed {
    let Some(end) = end_of_head(bytes) else {
        return match bytes {
            // Nothing that speaks HTTP begins so: TLS for instance.
            [first, ..] if !is_token(*first) => Parsed::Refused(Status::BadRequest),
            _ if bytes.len() >= MAX_REQUEST => Parsed::Refused(Status::TooLarge),
            _ => Parsed::More,
        };
    };
    if end > MAX_REQUEST {
        return Parsed::Refused(Status::TooLarge);
    }
    let head = bytes
        .get(..end)
        .and_then(|head| std::str::from_utf8(head).ok());
    match head.map(parse_head) {
        Some(Ok(request)) => Parsed::Request(request),
        Some(Err(status)) => Parsed::Refused(status),
        None => Parsed::Refused(Status::BadRequest),
    }
}

/// Behind the empty line; lines may end in a bare LF.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut line = 0;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if line == 0 => return Some(at + 1),
            b'\n' => line = 0,
            b'\r' => {}
            _ => line += 1,
        }
    }
    None
}

fn parse_head(head: &str) -> Result<Request, Status> {
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Status::BadRequest);
    };
    let is_visible = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    if !method.bytes().all(is_token) || method.is_empty() || !is_visible(target) {
        return Err(Status::BadRequest);
    }
    match version {
        "HTTP/1.1" | "HTTP/1.0" => {}
        _ if version.starts_with("HTTP/") => return Err(Status::VersionNotSupported),
        _ => return Err(Status::BadRequest),
    }
    let hosts = headers(lines)?;
    // RFC 9112 section 3.2: one that does not say for whom it is, or says it twice, is refused.
    if hosts > 1 || (hosts == 0 && version == "HTTP/1.1") {
        return Err(Status::BadRequest);
    }
    let is_head = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(Status::MethodNotAllowed),
    };
    let path = path_of(target).ok_or(Status::BadRequest)?;
    Ok(Request { is_head, path })
}

/// How many of them are named Host.
fn headers<'a>(lines: impl Iterator<Item = &'a str>) -> Result<usize, Status> {
    let mut hosts = 0;
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, _) = line.split_once(':').ok_or(Status::BadRequest)?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(Status::BadRequest);
        }
        hosts += usize::from(name.eq_ignore_ascii_case("host"));
    }
    Ok(hosts)
}

/// Of a target in origin form, or in the absolute form that proxies send.
fn path_of(target: &str) -> Option<String> {
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => target,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    path.starts_with('/').then(|| path.to_owned())
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A whole response; the connection ends with it. `is_head` leaves out the body, not its length.
pub fn response(status: Status, content_type: &str, body: &str, is_head: bool) -> Vec<u8> {
    let allow = match status {
        Status::MethodNotAllowed => "Allow: GET, HEAD\r\n",
        _ => "",
    };
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        status.as_str(),
        body.len()
    );
    let body = if is_head { "" } else { body };
    [head.as_bytes(), body.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Parsed {
        parse(text.as_bytes())
    }

    fn is(path: &str) -> Parsed {
        Parsed::Request(Request {
            is_head: false,
            path: path.to_owned(),
        })
    }

    #[test]
    fn requests_of_real_clients() {
        // prometheus 2.42, curl 7.88 by a proxy, a person with nc.
        let prometheus = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:25062\r\nUser-Agent: Prometheus/2.42.0\r\n\
                          Accept: application/openmetrics-text;version=1.0.0\r\nAccept-Encoding: gzip\r\n\
                          X-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n";
        assert_eq!(request(prometheus), is("/metrics"));
        let curl = "GET http://relay:25063/metrics?x=/y HTTP/1.1\r\nhost: relay:25063\r\n\r\n";
        assert_eq!(request(curl), is("/metrics"));
        assert_eq!(request("GET / HTTP/1.0\n\n"), is("/"));
        assert_eq!(
            request("GET http://relay HTTP/1.1\r\nHost: relay\r\n\r\n"),
            is("/")
        );
        let head = Request {
            is_head: true,
            path: "/x".to_owned(),
        };
        assert_eq!(
            request("HEAD /x#y HTTP/1.1\r\nHost:\r\n\r\n"),
            Parsed::Request(head)
        );
    }

    #[test]
    fn a_request_may_come_byte_by_byte() {
        let text = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text[..end]), Parsed::More, "{end}");
        }
        assert_eq!(parse(text), is("/metrics"));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (text, status) in [
            (
                "POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
                Status::MethodNotAllowed,
            ),
            (
                "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
                Status::MethodNotAllowed,
            ),
            (
                "GET /metrics HTTP/2.0\r\nHost: a\r\n\r\n",
                Status::VersionNotSupported,
            ),
            (
                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                Status::VersionNotSupported,
            ),
            ("GET /metrics HTTP/1.1\r\n\r\n", Status::BadRequest),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
                Status::BadRequest,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
                Status::BadRequest,
            ),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Status::BadRequest),
            ("GET / HTTP/1.1\r\n: a\r\n\r\n", Status::BadRequest),
            (
                "GET metrics HTTP/1.1\r\nHost: a\r\n\r\n",
                Status::BadRequest,
            ),
            (
                "GET  /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
                Status::BadRequest,
            ),
            ("GET /metrics\r\n\r\n", Status::BadRequest),
            ("GET /metrics FTP/1\r\n\r\n", Status::BadRequest),
            ("summary\r\n\r\n", Status::BadRequest),
            ("\r\n", Status::BadRequest),
            ("\u{16}\u{3}\u{1}", Status::BadRequest),
        ] {
            assert_eq!(request(text), Parsed::Refused(status), "{text:?}");
        }
        assert_eq!(
            parse(b"GET /\xff HTTP/1.1\r\n\r\n"),
            Parsed::Refused(Status::BadRequest)
        );
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_ends() {
        let long = format!(
            "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
            "x".repeat(MAX_REQUEST)
        );
        assert_eq!(request(&long), Parsed::Refused(Status::TooLarge));
        assert_eq!(
            request(&long[..MAX_REQUEST]),
            Parsed::Refused(Status::TooLarge)
        );
        assert_eq!(request(&long[..MAX_REQUEST - 1]), Parsed::More);
        let body = format!(
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n{}",
            "x".repeat(2 * MAX_REQUEST)
        );
        assert_eq!(request(&body), is("/"), "what follows does not count");
    }

    /// No input panics, and each is decided once it is long enough.
    #[test]
    fn any_bytes_whatever() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for length in 0..2000 {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    b"GET /metrics HTTP/1.1\r\nHost: \0\xff"[state as usize % 31]
                })
                .collect();
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn responses() {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert_eq!(
            text(response(Status::Ok, "text/plain", "ab\n", false)),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\nab\n"
        );
        let head = text(response(Status::Ok, "text/plain", "ab\n", true));
        assert!(head.contains("Content-Length: 3\r\n") && head.ends_with("\r\n\r\n"));
        let refused = text(response(Status::MethodNotAllowed, "text/plain", "", false));
        assert!(
            refused.starts_with("HTTP/1.1 405 ") && refused.contains("\r\nAllow: GET, HEAD\r\n")
        );
    }
}
