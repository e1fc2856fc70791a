//! What mends a daemon's TLS files: a command here where the CA's key is here, and else what to do on the host that has it.

use std::io;
use std::path::Path;

use super::error::Reason;

/// How a command there names the directory that has `ca/`.
const THERE: &str = "CA-DIR";

/// Whether the CA's key is in a directory; who may not look into `ca/` finds that there is one.
fn has_key(directory: &Path) -> bool {
    match directory.join("ca/ca.key").try_exists() {
        Ok(is_there) => is_there,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// A command of the script there, with its options, and what is copied then.
fn on_ca_host(directory: &Path, options: &str, command: &str, files: &str) -> String {
    let here = directory.display();
    format!(
        "the CA's key is not on this host; on the one that has it (ca/ca.key in {THERE}): mediaproxy-make-certs {options}{THERE} {command}, then copy \
         {files} from {THERE} there to {here} here; or ask who runs your CA"
    )
}

/// A new certificate for the key of `role`; `name` is what the CA's host calls it.
pub fn renew(directory: &Path, role: &str, name: &str) -> String {
    if has_key(directory) {
        return format!("mediaproxy-make-certs {} renew {role}", directory.display());
    }
    let files = if name == role {
        format!("{role}.crt")
    } else {
        format!("{name}.crt (as {role}.crt)")
    };
    on_ca_host(directory, "", &format!("renew {name}"), &files)
}

/// A list is missing, unreadable or old.
pub fn list(directory: &Path) -> String {
    if has_key(directory) {
        format!("mediaproxy-make-certs {} crl", directory.display())
    } else {
        on_ca_host(directory, "", "crl", "ca.pem and crl.pem")
    }
}

/// A CA that is of no use any more, for nobody.
pub fn new_ca(directory: &Path) -> String {
    let command = if has_key(directory) {
        format!("mediaproxy-make-certs --force {} all", directory.display())
    } else {
        format!("mediaproxy-make-certs --force {THERE} all on the host that has the CA's key")
    };
    format!(
        "a new CA is needed, and new certificates of all daemons: {command}, then copy them to every host"
    )
}

/// A `ca.pem` that is missing or cannot be read: every host of the site has the same.
pub fn ca(directory: &Path) -> String {
    let here = directory.display();
    format!(
        "copy ca.pem to {here} from any other host of yours that has a dispatcher or a relay, or from the CA's; where there is \
         none, mediaproxy-make-certs --force {here} all makes a new CA and new certificates, for every host"
    )
}

/// Certificate and key of a role do not do.
pub fn pair(directory: &Path, role: &str) -> String {
    if has_key(directory) {
        format!(
            "mediaproxy-make-certs --force {} {role}",
            directory.display()
        )
    } else {
        let files = format!("{role}.crt and {role}.key");
        format!(
            "copy {files} again from where your CA is, or make others: {}",
            on_ca_host(directory, "--force ", role, "both")
        )
    }
}

/// A file that is not there.
pub fn missing(path: &Path, role: &str) -> String {
    let directory = path.parent().unwrap_or(path);
    let has = |name: &str| directory.join(name).exists();
    let shown = directory.display();
    if path.file_name().unwrap_or_default() == "ca.pem" {
        // A new CA would not fit what is there.
        if has_key(directory) || has("relay.crt") || has("dispatcher.crt") {
            return ca(directory);
        }
    } else if has_key(directory) {
        return format!("mediaproxy-make-certs {shown} {role} makes it");
    } else if has("ca.pem") {
        return pair(directory, role);
    }
    format!(
        "copy the set that your CA has made, or make one with: mediaproxy-make-certs {shown} all"
    )
}

/// A certificate of ours that peers refuse.
pub fn refused(reason: &Reason, directory: &Path, role: &str, name: &str) -> String {
    match reason {
        Reason::NotYetValid { .. } => format!(
            "where this clock is wrong, timedatectl set-ntp true; where it is right, that of the CA's host was wrong: {}",
            renew(directory, role, name)
        ),
        Reason::CaExpired { .. }
        | Reason::ShortKey(_)
        | Reason::Expired {
            issuer: Some(_), ..
        } => new_ca(directory),
        Reason::UnknownIssuer { .. } | Reason::BadSignature { .. } if !has_key(directory) => {
            format!(
                "ca.pem and {role}.crt are not of one set: on the host that has the CA's key, mediaproxy-make-certs {THERE} cert \
             {name} makes a pair where there is none, then copy ca.pem, crl.pem and the pair (as {role}.crt and {role}.key) \
             to {} here; or ask who runs your CA",
                directory.display()
            )
        }
        _ => renew(directory, role, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;
    use std::fs;

    const COMMAND: &str = "mediaproxy-make-certs ";

    #[test]
    fn where_the_key_is_the_command_is_here_and_else_there() {
        let scratch = Scratch::new("advice");
        let directory = scratch.path();
        let here = directory.display();
        let unknown = Reason::UnknownIssuer {
            issuer: "CN=x".to_owned(),
        };
        let texts = || {
            [
                renew(directory, "relay", "relay"),
                list(directory),
                pair(directory, "relay"),
                missing(&directory.join("relay.key"), "relay"),
                refused(&unknown, directory, "relay", "relay"),
            ]
        };
        fs::write(directory.join("ca.pem"), "").unwrap();
        for text in texts() {
            assert!(!text.contains(&format!("{COMMAND}{here}")), "{text}");
            assert!(text.contains("then copy") && text.contains(THERE), "{text}");
        }
        let other = renew(directory, "relay", "relay2");
        assert!(
            other.contains("renew relay2, then copy relay2.crt (as relay.crt)"),
            "{other}"
        );
        fs::create_dir(directory.join("ca")).unwrap();
        fs::write(directory.join("ca/ca.key"), "").unwrap();
        for text in texts() {
            assert!(
                text.contains(&here.to_string()) && text.starts_with(COMMAND),
                "{text}"
            );
        }
    }

    #[test]
    fn nothing_is_made_anew_that_others_have() {
        let scratch = Scratch::new("advice-ca");
        let ca = scratch.path().join("ca.pem");
        let nothing = missing(&ca, "relay");
        assert!(nothing.starts_with("copy the set that your CA has made, or make one with: "));
        fs::create_dir(scratch.path().join("ca")).unwrap();
        fs::write(scratch.path().join("ca/ca.key"), "").unwrap();
        assert!(missing(&ca, "relay").starts_with("copy ca.pem to "));
    }
}
