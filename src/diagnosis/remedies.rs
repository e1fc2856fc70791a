//! The commands that mend a host, as findings and log lines name them.

/// The command for now, and the file for after the next boot.
pub(super) fn set(name: &str, value: &str) -> String {
    format!("sysctl -w {name}={value}, and {name} = {value} in /etc/sysctl.d/60-mediaproxy.conf")
}

/// What is said of a setting that has to be on.
pub(super) fn is_off(name: &str) -> String {
    format!("{name} is 0: {}", set(name, "1"))
}

/// The rule by which chain FORWARD lets media with this conntrack mark pass, of `iptables` or `iptables-legacy`.
pub(super) fn let_through(program: &str, mark: u32, mask: u32) -> String {
    format!("{program} -I FORWARD -m connmark --mark {mark:#x}/{mask:#x} -j ACCEPT")
}

/// The same of nft, for a chain named by family, table and name.
pub(super) fn let_through_chain(chain: [&str; 3], mark: u32, mask: u32) -> String {
    let chain = chain.join(" ");
    format!("nft insert rule {chain} ct mark and {mask:#x} == {mark:#x} accept")
}
