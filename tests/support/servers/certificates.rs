//! Certificates for a database server: `ca.pem`, and `server.crt` with `server.key` for 127.0.0.1; `other.pem` is a CA
//! that has nothing to do with it.

use std::path::PathBuf;
use std::process::Command;

use crate::support::programs::run;
use crate::support::scratch::Scratch;

pub struct Certificates(Scratch);

impl Certificates {
    pub fn new() -> Certificates {
        let made = Certificates(Scratch::new("mediaproxy-database-certs").unwrap());
        for name in ["ca", "other"] {
            let (key, cert) = (format!("{name}.key"), format!("{name}.pem"));
            made.openssl(&[
                "req",
                "-x509",
                "-nodes",
                "-days",
                "2",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-subj",
                "/CN=test CA",
                "-keyout",
                &key,
                "-out",
                &cert,
            ]);
        }
        made.openssl(&[
            "req",
            "-new",
            "-nodes",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-subj",
            "/CN=database",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            "server.key",
            "-out",
            "server.csr",
        ]);
        made.openssl(&[
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            "server.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-copy_extensions",
            "copy",
            "-out",
            "server.crt",
        ]);
        made
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &[&str]) {
        run(Command::new("openssl")
            .args(arguments)
            .current_dir(self.0.path()));
    }
}
