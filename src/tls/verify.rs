//! The TLS library's questions about a peer's certificate, answered by [`Trust`].
//!
//! One verifier for both sides and for one connection: it keeps the reason of a refusal, which the library
//! itself would boil down to an alert.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, PeerMisbehaved, SignatureScheme,
};
use webpki::RawPublicKeyEntity;

use super::error::Reason;
use super::subject::Subject;
use super::trust::Trust;
use super::x509::Certificate;

/// A refused certificate: its subject, if it could be read, and why.
pub(super) type Refusal = (Option<Subject>, Reason);

/// Judges the peer of one connection.
#[derive(Debug)]
pub(super) struct Verifier {
    trust: Arc<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
    refusal: Mutex<Option<Refusal>>,
}

impl Verifier {
    pub(super) fn new(trust: Arc<Trust>, algorithms: WebPkiSupportedAlgorithms) -> Verifier {
        Verifier {
            trust,
            algorithms,
            refusal: Mutex::new(None),
        }
    }

    /// Why the peer was refused, if it was.
    pub(super) fn take_refusal(&self) -> Option<Refusal> {
        self.refusal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let mut chain = Vec::with_capacity(1 + others.len());
        chain.push(leaf.clone());
        chain.extend_from_slice(others);
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let Err(reason) = self.trust.check(&chain, now) else {
            return Ok(());
        };
        let error = reason.certificate_error();
        let subject = Certificate::parse(leaf)
            .and_then(|cert| Subject::parse(cert.subject))
            .ok();
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some((subject, reason));
        Err(rustls::Error::InvalidCertificate(error))
    }

    /// Checks that the peer holds the key of its certificate. The library's own function does not read
    /// certificates of version 1.
    fn check_handshake(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
        only_first: bool,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let unreadable = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
        let cert = Certificate::parse(cert).map_err(|_| unreadable())?;
        let info = SubjectPublicKeyInfoDer::from(cert.key);
        let key = RawPublicKeyEntity::try_from(&info).map_err(|_| unreadable())?;
        let (_, algorithms) = self
            .algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == signed.scheme)
            .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let tried = if only_first { 1 } else { algorithms.len() };
        let valid = algorithms.iter().take(tried).any(|algorithm| {
            key.verify_signature(*algorithm, message, signed.signature())
                .is_ok()
        });
        if valid {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::BadSignature,
            ))
        }
    }

    fn check_tls12(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_handshake(message, cert, signed, false)
    }

    /// In TLS 1.3 a scheme names the curve too, and RSA with PKCS#1 padding is not allowed (RFC 8446
    /// section 4.2.3).
    fn check_tls13(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if matches!(
            signed.scheme,
            SignatureScheme::RSA_PKCS1_SHA256
                | SignatureScheme::RSA_PKCS1_SHA384
                | SignatureScheme::RSA_PKCS1_SHA512
        ) {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        self.check_handshake(message, cert, signed, true)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    /// Sends no names of CAs: a client then shows whatever certificate it has, and its error is ours to
    /// explain instead of "no certificate".
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_tls12(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
