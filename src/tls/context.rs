//! What one daemon shows and whom it trusts at one moment; a connection keeps the context it began with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};

use super::advice;
use super::crypto::provider;
use super::date::{self, now};
use super::error::Reason;
use super::files::{LoadError, load_pair, load_trust};
use super::passport::Passport;
use super::subject::{Attribute, Subject};
use super::trust::{Due, Trust};
use super::verify::Verifier;
use super::x509::Certificate;
use crate::words::counted;

/// The paths of a daemon's TLS files.
#[derive(Clone, Debug)]
pub struct Paths {
    pub ca: PathBuf,
    pub crl: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Paths {
    /// `ca.pem`, `crl.pem`, `<role>.crt` and `<role>.key` in a directory.
    pub fn new(directory: &Path, role: &str) -> Paths {
        Paths {
            ca: directory.join("ca.pem"),
            crl: directory.join("crl.pem"),
            cert: directory.join(format!("{role}.crt")),
            key: directory.join(format!("{role}.key")),
        }
    }
}

/// Certificate, key, CAs and revocation lists as read at one time.
#[derive(Debug)]
pub struct Context {
    pub(super) trust: Arc<Trust>,
    pub(super) pair: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl Context {
    /// Reads the files of `role` (`dispatcher` or `relay`) from a directory. Returns warnings beside it: no
    /// list, an old list, an own certificate that peers will refuse.
    ///
    /// # Errors
    /// Names the file, what is wrong with it and what to do.
    pub fn load(directory: &Path, role: &str) -> Result<(Context, Vec<String>), LoadError> {
        Context::load_files(&Paths::new(directory, role))
    }

    /// The same of files anywhere.
    ///
    /// # Errors
    /// As [`Context::load`].
    pub fn load_files(paths: &Paths) -> Result<(Context, Vec<String>), LoadError> {
        let (context, mut warnings) = Context::read(paths)?;
        warnings.extend(context.own_certificate_warning(paths));
        Ok((context, warnings))
    }

    /// The same without a judgement of the own certificate.
    ///
    /// # Errors
    /// As [`Context::load`].
    pub fn read(paths: &Paths) -> Result<(Context, Vec<String>), LoadError> {
        let mut warnings = Vec::new();
        let trust = load_trust(&paths.ca, &paths.crl, false, &mut warnings)?;
        let pair = load_pair(&paths.cert, &paths.key, &mut warnings)?;
        Ok((Context::new(Arc::new(trust), pair), warnings))
    }

    pub(super) fn new(trust: Arc<Trust>, pair: Arc<CertifiedKey>) -> Context {
        Context {
            trust,
            pair,
            provider: provider(),
        }
    }

    /// What peers with the same CA and lists will say to our own certificate.
    pub fn own_certificate_warning(&self, paths: &Paths) -> Option<String> {
        let reason = self.trust.check(&self.pair.cert, now()).err()?;
        let directory = paths.cert.parent().unwrap_or(&paths.cert);
        let role = paths.cert.file_stem().unwrap_or_default();
        let role = role.to_string_lossy();
        Some(format!(
            "{}: peers with the same CA will refuse this certificate: {reason}: {}",
            paths.cert.display(),
            advice::refused(&reason, directory, &role, &self.own_name(&role))
        ))
    }

    /// What the CA's host calls our own certificate, as far as it tells: it may have been given another name there.
    pub fn own_name(&self, role: &str) -> String {
        let own = PeerCertificates::new(self.pair.cert.clone());
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let name = own.subject().values(Attribute::CommonName).next();
        let name = name.filter(|name| !name.is_empty() && name.chars().all(is_plain));
        name.unwrap_or(role).to_owned()
    }

    /// Until when our own certificate and those between it and the CA are valid.
    pub fn own_validity(&self) -> Option<Validity> {
        let end = self.own_end()?;
        Some(Validity {
            seconds_left: end - now(),
            end: date::show(end),
        })
    }

    /// The same moment in seconds since 1970.
    pub fn own_end(&self) -> Option<i64> {
        let chain = self.pair.cert.iter();
        let ends = chain.filter_map(|cert| Some(Certificate::parse(cert).ok()?.not_after));
        ends.min()
    }

    /// Until when each list's issuer promised the next one, by the issuer's name, and for how long that list was to do.
    pub fn lists_due(&self) -> Vec<(String, Validity, Duration)> {
        let due = self.trust.lists_due();
        due.map(|Due { issuer, made, next }| {
            let validity = Validity {
                seconds_left: next - now(),
                end: date::show(next),
            };
            let whole = u64::try_from(next - made).unwrap_or_default();
            (issuer, validity, Duration::from_secs(whole))
        })
        .collect()
    }

    /// One line for the log: what was loaded.
    pub fn describe(&self) -> String {
        let own = PeerCertificates::new(self.pair.cert.clone());
        format!(
            "certificate \"{}\", {}, {}",
            own.subject(),
            counted(self.trust.cas(), "CA"),
            counted(self.trust.revoked(), "revoked certificate")
        )
    }

    /// Judges the certificates of a connected peer again, now: expired since, revoked since, its CA no longer
    /// trusted, or no longer of the passport.
    pub fn verify_again(
        &self,
        peer: &PeerCertificates,
        passport: Option<&Passport>,
    ) -> Result<(), Reason> {
        self.trust.check(&peer.chain, now())?;
        peer.check_passport(passport)
    }

    /// The settings of one outgoing connection and its verifier.
    pub(super) fn client(&self) -> Result<(ClientConfig, Arc<Verifier>), rustls::Error> {
        let verifier = self.verifier();
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.pair.clone())));
        // GnuTLS servers answer a name that they do not know with no certificate.
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok((config, verifier))
    }

    /// The settings of one incoming connection and its verifier. No session is ever resumed, so that every
    /// connection is verified.
    pub(super) fn server(&self) -> Result<(ServerConfig, Arc<Verifier>), rustls::Error> {
        let verifier = self.verifier();
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.pair.clone())));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok((config, verifier))
    }

    fn verifier(&self) -> Arc<Verifier> {
        let algorithms = self.provider.signature_verification_algorithms;
        Arc::new(Verifier::new(self.trust.clone(), algorithms))
    }
}

/// Until when something is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Negative when it is over.
    pub seconds_left: i64,
    /// The date, for people.
    pub end: String,
}

/// The certificates that a peer showed, kept to judge them again.
#[derive(Clone, Debug)]
pub struct PeerCertificates {
    chain: Vec<CertificateDer<'static>>,
    subject: Subject,
}

impl PeerCertificates {
    pub(super) fn new(chain: Vec<CertificateDer<'static>>) -> PeerCertificates {
        let subject = chain
            .first()
            .and_then(|leaf| Certificate::parse(leaf).ok())
            .and_then(|cert| Subject::parse(cert.subject).ok())
            .unwrap_or_default();
        PeerCertificates { chain, subject }
    }

    /// The subject of the peer's own certificate.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    pub(super) fn check_passport(&self, passport: Option<&Passport>) -> Result<(), Reason> {
        match passport {
            Some(passport) if !passport.matches(&self.subject) => {
                Err(Reason::Passport(passport.to_string()))
            }
            _ => Ok(()),
        }
    }
}
