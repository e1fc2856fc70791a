#!/bin/sh
# Installs from Debian what the tests need, as root; none of the services is started.
#   deps.sh                     what `make test` needs and is missing
#   deps.sh packages            what `make test-packages` needs
#   deps.sh [packages] --list   the packages, one a line
set -eu
packages='
openssl
iproute2
nftables
iptables
ufw
conntrack
tcpdump
procps
python3
netcat-openbsd
mandoc
tmux
strace
kamailio
kamailio-extra-modules
sip-tester
rtpengine-daemon
mariadb-server
postgresql
freeradius
freeradius-utils
python3-pyrad
prometheus
docker.io
g++
'
if [ "${1:-}" = packages ]; then
	shift
	packages='
debhelper
dpkg-dev
fakeroot
lintian
debootstrap
debian-archive-keyring
systemd
iproute2
util-linux
openssl
python3
g++
'
fi
[ "${1:-}" != --list ] || { echo "$packages" | sed '/^$/d'; exit 0; }

missing=
for package in $packages; do
	dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing="$missing $package"
done
[ -n "$missing" ] || { echo 'test-deps: everything is installed'; exit 0; }
[ "$(id -u)" = 0 ] || { echo "test-deps: as root: apt-get install$missing" >&2; exit 1; }

echo "test-deps: installing$missing (no service of theirs is started)"
# Debian's own way to say that a package may not start its service (invoke-rc.d asks it).
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
	trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of words
apt-get install -y -q --no-install-recommends $missing >/tmp/test-deps.$$ 2>&1 ||
	{ apt-get update -q && apt-get install -y -q --no-install-recommends $missing; } >>/tmp/test-deps.$$ 2>&1 ||
	{ tail -20 /tmp/test-deps.$$ >&2; exit 1; }
rm -f /tmp/test-deps.$$
