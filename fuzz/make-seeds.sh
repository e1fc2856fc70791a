#!/bin/sh
# Makes the seeds that are certificates and revocation lists, which are not kept but made anew:
#   fuzz/make-seeds.sh DIR      writes DIR/certificate/* and DIR/revocations/* (DER), DIR/pem/*
set -eu
out=${1:?usage: fuzz/make-seeds.sh DIR}
mkdir -p "$out/certificate" "$out/revocations"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
tls/make-certs.sh --key ec "$scratch" all >/dev/null
tls/make-certs.sh --key ec "$scratch" cert gone >/dev/null
tls/make-certs.sh "$scratch" revoke gone >/dev/null
mkdir -p "$out/pem"
cat "$scratch/ca.pem" "$scratch/crl.pem" "$scratch/relay.crt" "$scratch/relay.key" >"$out/pem/all"
cp "$scratch/relay.crt" "$out/pem/chain"
openssl x509 -in "$scratch/ca.pem" -outform DER -out "$out/certificate/root"
openssl x509 -in "$scratch/relay.crt" -outform DER -out "$out/certificate/leaf"
openssl crl -in "$scratch/crl.pem" -outform DER -out "$out/revocations/made"

# Without extensions: openssl before 3.2 writes version 1 of both then.
cat >"$scratch/ca.cnf" <<'CNF'
[ca]
default_ca = plain
[plain]
database = index.txt
default_md = sha256
default_crl_days = 30
CNF
cd "$scratch"
: >index.txt
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout old.key -out old.csr -subj '/O=Old/CN=old' 2>/dev/null
openssl x509 -req -in old.csr -signkey old.key -days 30 -out old.pem 2>/dev/null
openssl x509 -in old.pem -outform DER -out "$out/certificate/version1"
openssl ca -config ca.cnf -gencrl -cert old.pem -keyfile old.key -out old-crl.pem 2>/dev/null
openssl crl -in old-crl.pem -outform DER -out "$out/revocations/version1"
