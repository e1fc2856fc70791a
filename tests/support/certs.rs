//! Certificates for tests, made in a directory of their own by `tls/make-certs.sh` and the openssl program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A directory with `ca.pem`, `crl.pem`, `dispatcher.crt`, `dispatcher.key`, `relay.crt` and `relay.key` (elliptic
/// curve keys, which are made fast), and the CA's own files in `ca/`. Removed when dropped.
pub struct Certs {
    directory: PathBuf,
}

impl Certs {
    /// Everything that two daemons need.
    pub fn new() -> Certs {
        let certs = Certs::empty();
        certs.script(&["--key", "ec", "--org", "Example"], &["all"]);
        certs
    }

    /// An empty directory.
    pub fn empty() -> Certs {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mediaproxy-certs-{}-{count}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("a temporary directory");
        Certs { directory }
    }

    pub fn path(&self) -> &Path {
        &self.directory
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).expect(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.file(name), bytes).expect(name);
    }

    /// Copies a file from another directory of certificates, in one step.
    pub fn take(&self, other: &Certs, name: &str) {
        self.write(&format!("{name}.new"), &other.read(name));
        fs::rename(self.file(&format!("{name}.new")), self.file(name)).expect(name);
    }

    /// `make-certs.sh OPTIONS DIRECTORY COMMAND`.
    pub fn script(&self, options: &[&str], command: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tls/make-certs.sh");
        let mut call = Command::new("sh");
        call.arg(script).args(options).arg(&self.directory);
        must_succeed(call.args(command));
    }

    /// The openssl program, run in this directory.
    pub fn openssl(&self, arguments: &[&str]) -> Output {
        let mut call = Command::new("openssl");
        must_succeed(call.args(arguments).current_dir(&self.directory))
    }

    /// A request for the key `NAME.key`, as `NAME.csr`.
    pub fn request(&self, name: &str) {
        let subject = format!("/O=Example/CN={name}");
        let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
        self.openssl(&[
            "req", "-new", "-key", &key, "-subj", &subject, "-out", &request,
        ]);
    }

    /// A certificate `NAME.crt` for the key `NAME.key` by `openssl ca` with more arguments.
    pub fn issue(&self, name: &str, more: &[&str]) {
        self.request(name);
        let (request, cert) = (format!("{name}.csr"), format!("{name}.crt"));
        let mut arguments = vec!["ca", "-batch", "-notext", "-config", "ca/openssl.cnf"];
        arguments.extend(["-in", &request, "-out", &cert]);
        arguments.extend(more);
        self.openssl(&arguments);
    }

    /// Writes a file of PEM from DER; `kind` is openssl's word for what it is: `x509` or `crl`.
    pub fn write_pem(&self, kind: &str, name: &str, der: &[u8]) {
        let plain = format!("{name}.der");
        self.write(&plain, der);
        self.openssl(&[kind, "-inform", "DER", "-in", &plain, "-out", name]);
    }
}

impl Drop for Certs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn must_succeed(command: &mut Command) -> Output {
    let output = command.output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
