#!/bin/sh
# Makes what both daemons need for TLS, with openssl: a CA, a revocation list, certificates and keys.
# README.md beside this file tells when to use which command. Installed as mediaproxy-make-certs.
set -eu
umask 077
me=${0##*/}

usage() {
    cat <<USAGE
$me [OPTIONS] DIR COMMAND

Commands
  all            CA, empty revocation list, dispatcher and relay (what exists is kept)
  ca             only the CA: DIR/ca.pem, and its key in DIR/ca/
  crl            write DIR/crl.pem anew; do so before the old one is out of date
  dispatcher     DIR/dispatcher.crt and DIR/dispatcher.key
  relay          DIR/relay.crt and DIR/relay.key
  cert NAME      DIR/NAME.crt and DIR/NAME.key, for one more relay or a management client
  revoke NAME    revoke DIR/NAME.crt (or any .crt file) and write DIR/crl.pem anew
  renew [NAME]   a new certificate for the key of NAME; without a name for dispatcher and relay,
                 and the revocation list

Options
  --org TEXT     organization in all subjects (default: MediaProxy)
  --cn TEXT      common name of the certificate (default: its NAME)
  --ou TEXT      organizational unit of the certificate (default: none)
  --key TYPE     of new keys: ec (P-256), rsa (2048 bits) or rsa4096; default ec. Those that exist stay as they are
  --days N       how long certificates are valid (default 3650)
  --ca-days N    how long a new CA is valid (default 7300)
  --crl-days N   when the next revocation list is due (default 365)
  --group NAME   who may read the daemons' keys beside root (default: mediaproxy, where root makes them and there
                 is that group)
  --force        make a new key and certificate although there are some
USAGE
}

fail() {
    echo "$me: $*" >&2
    exit 1
}

say() {
    echo "$me: $*"
}

# Runs openssl and shows what it says only when it fails.
quietly() {
    if ! "$@" >"$state/log" 2>&1; then
        cat "$state/log" >&2
        fail "this failed: $*"
    fi
    rm -f "$state/log"
}

new_key() { # FILE
    case $key in
        rsa) quietly openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$1" ;;
        rsa4096) quietly openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:4096 -out "$1" ;;
        ec) quietly openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" ;;
    esac
    chmod 600 "$1"
}

write_config() {
    cat >"$state/openssl.cnf" <<CONFIG
[ca]
default_ca = this
[this]
database = $state/index.txt
serial = $state/serial
crlnumber = $state/crlnumber
new_certs_dir = $state/issued
certificate = $dir/ca.pem
private_key = $state/ca.key
default_md = sha256
policy = any
unique_subject = no
x509_extensions = leaf
crl_extensions = list
[any]
organizationName = optional
organizationalUnitName = optional
commonName = supplied
[req]
distinguished_name = name
prompt = no
[name]
CN = unused
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[leaf_ec]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[list]
authorityKeyIdentifier = keyid
CONFIG
}

# A value of a subject, with what openssl would take for a separator escaped.
escaped() {
    printf '%s' "$1" | sed 's/[\\/+]/\\&/g'
}

make_ca() {
    if [ -z "$force" ] && [ -e "$dir/ca.pem" ]; then
        if [ -e "$state/ca.key" ]; then
            say "$dir/ca.pem exists and is kept"
        else
            say "$dir/ca.pem exists and is kept; its key is on another host"
        fi
        return
    fi
    # A new CA under the old one's certificates would shut out every other host.
    for file in ca/ca.key dispatcher.crt relay.crt; do
        [ -n "$force" ] || [ ! -e "$dir/$file" ] || lost_ca "there is no $dir/ca.pem, but $dir/$file"
    done
    mkdir -p "$state/issued"
    chmod 700 "$state"
    write_config
    : >"$state/index.txt"
    openssl rand -hex 8 | sed 's/^./1/' >"$state/serial"
    echo 01 >"$state/crlnumber"
    new_key "$state/ca.key"
    quietly openssl req -utf8 -new -x509 -config "$state/openssl.cnf" -extensions root -sha256 \
        -days "$ca_days" -key "$state/ca.key" -subj "/O=$(escaped "$org")/CN=$(escaped "$org") CA" \
        -out "$dir/ca.pem.new"
    publish ca.pem
    say "made the CA $dir/ca.pem; its key is in $state: keep that directory safe and off the relays"
}

