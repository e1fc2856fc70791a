//! Certificates for tests, made in a directory of their own by `tls/make-certs.sh` and the openssl program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
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

    /// The same, for a test that is about something else: made once in this program and copied, since a dozen runs of openssl
    /// take longer than most tests. All have the same CA; what is revoked in one copy is so in that one alone.
    pub fn usual() -> Certs {
        static MADE: OnceLock<Vec<(PathBuf, Vec<u8>)>> = OnceLock::new();
        let certs = Certs::empty();
        let files = MADE.get_or_init(|| {
            let made = Certs::new();
            let mut files = Vec::new();
            read_all(&made.directory, Path::new(""), &mut files);
            // The only one that names its directory; the script writes it anew.
            files.retain(|(name, _)| !name.ends_with("openssl.cnf"));
            files
        });
        for (name, bytes) in files {
            let file = certs.directory.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, bytes).unwrap();
            let is_key = file.extension().is_some_and(|end| end == "key");
            let mode = if is_key { 0o600 } else { 0o644 };
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        }
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

/// All files below a directory, by their names from there.
fn read_all(directory: &Path, name: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(directory.join(name)).unwrap() {
        let entry = entry.unwrap();
        let name = name.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            read_all(directory, &name, files);
        } else {
            files.push((name, fs::read(entry.path()).unwrap()));
        }
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
