#!/bin/sh
# The layers of src/lib.rs: imports point down only, the pure parts name no clock, socket, thread or file,
# unsafe stands in src/sys alone, and every daemon-facing parser stays free of panics on purpose.
set -eu
cd "$(dirname "$0")/../.."
failed=0

# code FILE...: the lines of code, comments and #[cfg(test)] modules at a file's end left out, as FILE:LINE:TEXT
code() {
	awk 'FNR == 1 { tests = 0 }
	     /^#\[cfg\(test\)\]/ { getline following; if (following ~ /^mod [a-z_]+ \{/) tests = 1; next }
	     tests { next }
	     { line = $0; sub(/^[ \t]*\/\/.*/, "", line); sub(/[ \t]\/\/ .*/, "", line) }
	     line != "" { print FILENAME ":" FNR ":" line }' "$@"
}

# forbid WHAT PATTERN FILE...
forbid() {
	what=$1 pattern=$2
	shift 2
	[ $# -gt 0 ] || return 0
	found=$(code "$@" | grep -E "$pattern" || true)
	if [ -n "$found" ]; then
		printf '%s:\n%s\n' "$what" "$found" >&2
		failed=1
	fi
}

sources() { find "$@" -name '*.rs' ! -path '*/tests/*' ! -name 'tests.rs' | sort; }
impure='std::(thread|fs|io|os|env|process|sync::mpsc)|TcpStream|TcpListener|UdpSocket|UnixStream|UnixListener|UnixDatagram'
impure="$impure|\\b(Instant|SystemTime)\\b|crossbeam|libc::|crate::sys"

# shellcheck disable=SC2046 # file names here have no blanks
{
	pure="$(sources src/proto src/session) src/moment.rs src/counters.rs"
	pure="$pure src/netlink/rule.rs $(for part in table index; do echo src/relay/kernel/conntrack/$part.rs; done)"
	pure="$pure $(for part in flow flows health paths reading removals trust; do echo src/relay/kernel/$part.rs; done)"
	pure="$pure src/dispatcher/registry.rs $(sources src/dispatcher/registry) src/dispatcher/ended_call.rs src/dispatcher/call.rs src/dispatcher/relay_id.rs src/dispatcher/statistics.rs"
	pure="$pure src/dispatcher/recent_calls.rs src/dispatcher/management/verdict.rs src/dispatcher/management/explained.rs src/dispatcher/management/text.rs src/words.rs src/text_layout.rs"
	pure="$pure src/metrics/count.rs src/metrics/text.rs src/metrics/http.rs"
	pure="$pure src/netlink/message.rs src/netlink/conntrack.rs src/netlink/nftables.rs src/netlink/chains.rs"
	pure="$pure src/netlink/passage.rs src/dispatcher/port_shortage.rs src/dispatcher/failed_connections.rs src/dispatcher/banned_relays.rs src/dispatcher/limits.rs src/door/admission.rs src/door/budget.rs src/door/origin.rs"
	pure="$pure $(for part in attributes client exchange lines packet; do echo src/accounting/radius/$part.rs; done)"
	forbid 'a pure part names a clock, a socket, a thread or a file' "$impure" $pure
	forbid 'proto imports from above' 'crate::(session|sys|tls|config|cli|logging|relay|dispatcher)\b' $(sources src/proto)
	forbid 'session imports from above' 'crate::(sys|tls|config|cli|logging|relay|dispatcher)\b' $(sources src/session)
	forbid 'sys imports from above' 'crate::(proto|session|netlink|tls|config|cli|logging|relay|dispatcher)\b' $(sources src/sys)
	forbid 'netlink imports from above' 'crate::(proto|session|tls|config|cli|logging|relay|dispatcher)\b' $(sources src/netlink)
	forbid 'netfilter known outside its mechanism and diagnosis' 'crate::netlink\b' \
		$(sources src | grep -Ev '^src/(netlink|diagnosis|relay/kernel/conntrack)/')
	forbid 'the mechanism known outside the kernel thread' 'kernel::conntrack\b' \
		$(sources src | grep -v '^src/relay/kernel/conntrack/')
	forbid 'an error number of the kernel above the seam' 'libc::E' \
		$(sources src/relay/kernel | grep -v '^src/relay/kernel/conntrack/')
	forbid 'resolver imports from above' 'crate::(diagnosis|accounting|relay|dispatcher)\b' src/resolver.rs
	for shared in tls config cli logging metrics door daemon; do
		forbid "$shared imports diagnosis" 'crate::diagnosis\b' $(find src/$shared src/$shared.rs -name '*.rs' 2>/dev/null)
	done
	for shared in tls config cli logging metrics door daemon diagnosis; do
		forbid "$shared imports a daemon" 'crate::(relay|dispatcher)\b' $(find src/$shared src/$shared.rs -name '*.rs' 2>/dev/null)
	done
	forbid 'relay imports dispatcher' 'crate::dispatcher\b' $(sources src/relay)
	forbid 'dispatcher imports relay' 'crate::relay\b' $(sources src/dispatcher)
	forbid 'a daemon imports admin' 'crate::admin\b' $(sources src | grep -v '^src/admin')
	forbid 'unsafe outside src/sys' '\bunsafe\b' $(sources src | grep -v '^src/sys/')
	forbid 'work left undone' 'todo!|unimplemented!|\b(TODO|FIXME|XXX)\b' $(sources src)
}
# serde takes an array for a struct, unless src/objects.rs is asked. Not so in the state of a session, which no peer writes and
# whose values are many (src/session/saved.rs): what is of another shape is refused there, and what an array is taken for is as
# good as the object.
state='^src/(session/.*|counters|moment|proto/(component|media|party|saved))\.rs$'
arrays=$(awk '/derive\(.*Deserialize/ { seen = FILENAME ":" FNR; remote = 0 }
	/remote = "Self"|serde\(transparent/ { remote = 1 }
	seen && /^ *(pub(\([a-z]+\))? )?(struct|enum) / { if (/struct / && !remote) print seen; seen = "" }' $(sources src | grep -Ev "$state"))
[ -z "$arrays" ] || { printf 'a struct that an array would pass for (see src/objects.rs):\n%s\n' "$arrays" >&2; failed=1; }
for file in $(sources src); do
	head -1 "$file" | grep -q '^//! ' || { echo "$file: does not open with its purpose (//! ...)" >&2; failed=1; }
done
[ "$failed" = 0 ] && echo 'layers: fine'
exit "$failed"
