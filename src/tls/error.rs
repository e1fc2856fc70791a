//! What goes wrong with certificates and connections, in words for a log.

use std::fmt;
use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};

use super::date;
use super::subject::Subject;
use crate::sys::clock;

/// Why a peer's certificate is not accepted. The text continues "its certificate was refused: ...".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The peer showed none.
    Missing,
    /// It is not a certificate; says at what.
    Unreadable(String),
    /// Seconds since 1970 at which it ended; the issuing certificate's name where it is not the peer's own.
    Expired {
        not_after: i64,
        issuer: Option<String>,
    },
    /// Seconds since 1970 at which it begins.
    NotYetValid {
        not_before: i64,
        issuer: Option<String>,
    },
    /// Listed in crl.pem; the issuing certificate's name where it is not the peer's own that is listed.
    Revoked { issuer: Option<String> },
    /// No CA in ca.pem issued it.
    UnknownIssuer { issuer: String },
    /// The CA in ca.pem that issued it is out of date.
    CaExpired { issuer: String, not_after: i64 },
    /// A CA of that name is in ca.pem, but it did not sign this.
    BadSignature { issuer: String },
    /// Signed in a way that is not accepted.
    Algorithm(String),
    /// Signed with an RSA key of this many bits.
    ShortKey(usize),
    /// The subject does not fit the passport; the text of the passport.
    Passport(String),
    /// Anything else, in a few words.
    Other(String),
}

impl Reason {
    /// What to tell the TLS library, which turns it into an alert for the peer.
    pub(super) fn certificate_error(&self) -> CertificateError {
        match self {
            Reason::Expired { .. } => CertificateError::Expired,
            Reason::NotYetValid { .. } => CertificateError::NotValidYet,
            Reason::Revoked { .. } => CertificateError::Revoked,
            Reason::UnknownIssuer { .. }
            | Reason::CaExpired { .. }
            | Reason::BadSignature { .. } => CertificateError::UnknownIssuer,
            Reason::Passport(_) => CertificateError::ApplicationVerificationFailure,
            Reason::Missing
            | Reason::Unreadable(_)
            | Reason::Algorithm(_)
            | Reason::ShortKey(_)
            | Reason::Other(_) => CertificateError::BadEncoding,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Missing => f.write_str("it has none"),
            Reason::Unreadable(at) => write!(f, "it is {at}"),
            Reason::Expired { not_after, issuer } => {
                let end = date::show(*not_after);
                write!(f, "{} expired on {end}, {}", Whose(issuer), Here)
            }
            Reason::NotYetValid { not_before, issuer } => {
                let start = date::show(*not_before);
                write!(f, "{} is not valid before {start}, {}", Whose(issuer), Here)
            }
            Reason::Revoked { issuer } => write!(f, "{} is revoked (crl.pem)", Whose(issuer)),
            Reason::UnknownIssuer { issuer } => {
                let issuer = Cut(issuer);
                write!(f, "no CA in ca.pem issued it; its issuer is \"{issuer}\"")
            }
            Reason::CaExpired { issuer, not_after } => {
                let end = date::show(*not_after);
                write!(
                    f,
                    "its CA \"{issuer}\" in ca.pem is out of date; it ended on {end}, {Here}"
                )
            }
            Reason::BadSignature { issuer } => write!(
                f,
                "\"{issuer}\" in ca.pem did not sign it; another CA of the same name did, or it is damaged"
            ),
            Reason::Algorithm(name) => write!(
                f,
                "it is signed by {name}, which is not accepted; issue it again with SHA-256"
            ),
            Reason::ShortKey(bits) => write!(
                f,
                "it is signed with an RSA key of {bits} bits; 2048 is the least"
            ),
            Reason::Passport(passport) => write!(f, "it does not fit the passport {passport}"),
            Reason::Other(text) => f.write_str(text),
        }
    }
}

/// What this host's clock shows: dates are judged by it.
struct Here;

impl fmt::Display for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = clock::now().unix.as_secs();
        let now = date::show(i64::try_from(now).unwrap_or(i64::MAX));
        write!(f, "and this host's clock shows {now}")
    }
}

/// A name that a stranger may have sent: certificates may be large.
struct Cut<'a>(&'a str);

/// Bytes of it that the log shows.
const SHOWN: usize = 200;

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cut(text) = self;
        let end = (0..=SHOWN).rev().find(|end| text.is_char_boundary(*end));
        match text.get(..end.unwrap_or_default()) {
            Some(beginning) if text.len() > SHOWN => {
                write!(f, "{beginning}... ({} bytes)", text.len())
            }
            _ => f.write_str(text),
        }
    }
}

/// "it", or the issuing certificate that is meant.
struct Whose<'a>(&'a Option<String>);

impl fmt::Display for Whose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("it"),
            Some(name) => write!(f, "the certificate \"{}\" that issued it", Cut(name)),
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Error {
    /// The handshake took longer than this.
    TimedOut(Duration),
    /// The peer closed the connection before the handshake was over.
    Closed,
    /// The socket failed.
    Io(io::Error),
    /// We refused the peer's certificate. No subject where none could be read.
    Refused {
        subject: Option<Subject>,
        reason: Reason,
    },
    /// The peer refused us and said why.
    Alert(AlertDescription),
    /// Not TLS, or nothing in common.
    Protocol(rustls::Error),
}