# The key is here and its certificate is not, or is another one.
lost_ca() { # WHAT
    fail "$1: copy ca.pem back to $dir from a host that has a dispatcher or a relay, all have the same;
where there is none, $me --force $dir all makes a new CA and new certificates, which are copied to every host"
}

need_ca() {
    if [ -e "$state/ca.key" ]; then
        [ -e "$dir/ca.pem" ] || lost_ca "there is no $dir/ca.pem, but $state/ca.key"
        openssl x509 -noout -in "$dir/ca.pem" 2>/dev/null || lost_ca "$dir/ca.pem cannot be read"
        [ "$(openssl x509 -noout -pubkey -in "$dir/ca.pem")" = "$(openssl pkey -pubout -in "$state/ca.key")" ] ||
            lost_ca "$state/ca.key is not the key of $dir/ca.pem"
        openssl x509 -noout -checkend 0 -in "$dir/ca.pem" >/dev/null ||
            fail "the CA $dir/ca.pem is over ($(openssl x509 -noout -enddate -in "$dir/ca.pem"), now $(date -u)):
$me --force $dir all makes a new one and new certificates, which are copied to every host"
    elif [ -e "$dir/ca.pem" ]; then
        fail "the CA's key is not in $dir but on another host, where $dir/ca.pem was copied from.
Run this command there, with the directory that has ca/ca.key, and copy the new files here.
Where that key is lost, $me --force $dir all makes a new CA and new certificates, which are copied to every host"
    else
        fail "there is no CA in $dir; run: $me $dir ca"
    fi
    write_config
}

# Puts a finished file in place at once, readable by the daemons.
publish() { # NAME
    chmod 644 "$dir/$1.new"
    mv -f "$dir/$1.new" "$dir/$1"
}

make_crl() {
    need_ca
    quietly openssl ca -batch -config "$state/openssl.cnf" -gencrl -crldays "$crl_days" \
        -out "$dir/crl.pem.new"
    publish crl.pem
    say "wrote $dir/crl.pem; the next one is due in $crl_days days"
}

issue() { # NAME: a certificate for the key $dir/NAME.key
    subject="/O=$(escaped "$org")"
    [ -z "$ou" ] || subject="$subject/OU=$(escaped "$ou")"
    subject="$subject/CN=$(escaped "${cn:-$1}")"
    quietly openssl req -utf8 -new -config "$state/openssl.cnf" -key "$dir/$1.key" -subj "$subject" \
        -out "$state/request"
    # A key that cannot encipher must not say that it does (RFC 8813).
    extensions=leaf_ec
    if openssl pkey -in "$dir/$1.key" -noout -text_pub | grep -qi modulus; then
        extensions=leaf
    fi
    quietly openssl ca -batch -config "$state/openssl.cnf" -extensions "$extensions" -notext -days "$days" \
        -in "$state/request" -out "$dir/$1.crt.new"
    rm -f "$state/request"
    publish "$1.crt"
}

make_cert() { # NAME
    check_name "$1"
    need_ca
    if [ -z "$force" ] && [ -e "$dir/$1.key" ] && [ -e "$dir/$1.crt" ]; then
        say "$dir/$1.crt and .key exist and are kept (renew: the same key; --force: new ones)"
        return
    fi
    if [ -z "$force" ] && [ -e "$dir/$1.key" ]; then
        say "$dir/$1.key exists and is kept"
    else
        new_key "$dir/$1.key.new"
        if [ -n "$group" ]; then
            chgrp "$group" "$dir/$1.key.new"
            chmod 640 "$dir/$1.key.new"
        fi
        mv -f "$dir/$1.key.new" "$dir/$1.key"
    fi
    issue "$1"
    say "made $dir/$1.crt and $dir/$1.key"
}

