//! Reads PEM files: CAs, lists, a certificate with its key. Every error names the file.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::advice;
use super::crypto::provider;
use super::date::{self, now};
use super::trust::{Due, Trust};
use super::x509::{Certificate, key_bits};
use crate::sys::file_access;
use crate::sys::files::open_given;

/// The largest file that is read; a list of a million certificates has about 40 MB.
const LARGEST: u64 = 64 * 1024 * 1024;

/// A file that cannot be used, with its path and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    text: String,
    path: PathBuf,
    mismatch: bool,
    /// The text says what to do.
    has_remedy: bool,
}

impl LoadError {
    fn new(path: &Path, text: impl fmt::Display) -> LoadError {
        LoadError {
            text: format!("{}: {text}", path.display()),
            path: path.to_owned(),
            mismatch: false,
            has_remedy: false,
        }
    }

    /// The same of a text that says what to do.
    fn with_remedy(path: &Path, text: impl fmt::Display) -> LoadError {
        LoadError {
            has_remedy: true,
            ..LoadError::new(path, text)
        }
    }

    /// With what to do in any case; the files are those of `role` in a directory.
    pub fn explain(&self, directory: &Path, role: &str) -> String {
        if self.has_remedy {
            return self.to_string();
        }
        let name = self.path.file_name().unwrap_or_default();
        let advice = match () {
            () if name == "ca.pem" => advice::ca(directory),
            () if name == "crl.pem" => advice::list(directory),
            () => advice::pair(directory, role),
        };
        format!("{self}: {advice}")
    }

    /// Whether certificate and key are both good but do not belong together.
    pub fn is_mismatch(&self) -> bool {
        self.mismatch
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for LoadError {}

/// Reads the CAs and the revocation lists. Warnings are added to `warnings`; that there is no file of lists is one,
/// unless there was one before: nobody shall be trusted again because a file was moved.
pub(super) fn load_trust(
    ca_path: &Path,
    crl_path: &Path,
    had_lists: bool,
    warnings: &mut Vec<String>,
) -> Result<Trust, LoadError> {
    let now = now();
    let directory = ca_path.parent().unwrap_or(ca_path);
    let mut trust = Trust::new(provider().signature_verification_algorithms);
    let bytes = read(ca_path)?;
    for ca in pem_items::<CertificateDer>(ca_path, &bytes, "CERTIFICATE", "openssl x509")? {
        let warning = trust
            .add_ca(&ca, now)
            .map_err(|text| LoadError::new(ca_path, text))?;
        warnings.extend(warning.map(|text| {
            let advice = advice::new_ca(directory);
            format!(
                "{}: {text}: where this clock is wrong, timedatectl set-ntp true; else {advice}",
                ca_path.display()
            )
        }));
    }
    let bytes = match read_if_there(crl_path)? {
        Some(bytes) => bytes,
        None if had_lists => {
            let text = "the file has vanished; to go on without a list, restart";
            return Err(LoadError::new(crl_path, text));
        }
        None => {
            warnings.push(format!(
                "{}: no such file; no certificate counts as revoked: {}",
                crl_path.display(),
                advice::list(crl_path.parent().unwrap_or(crl_path))
            ));
            return Ok(trust);
        }
    };
    let lists =
        pem_items::<CertificateRevocationListDer>(crl_path, &bytes, "X509 CRL", "openssl crl")?;
    for list in lists {
        let found = trust
            .add_list(&list)
            .map_err(|text| LoadError::new(crl_path, text))?;
        warnings.extend(
            found
                .iter()
                .map(|text| format!("{}: {text}", crl_path.display())),
        );
    }
    let overdue = trust.lists_due().filter(|due| due.next < now);
    warnings.extend(overdue.map(|Due { issuer, next, .. }| {
        format!(
            "{}: the list of \"{issuer}\" was to be renewed by {}; it is still used, and does not know what was revoked \
             since (this host's clock shows {}): {}",
            crl_path.display(),
            date::show(next),
            date::show(now),
            advice::list(crl_path.parent().unwrap_or(crl_path))
        )
    }));
    Ok(trust)
}

/// Reads a certificate, with those between it and the CA, and its key; they must belong together.
pub(super) fn load_pair(
    cert_path: &Path,
    key_path: &Path,
    warnings: &mut Vec<String>,
) -> Result<Arc<CertifiedKey>, LoadError> {
    let bytes = read(cert_path)?;
    let chain = pem_items::<CertificateDer>(cert_path, &bytes, "CERTIFICATE", "openssl x509")?;
    let key = load_key(key_path, warnings)?;
    let signer = provider().key_provider.load_private_key(key).map_err(|_| {
        LoadError::new(
            key_path,
            "the key cannot be used; RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384 and Ed25519 can",
        )
    })?;
    let mut parsed = Vec::with_capacity(chain.len());
    for cert in &chain {
        parsed.push(Certificate::parse(cert).map_err(|bad| LoadError::new(cert_path, bad))?);
    }
    let belongs = match (signer.public_key(), parsed.first()) {
        (Some(public), Some(leaf)) => {
            key_bits(&public).is_some() && key_bits(&public) == key_bits(leaf.key)
        }
        _ => false,
    };
    if !belongs {
        let text = format!(
            "the key is not the one of the (first) certificate in {}",
            cert_path.display()
        );
        return Err(LoadError {
            mismatch: true,
            ..LoadError::new(key_path, text)
        });
    }
    Ok(Arc::new(CertifiedKey::new(chain, signer)))
}

fn load_key(path: &Path, warnings: &mut Vec<String>) -> Result<PrivateKeyDer<'static>, LoadError> {
    let bytes = read(path)?;
    if let Some(open) = file_access::exposure(path) {
        warnings.push(format!("the key in {}: {open}", path.display()));
    }
    let holds = |mark: &[u8]| bytes.windows(mark.len()).any(|part| part == mark);
    if holds(b"ENCRYPTED") {
        let text = "the key is encrypted and there is nobody to type its passphrase; \
                    write it in the clear with: openssl pkey -in OLD -out NEW";
        return Err(LoadError::with_remedy(path, text));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        let text = "no readable private key in PEM form: one that begins with BEGIN PRIVATE KEY, \
                    BEGIN RSA PRIVATE KEY or BEGIN EC PRIVATE KEY is needed";
        LoadError::new(path, text)
    })
}

