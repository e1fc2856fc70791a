//! Whom we trust: the CAs of ca.pem and the lists of crl.pem, and the one rule by which a peer's
//! certificate chain is judged, in a handshake and again later.
//!
//! A chain is good when it leads to a CA that is in date, every certificate in it is in date and rightly
//! signed, and none is on a list. No host name, any extended key usage (protocol.md section 2).

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use super::crl::Crl;
use super::date;
use super::der;
use super::error::Reason;
use super::subject::Subject;
use super::x509::{BadSignature, Certificate};

/// Extensions that a leaf may mark critical when it is judged without the library: basicConstraints,
/// keyUsage, extKeyUsage, subjectAltName.
const UNDERSTOOD: [&[u8]; 4] = [
    &[0x55, 0x1d, 0x13],
    &[0x55, 0x1d, 0x0f],
    &[0x55, 0x1d, 0x25],
    &[0x55, 0x1d, 0x11],
];

/// One CA of ca.pem.
#[derive(Debug)]
struct Anchor {
    anchor: TrustAnchor<'static>,
    /// The whole SubjectPublicKeyInfo.
    key: Vec<u8>,
    not_before: i64,
    not_after: i64,
}

impl Anchor {
    fn in_date(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    fn name(&self) -> String {
        name(&self.anchor.subject)
    }
}

/// One list of crl.pem.
#[derive(Debug)]
struct List {
    crl: Crl,
    /// Its issuer is one of our CAs. Else it counts only in chains that show its issuer.
    of_our_ca: bool,
}

/// When a list was made and when its issuer promised the next one, seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub issuer: String,
    pub made: i64,
    pub next: i64,
}

/// The CAs and the lists, read together. Immutable: new files make a new one.
#[derive(Debug)]
pub(super) struct Trust {
    anchors: Vec<Anchor>,
    lists: Vec<List>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    /// No CAs yet; signatures are checked by these algorithms.
    pub(super) fn new(algorithms: WebPkiSupportedAlgorithms) -> Trust {
        Trust {
            anchors: Vec::new(),
            lists: Vec::new(),
            algorithms,
        }
    }

    /// Adds a CA. Says what is wrong with it, or gives a warning when it is out of date.
    pub(super) fn add_ca(
        &mut self,
        ca: &CertificateDer<'_>,
        now: i64,
    ) -> Result<Option<String>, String> {
        let parsed = Certificate::parse(ca).map_err(|malformed| malformed.to_string())?;
        let anchor = webpki::anchor_from_trusted_cert(ca)
            .map_err(|error| format!("not usable as a CA: {error}"))?;
        let anchor = Anchor {
            anchor: anchor.to_owned(),
            key: parsed.key.to_vec(),
            not_before: parsed.not_before,
            not_after: parsed.not_after,
        };
        let warning = (!anchor.in_date(now)).then(|| {
            format!(
                "the CA \"{}\" is valid only from {} to {}, and this host's clock shows {}: no certificate of it is accepted",
                anchor.name(),
                date::show(anchor.not_before),
                date::show(anchor.not_after),
                date::show(now)
            )
        });
        self.anchors.push(anchor);
        Ok(warning)
    }

    /// Adds a list; the CAs must be there already. Gives warnings.
    ///
    /// # Errors
    /// When the list cannot be read, or one of our CAs of the issuer's name did not sign it.
    pub(super) fn add_list(&mut self, bytes: &[u8]) -> Result<Vec<String>, String> {
        let crl = Crl::parse(bytes).map_err(|error| error.to_string())?;
        let issuer = name(crl.issuer());
        let mut warnings = Vec::new();
        let mut of_our_ca = false;
        match self.signature_by_our_ca(&crl) {
            None => warnings.push(format!(
                "the list of \"{issuer}\" is of no CA in ca.pem; it counts only for peers that show that issuer"
            )),
            Some(Ok(())) => of_our_ca = true,
            // Old CAs sign by SHA-1 or MD5. The file is the administrator's own and can only refuse
            // more, so it is taken.
            Some(Err(BadSignature::Algorithm(algorithm))) => {
                of_our_ca = true;
                warnings.push(format!(
                    "the list of \"{issuer}\" is signed by {algorithm}, which cannot be checked; it is used as it is"
                ));
            }
            Some(Err(BadSignature::ShortKey(bits))) => {
                of_our_ca = true;
                warnings.push(format!(
                    "the list of \"{issuer}\" is signed with an RSA key of {bits} bits, which cannot be checked; \
                     it is used as it is"
                ));
            }
            Some(Err(BadSignature::Wrong)) => {
                return Err(format!(
                    "the list of \"{issuer}\" is not signed by the CA of that name in ca.pem"
                ));
            }
        }
        self.lists.push(List { crl, of_our_ca });
        Ok(warnings)
    }