revoke() { # NAME
    need_ca
    cert=$1
    [ -e "$cert" ] && [ "${cert%.crt}" != "$cert" ] || cert=$dir/$1.crt
    [ -e "$cert" ] || fail "there is no certificate $cert"
    serial=$(openssl x509 -noout -serial -in "$cert" | sed 's/^serial=//')
    if grep -q "^R.*	$serial	" "$state/index.txt"; then
        say "$cert (serial $serial) is revoked already"
    else
        quietly openssl ca -batch -config "$state/openssl.cnf" -revoke "$cert"
        say "revoked $cert (serial $serial)"
    fi
    make_crl
    say "copy $dir/crl.pem to every host; the daemons read it within a second and close what it revokes"
}

renew() { # NAME
    check_name "$1"
    need_ca
    [ -e "$dir/$1.key" ] || fail "there is no key $dir/$1.key"
    if [ -z "$cn$ou" ] && [ -e "$dir/$1.crt" ]; then
        keep_names "$1"
    fi
    issue "$1"
    say "renewed $dir/$1.crt for its old key; the certificate before it stays valid until its own end"
}

# Takes organization, unit and common name from the certificate that is renewed.
keep_names() { # NAME
    old=$(openssl x509 -noout -subject -nameopt sep_multiline,utf8,lname -in "$dir/$1.crt")
    org=$(printf '%s\n' "$old" | sed -n 's/^ *organizationName=//p')
    ou=$(printf '%s\n' "$old" | sed -n 's/^ *organizationalUnitName=//p')
    cn=$(printf '%s\n' "$old" | sed -n 's/^ *commonName=//p')
}

check_name() { # NAME
    case $1 in
        ca) fail "\"ca\" is the CA's own name; choose another" ;;
        */* | .* | "") fail "\"$1\" is not a file name" ;;
    esac
}

check_number() { # OPTION VALUE
    case $2 in
        "" | *[!0-9]* | 0) fail "$1 $2: a number of days is needed" ;;
    esac
}

org=MediaProxy cn='' ou='' key=ec days=3650 ca_days=7300 crl_days=365 force='' group=''
[ "$(id -u)" != 0 ] || ! getent group mediaproxy >/dev/null || group=mediaproxy
while [ $# -gt 0 ]; do
    case $1 in
        --force) force=yes && shift && continue ;;
        --help | -h) usage && exit 0 ;;
        --*) [ $# -ge 2 ] || fail "$1 needs a value" ;;
        *) break ;;
    esac
    case $1 in
        --org) org=$2 ;;
        --cn) cn=$2 ;;
        --ou) ou=$2 ;;
        --key) key=$2 ;;
        --group) group=$2 ;;
        --days) check_number "$1" "$2" && days=$2 ;;
        --ca-days) check_number "$1" "$2" && ca_days=$2 ;;
        --crl-days) check_number "$1" "$2" && crl_days=$2 ;;
        *) fail "unknown option $1; --help lists them" ;;
    esac
    shift 2
done
case $key in
    rsa | rsa4096 | ec) ;;
    *) fail "--key $key: ec, rsa or rsa4096 is allowed" ;;
esac
if [ $# -lt 2 ]; then
    usage >&2
    exit 2
fi
command -v openssl >/dev/null || fail "openssl is not installed (Debian: apt install openssl)"

if [ ! -d "$1" ]; then
    mkdir -p "$1"
    chmod 755 "$1"
fi
dir=$(cd "$1" && pwd)
state=$dir/ca
command=$2
shift 2
case $command in
    cert | revoke) [ $# -eq 1 ] || fail "$command needs one NAME" ;;
    renew) [ $# -le 1 ] || fail "renew takes at most one NAME" ;;
    *) [ $# -eq 0 ] || fail "$command takes nothing more; options go before the directory" ;;
esac
case $command in
    all)
        make_ca
        [ -e "$dir/crl.pem" ] && [ -z "$force" ] || make_crl
        make_cert dispatcher
        make_cert relay
        ;;
    ca) make_ca ;;
    crl) make_crl ;;
    dispatcher | relay) make_cert "$command" ;;
    cert) make_cert "$1" ;;
    revoke) revoke "$1" ;;
    renew)
        if [ $# -eq 1 ]; then
            renew "$1"
        else
            for name in dispatcher relay; do
                [ ! -e "$dir/$name.key" ] || (renew "$name")
            done
            make_crl
        fi
        ;;
    *) fail "unknown command $command; --help lists them" ;;
esac