impl Error {
    /// Whether trying again soon is of no use: one side does not accept the other's certificate.
    pub fn is_refusal(&self) -> bool {
        match self {
            Error::Refused { .. } => true,
            Error::Alert(alert) => alert_is_refusal(*alert),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::TimedOut(limit) => write!(
                f,
                "the TLS handshake took longer than {} s",
                limit.as_secs_f32()
            ),
            Error::Closed => f.write_str("the peer closed the connection during the TLS handshake"),
            Error::Io(error) => write!(f, "the TLS handshake failed: {error}"),
            Error::Refused {
                reason: Reason::Missing,
                ..
            } => f.write_str("the peer showed no certificate"),
            Error::Refused { subject, reason } => match subject {
                Some(subject) => {
                    let subject = subject.to_string();
                    write!(
                        f,
                        "the peer's certificate \"{}\" was refused: {reason}",
                        Cut(&subject)
                    )
                }
                None => write!(f, "the peer's certificate was refused: {reason}"),
            },
            Error::Alert(alert) => f.write_str(&alert_text(*alert)),
            Error::Protocol(error) => f.write_str(&protocol_text(error)),
        }
    }
}

impl std::error::Error for Error {}

/// An error of the TLS library after the handshake. A refusal of our certificate, which in TLS 1.3 comes only
/// with the first read, has the kind `PermissionDenied`.
pub(super) fn io_error(error: rustls::Error) -> io::Error {
    match error {
        rustls::Error::AlertReceived(alert) if alert_is_refusal(alert) => {
            io::Error::new(io::ErrorKind::PermissionDenied, alert_text(alert))
        }
        rustls::Error::AlertReceived(alert) => {
            io::Error::new(io::ErrorKind::ConnectionAborted, alert_text(alert))
        }
        other => io::Error::new(io::ErrorKind::InvalidData, protocol_text(&other)),
    }
}

/// Alerts by which a peer says that it does not want our certificate (RFC 8446 section 6.2).
fn alert_is_refusal(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
            | AlertDescription::CertificateRequired
    )
}

fn alert_text(alert: AlertDescription) -> String {
    let reason = match alert {
        AlertDescription::CertificateExpired => {
            return format!(
                "the peer refused our certificate: it is expired or not valid yet, {Here}"
            );
        }
        AlertDescription::CertificateRevoked => "it is revoked",
        AlertDescription::UnknownCA => "the peer does not know the CA that issued it",
        AlertDescription::BadCertificate => "it is damaged or signed in a way that is not accepted",
        AlertDescription::UnsupportedCertificate => "it is of a kind that the peer does not accept",
        AlertDescription::CertificateUnknown => "the peer's log says why",
        AlertDescription::AccessDenied => "it is valid but not allowed there",
        AlertDescription::DecryptError => "its signature does not fit",
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            return "the peer wants a certificate and got none".to_owned();
        }
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity => {
            return "the peer has no TLS version or cipher in common with us; \
                    TLS 1.2 with ECDHE and AES-GCM, or TLS 1.3, is needed"
                .to_owned();
        }
        other => return format!("the peer ended the connection with the TLS alert {other:?}"),
    };
    format!("the peer refused our certificate: {reason}")
}

fn protocol_text(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            "the peer does not speak TLS".to_owned()
        }
        rustls::Error::PeerIncompatible(what) => format!(
            "the peer has no TLS version or cipher in common with us ({what:?}); \
             TLS 1.2 with ECDHE and AES-GCM, or TLS 1.3, is needed"
        ),
        other => format!("TLS error: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_log_have_an_end() {
        let name = format!("CN={}ü{}", "x".repeat(196), "y".repeat(60_000));
        let reason = Reason::UnknownIssuer {
            issuer: name.clone(),
        };
        let text = reason.to_string();
        let shown = format!("\"CN={}... (60201 bytes)\"", "x".repeat(196));
        assert!(text.ends_with(&shown), "{text}");
        let whole = "z".repeat(SHOWN);
        assert_eq!(Cut(&whole).to_string(), whole);
        let whose = Whose(&Some(name)).to_string();
        assert!(whose.len() < 300, "{whose}");
    }

    /// Who has no right to a link is told from who goes.
    #[test]
    fn a_refusal_of_the_certificate_has_a_kind_of_its_own() {
        let kind = |alert| io_error(rustls::Error::AlertReceived(alert)).kind();
        let refused = [
            AlertDescription::CertificateRevoked,
            AlertDescription::UnknownCA,
            AlertDescription::BadCertificate,
        ];
        assert!(
            refused
                .map(kind)
                .iter()
                .all(|kind| *kind == io::ErrorKind::PermissionDenied)
        );
        assert_eq!(
            kind(AlertDescription::CloseNotify),
            io::ErrorKind::ConnectionAborted
        );
        assert_eq!(
            io_error(rustls::Error::DecryptError).kind(),
            io::ErrorKind::InvalidData
        );
    }
}
