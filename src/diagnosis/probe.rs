//! Tries out whether the kernel can forward media: a table like the relay's, made and deleted in one transaction that
//! no packet ever sees, and a conntrack entry between addresses that nobody has.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::netlink::conntrack::{self, NatEntry, Tuple};
use crate::netlink::nftables::{Batch, ChainKind, Hook, Set};
use crate::netlink::rule::{Field, Relation, Step};
use crate::netlink::socket::{Netfilter, Refused};

/// NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST (linux/netfilter/nf_tables.h): since Linux 5.12 and 6.9.
const PROTECTED: u32 = 0x2 | 0x4;

/// Seconds that the entry would stay if it could not be deleted.
const ENTRY_TIMEOUT: u32 = 2;

/// Something that the kernel does not do.
#[derive(Debug)]
pub struct Missing {
    pub what: &'static str,
    /// The kernel modules that would do it.
    pub modules: &'static str,
    pub error: io::Error,
}

/// What came of it.
#[derive(Debug)]
pub struct Probe {
    /// Whether a firewall's reload leaves the relay's table alone.
    pub table: Result<bool, Missing>,
    pub conntrack: Result<(), Missing>,
}

/// What the messages of the table's transaction need, in their order.
const PARTS: [(&str, &str); 7] = [
    ("an nftables table of family ip", "nf_tables"),
    ("a nat chain", "nft_chain_nat nf_nat"),
    ("a nat chain", "nft_chain_nat nf_nat"),
    ("a filter chain", "nf_tables"),
    ("a set", "nf_tables"),
    ("a rule on the conntrack mark", "nft_ct nf_conntrack"),
    ("a rule with notrack", "nft_ct nf_conntrack"),
];

/// Tries both.
///
/// # Errors
/// There is no netfilter at all.
pub(super) fn run(mark: u32) -> io::Result<Probe> {
    let mut netfilter = Netfilter::open()?;
    let name = format!("mediaproxy_probe_{}", std::process::id());
    let table = try_table(&mut netfilter, &name, 0);
    let table = table.map(|()| try_table(&mut netfilter, &name, PROTECTED).is_ok());
    let conntrack = try_entry(&mut netfilter, mark).map_err(|error| Missing {
        what: "a conntrack entry with address translation",
        modules: "nf_conntrack_netlink nf_nat",
        error,
    });
    Ok(Probe { table, conntrack })
}

fn try_table(netfilter: &mut Netfilter, name: &str, flags: u32) -> Result<(), Missing> {
    let done = netfilter.transact(name, |batch| fill(batch, flags));
    done.map(drop).map_err(|Refused { index, error }| {
        let part = index.and_then(|index| PARTS.get(index));
        let (what, modules) = part.copied().unwrap_or(("a transaction", "nf_tables"));
        Missing {
            what,
            modules,
            error,
        }
    })
}

/// As in [`PARTS`], and the end of it all.
fn fill(batch: &mut Batch<'_>, flags: u32) {
    const PORTS: u32 = 1;
    batch.table(flags);
    batch.chain("nat_in", ChainKind::Nat, Hook::Prerouting, -100);
    batch.chain("nat_out", ChainKind::Nat, Hook::Postrouting, 100);
    batch.chain("raw_in", ChainKind::Filter, Hook::Prerouting, -300);
    batch.set(&Set {
        name: "forwarded",
        id: PORTS,
        key_type: 0,
        key_length: 4,
        size: Some(16),
        counted: true,
        expires: false,
    });
    batch.rule(
        "raw_in",
        &[
            Step::LoadConntrackMark,
            Step::Compare(Relation::Equal, &[0; 4]),
        ],
    );
    batch.rule(
        "raw_in",
        &[
            Step::Load(Field::Source),
            Step::NotIn {
                set: "forwarded",
                id: PORTS,
            },
            Step::Notrack,
        ],
    );
    batch.delete_table();
}

/// Between documentation addresses (RFC 5737), by ports of this process's own.
fn try_entry(netfilter: &mut Netfilter, mark: u32) -> io::Result<()> {
    let port = 1024 + (std::process::id() % 60_000) as u16;
    let tuple = |network: [u8; 3]| Tuple {
        source: SocketAddrV4::new(Ipv4Addr::new(network[0], network[1], network[2], 1), port),
        destination: SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), port),
    };
    let entry = NatEntry {
        original: tuple([198, 51, 100]),
        reply: tuple([203, 0, 113]),
    };
    let create = |builder: &mut _, number, entry: &_| {
        conntrack::create(builder, number, entry, mark, ENTRY_TIMEOUT);
    };
    first(netfilter.requests(&[entry], create)?)?;
    let delete = |builder: &mut _, number, entry: &NatEntry| {
        conntrack::delete(builder, number, entry.original, None);
    };
    first(netfilter.requests(&[entry], delete)?)
}

fn first<T>(results: Vec<io::Result<T>>) -> io::Result<()> {
    results.into_iter().try_for_each(|result| result.map(drop))
}