    /// Number of CAs.
    pub(super) fn cas(&self) -> usize {
        self.anchors.len()
    }

    /// Whether there is any list, an empty one included.
    pub(super) fn has_lists(&self) -> bool {
        !self.lists.is_empty()
    }

    /// The lists that say when the next one comes.
    pub(super) fn lists_due(&self) -> impl Iterator<Item = Due> {
        let lists = self.lists.iter();
        lists.filter_map(|List { crl, .. }| {
            Some(Due {
                issuer: name(crl.issuer()),
                made: crl.this_update(),
                next: crl.next_update()?,
            })
        })
    }

    /// Number of revoked certificates in all lists.
    pub(super) fn revoked(&self) -> usize {
        self.lists.iter().map(|list| list.crl.count()).sum()
    }

    /// Judges a chain, the peer's own certificate first, at a time in seconds since 1970.
    pub(super) fn check(&self, chain: &[CertificateDer<'_>], now: i64) -> Result<(), Reason> {
        let Some((leaf, others)) = chain.split_first() else {
            return Err(Reason::Missing);
        };
        let parsed = Certificate::parse(leaf)
            .map_err(|malformed| Reason::Unreadable(malformed.to_string()))?;
        check_dates(&parsed, now)?;
        let issuers = self.path(leaf, &parsed, others, now)?;
        self.check_lists(&parsed, &issuers)
    }

    /// The signature of a list by our CAs of its issuer's name; `None` when there is none of that name.
    fn signature_by_our_ca(&self, crl: &Crl) -> Option<Result<(), BadSignature>> {
        let Ok(signed) = crl.signed() else {
            return Some(Err(BadSignature::Wrong));
        };
        let mut result = None;
        for anchor in &self.anchors {
            if anchor.anchor.subject.as_ref() != crl.issuer() {
                continue;
            }
            let verified = signed.verify(&anchor.key, &self.algorithms);
            if verified.is_ok() {
                return Some(verified);
            }
            result = Some(verified);
        }
        result
    }

    /// The certificates between the leaf and the CA, or why there is no way to a CA.
    fn path<'a>(
        &self,
        leaf: &'a CertificateDer<'a>,
        parsed: &Certificate<'_>,
        others: &'a [CertificateDer<'a>],
        now: i64,
    ) -> Result<Vec<CertificateDer<'a>>, Reason> {
        if parsed.version < 3 {
            return self.issued_directly(parsed, now).map(|()| Vec::new());
        }
        let (in_date, expired): (Vec<_>, Vec<_>) =
            self.anchors.iter().partition(|a| a.in_date(now));
        let error = match self.library_path(leaf, others, &in_date, now) {
            Ok(path) => return Ok(path),
            Err(error) => error,
        };
        if error == webpki::Error::CaUsedAsEndEntity {
            return self.issued_directly(parsed, now).map(|()| Vec::new());
        }
        if let Ok(path) = self.library_path(leaf, others, &expired, now) {
            let last = path.last().and_then(|cert| Certificate::parse(cert).ok());
            return Err(self.unknown_issuer(last.as_ref().unwrap_or(parsed), now));
        }
        Err(self.explain(&error, parsed, others, now))
    }

    /// The way to one of these CAs as the library finds it.
    fn library_path<'a>(
        &self,
        leaf: &'a CertificateDer<'a>,
        others: &'a [CertificateDer<'a>],
        anchors: &[&Anchor],
        now: i64,
    ) -> Result<Vec<CertificateDer<'a>>, webpki::Error> {
        let anchors: Vec<_> = anchors.iter().map(|a| a.anchor.clone()).collect();
        let now = u64::try_from(now).unwrap_or_default();
        let end_entity = EndEntityCert::try_from(leaf)?;
        let path = end_entity.verify_for_usage(
            self.algorithms.all,
            &anchors,
            others,
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(now)),
            AnyUsage,
            None,
            None,
        )?;
        Ok(path
            .intermediate_certificates()
            .map(|cert| cert.der().into_owned())
            .collect())
    }

    /// A leaf that the library does not take: version 1, as `openssl x509 -req` long made them, or one that
    /// is marked as a CA itself. It must be signed by one of our CAs, with nothing between.
    fn issued_directly(&self, leaf: &Certificate<'_>, now: i64) -> Result<(), Reason> {
        let critical = leaf
            .critical_extensions()
            .map_err(|malformed| Reason::Unreadable(malformed.to_string()))?;
        if let Some(oid) = critical.iter().find(|oid| !UNDERSTOOD.contains(oid)) {
            let text = format!(
                "it has a critical extension {} that is not understood",
                der::dotted(oid)
            );
            return Err(Reason::Other(text));
        }
        let mut reason = self.unknown_issuer(leaf, now);
        for anchor in &self.anchors {
            let usable = anchor.in_date(now) && anchor.anchor.name_constraints.is_none();
            if !usable || anchor.anchor.subject.as_ref() != leaf.issuer {
                continue;
            }
            match leaf.signed.verify(&anchor.key, &self.algorithms) {
                Ok(()) => return Ok(()),
                Err(bad) => reason = bad_signature(bad, leaf.issuer),
            }
        }
        Err(reason)
    }

    /// That no CA issued this, or that the one that did is out of date.
    fn unknown_issuer(&self, cert: &Certificate<'_>, now: i64) -> Reason {
        let same_name = |anchor: &&Anchor| anchor.anchor.subject.as_ref() == cert.issuer;
        let issuer = name(cert.issuer);
        match self.anchors.iter().find(same_name) {
            Some(anchor) if now < anchor.not_before => Reason::NotYetValid {
                not_before: anchor.not_before,
                issuer: Some(issuer),
            },
            Some(anchor) if !anchor.in_date(now) => Reason::CaExpired {
                issuer,
                not_after: anchor.not_after,
            },
            _ => Reason::UnknownIssuer { issuer },
        }
    }

    /// The library's error in our words, with the certificate that it is about.
    fn explain(
        &self,
        error: &webpki::Error,
        leaf: &Certificate<'_>,
        others: &[CertificateDer<'_>],
        now: i64,
    ) -> Reason {
        let issuers = up_from(leaf, others);
        for issuer in &issuers {
            if let Err(reason) = check_dates(issuer, now) {
                return of_issuer(reason, name(issuer.subject));
            }
        }
        let top = issuers.last().unwrap_or(leaf);
        if *error == webpki::Error::UnknownIssuer {
            return self.unknown_issuer(top, now);
        }
        if let Some(reason) = self.wrong_signature(leaf, &issuers) {
            return reason;
        }
        match error {
            webpki::Error::EndEntityUsedAsCa => {
                Reason::Other("it was issued by a certificate that is not a CA's".to_owned())
            }
            webpki::Error::UnsupportedCriticalExtension => {
                Reason::Other("it has a critical extension that is not understood".to_owned())
            }
            other => Reason::Other(format!("the chain does not hold: {other}")),
        }
    }

    /// The first signature in a chain that does not hold.
    fn wrong_signature(
        &self,
        leaf: &Certificate<'_>,
        issuers: &[Certificate<'_>],
    ) -> Option<Reason> {
        let mut cert = leaf;
        for issuer in issuers {
            if let Err(bad) = cert.signed.verify(issuer.key, &self.algorithms) {
                return Some(bad_signature(bad, cert.issuer));
            }
            cert = issuer;
        }
        let mut reason = None;
        for anchor in &self.anchors {
            if anchor.anchor.subject.as_ref() == cert.issuer {
                match cert.signed.verify(&anchor.key, &self.algorithms) {
                    Ok(()) => return None,
                    Err(bad) => reason = Some(bad_signature(bad, cert.issuer)),
                }
            }
        }
        reason
    }

    /// Looks for the leaf and the certificates between it and the CA on the lists.
    fn check_lists(
        &self,
        leaf: &Certificate<'_>,
        issuers: &[CertificateDer<'_>],
    ) -> Result<(), Reason> {
        let issuers: Vec<_> = issuers
            .iter()
            .filter_map(|cert| Certificate::parse(cert).ok())
            .collect();
        if self.is_listed(leaf, &issuers) {
            return Err(Reason::Revoked { issuer: None });
        }
        match issuers.iter().find(|cert| self.is_listed(cert, &issuers)) {
            Some(cert) => Err(Reason::Revoked {
                issuer: Some(name(cert.subject)),
            }),
            None => Ok(()),
        }
    }

    fn is_listed(&self, cert: &Certificate<'_>, issuers: &[Certificate<'_>]) -> bool {
        self.lists.iter().any(|list| {
            list.crl.issuer() == cert.issuer
                && list.crl.revokes(cert.serial)
                && (list.of_our_ca || self.signed_by_one_of(&list.crl, issuers))
        })
    }

    fn signed_by_one_of(&self, crl: &Crl, issuers: &[Certificate<'_>]) -> bool {
        issuers.iter().any(|issuer| {
            issuer.subject == crl.issuer()
                && crl
                    .signed()
                    .is_ok_and(|signed| signed.verify(issuer.key, &self.algorithms).is_ok())
        })
    }
}

/// Any extended key usage, or none.
struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _usages: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

fn check_dates(cert: &Certificate<'_>, now: i64) -> Result<(), Reason> {
    if now > cert.not_after {
        return Err(Reason::Expired {
            not_after: cert.not_after,
            issuer: None,
        });
    }
    if now < cert.not_before {
        return Err(Reason::NotYetValid {
            not_before: cert.not_before,
            issuer: None,
        });
    }
    Ok(())
}

/// Says that a reason is about a certificate above the leaf.
fn of_issuer(reason: Reason, subject: String) -> Reason {
    let issuer = Some(subject);
    match reason {
        Reason::Expired { not_after, .. } => Reason::Expired { not_after, issuer },
        Reason::NotYetValid { not_before, .. } => Reason::NotYetValid { not_before, issuer },
        other => other,
    }
}

fn bad_signature(bad: BadSignature, issuer: &[u8]) -> Reason {
    match bad {
        BadSignature::Algorithm(algorithm) => Reason::Algorithm(algorithm),
        BadSignature::ShortKey(bits) => Reason::ShortKey(bits),
        BadSignature::Wrong => Reason::BadSignature {
            issuer: name(issuer),
        },
    }
}

/// The peer's certificates above its own, by name, as far as they lead; only for messages. Bounded, since
/// the peer chose them.
fn up_from<'a>(leaf: &Certificate<'a>, others: &'a [CertificateDer<'a>]) -> Vec<Certificate<'a>> {
    const HIGHEST: usize = 4;
    let others: Vec<_> = others
        .iter()
        .take(HIGHEST)
        .filter_map(|cert| Certificate::parse(cert).ok())
        .collect();
    let mut found: Vec<Certificate<'a>> = Vec::new();
    let mut below = *leaf;
    while found.len() < others.len() {
        let next = others
            .iter()
            .find(|cert| cert.subject == below.issuer && cert.subject != below.subject);
        let Some(next) = next else { break };
        found.push(*next);
        below = *next;
    }
    found
}

/// The content of a Name as text.
fn name(content: &[u8]) -> String {
    Subject::parse(content).map_or_else(|_| "(unreadable name)".to_owned(), |name| name.to_string())
}