/// All PEM sections of one kind; that there is none is an error.
fn pem_items<T: PemObject>(
    path: &Path,
    bytes: &[u8],
    kind: &str,
    tool: &str,
) -> Result<Vec<T>, LoadError> {
    let items: Vec<T> = T::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| LoadError::new(path, format!("not readable as PEM: {error}")))?;
    if !items.is_empty() {
        return Ok(items);
    }
    let text = if bytes.first() == Some(&super::der::tag::SEQUENCE) {
        format!("looks like DER; convert it with: {tool} -inform DER -in OLD -out NEW")
    } else {
        let text = format!("holds nothing that begins with BEGIN {kind}");
        return Err(LoadError::new(path, text));
    };
    Err(LoadError::with_remedy(path, text))
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    read_if_there(path)?.ok_or_else(|| {
        let role = path.file_stem().unwrap_or_default().to_string_lossy();
        LoadError::with_remedy(
            path,
            format!("no such file; {}", advice::missing(path, &role)),
        )
    })
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, LoadError> {
    let file = match open_given(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(match file_access::remedy_to_read(path, &error) {
                Some(command) => LoadError::with_remedy(path, format!("{error}; {command}")),
                None => LoadError::new(path, error),
            });
        }
    };
    let mut bytes = Vec::new();
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| LoadError::new(path, error))?;
    if bytes.len() as u64 > LARGEST {
        return Err(LoadError::new(path, format!("over {LARGEST} bytes")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is to be done depends on the file that is wrong; where the text says it already, nothing is added.
    #[test]
    fn each_file_has_its_advice() {
        let directory = Path::new("/tls");
        let explained = |name: &str| {
            let error = LoadError::new(&directory.join(name), "wrong");
            error.explain(directory, "relay")
        };
        let with = |name: &str, advice: String| format!("/tls/{name}: wrong: {advice}");
        assert_eq!(explained("ca.pem"), with("ca.pem", advice::ca(directory)));
        assert_eq!(
            explained("crl.pem"),
            with("crl.pem", advice::list(directory))
        );
        let pair = advice::pair(directory, "relay");
        assert_eq!(explained("relay.key"), with("relay.key", pair));
        let remedied = LoadError::with_remedy(&directory.join("ca.pem"), "mend it so");
        assert_eq!(
            remedied.explain(directory, "relay"),
            "/tls/ca.pem: mend it so"
        );
        assert!(!remedied.is_mismatch());
    }
}
