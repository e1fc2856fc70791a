//! What the kernel makes of the relay's table: in network namespaces of the test's own, with root only.

use std::cell::Cell;
use std::time::Duration;

use super::messages::{MARK, MASK, TABLE, errno, fill, in_namespace, test_table};
use crate::netlink::nftables::Batch;
use crate::netlink::socket::{Netfilter, Protection};
use crate::relay::kernel::conntrack::table::{FORWARDED, LEAVING, RelayTable};
use crate::sys::clock;

#[test]
fn a_living_owner_keeps_its_table_and_a_dead_ones_is_replaced() {
    in_namespace(|netfilter| {
        let missing = netfilter.elements(TABLE, LEAVING).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        assert_eq!(
            netfilter
                .replace_table(TABLE, Protection::None, fill)
                .unwrap(),
            Protection::None
        );
        let mut other = Netfilter::open().unwrap();
        let protection = other
            .replace_table(TABLE, Protection::Persistent, fill)
            .unwrap();
        if protection == Protection::None {
            return; // A kernel before 6.9.
        }
        let refused = netfilter
            .replace_table(TABLE, Protection::Persistent, fill)
            .unwrap_err();
        assert_eq!(
            (refused.index, errno(&refused)),
            (Some(0), Some(libc::EPERM))
        );
        other
            .transact(TABLE, |batch| batch.add(FORWARDED, [[1; 16]]))
            .unwrap();
        drop(other);
        // A process that another test starts may hold the socket until it becomes another program.
        let end = clock::moment() + Duration::from_secs(10);
        let is_owned = |netfilter: &mut Netfilter| {
            let touched = netfilter.transact(TABLE, |batch| batch.add(FORWARDED, [[1; 16]]));
            touched.is_err_and(|refused| errno(&refused) == Some(libc::EPERM))
        };
        while is_owned(netfilter) {
            assert!(clock::moment() < end, "the table is still owned");
            std::thread::sleep(Duration::from_millis(1));
        }
        let left = netfilter.elements(TABLE, FORWARDED);
        assert_eq!(
            left.is_ok(),
            protection == Protection::Persistent,
            "{left:?}"
        );
        assert_eq!(
            netfilter
                .replace_table(TABLE, Protection::Persistent, fill)
                .unwrap(),
            protection
        );
        assert_eq!(netfilter.elements(TABLE, FORWARDED).unwrap(), []);
        // A flag that the kernel does not know fails the table, which is how the flags are probed.
        let unknown = netfilter.transact(TABLE, |batch| {
            batch.delete_table();
            batch.table(1 << 30);
        });
        let refused = unknown.unwrap_err();
        assert_eq!(
            (refused.index, errno(&refused)),
            (Some(1), Some(libc::EOPNOTSUPP))
        );
        // Its own maker may make it anew.
        netfilter
            .replace_table(TABLE, Protection::Persistent, fill)
            .unwrap();
    });
}

/// Of one that fails the kernel takes its time to take it back.
#[test]
fn a_table_takes_one_transaction_whether_or_not_there_was_one() {
    in_namespace(|netfilter| {
        let transactions = Cell::new(0);
        let make = |netfilter: &mut Netfilter| {
            let made = netfilter.replace_table(TABLE, Protection::None, |batch| {
                transactions.set(transactions.get() + 1);
                fill(batch);
            });
            made.unwrap();
        };
        assert!(!netfilter.has_table(TABLE).unwrap());
        make(netfilter);
        assert!(netfilter.has_table(TABLE).unwrap());
        make(netfilter);
        assert_eq!(transactions.get(), 2);
        assert!(netfilter.has_table(TABLE).unwrap());
    });
}

/// Between the two parts the set by which a table is missed is missing.
#[test]
fn a_table_in_two_parts() {
    in_namespace(|netfilter| {
        for _ in 0..2 {
            netfilter
                .replace_table(TABLE, Protection::Persistent, |batch| {
                    test_table().shut(batch)
                })
                .unwrap();
            assert_eq!(netfilter.elements(TABLE, FORWARDED).unwrap(), []);
            let missing = netfilter.elements(TABLE, LEAVING).unwrap_err();
            assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        }
        let key = [1; 16];
        let opened = netfilter.transact(TABLE, |batch| {
            test_table().open(batch);
            batch.add(LEAVING, [key]);
            batch.add(FORWARDED, [key]);
        });
        opened.unwrap();
        for set in [LEAVING, FORWARDED] {
            assert_eq!(netfilter.elements(TABLE, set).unwrap()[0].key, key);
        }
    });
}

#[test]
fn more_elements_than_one_message_holds() {
    in_namespace(|netfilter| {
        const MANY: u32 = 40_000;
        let big = |batch: &mut Batch<'_>| {
            let table = RelayTable {
                ports: 10000..=59999,
                addresses: &[],
                mark: MARK,
                mask: MASK,
                size: MANY,
            };
            table.fill(batch);
        };
        netfilter
            .replace_table(TABLE, Protection::Persistent, big)
            .unwrap();
        let keys: Vec<[u8; 16]> = (0..MANY).map(|n| u128::from(n).to_be_bytes()).collect();
        netfilter
            .transact(TABLE, |batch| batch.add(LEAVING, &keys))
            .unwrap();
        let mut listed: Vec<_> = netfilter
            .elements(TABLE, LEAVING)
            .unwrap()
            .iter()
            .map(|e| e.key)
            .collect();
        listed.sort_unstable();
        assert_eq!(listed, keys);
        let full = netfilter
            .transact(TABLE, |batch| batch.add(LEAVING, [[1; 16]]))
            .unwrap_err();
        assert_eq!(errno(&full), Some(libc::ENFILE));
        let gone = netfilter
            .transact(TABLE, |batch| batch.remove_echoed(LEAVING, &keys))
            .unwrap();
        assert_eq!(gone.len(), keys.len());
        assert_eq!(netfilter.elements(TABLE, LEAVING).unwrap(), []);
        // Without keys nothing is sent: the kernel would empty the set.
        netfilter
            .transact(TABLE, |batch| batch.remove(LEAVING, &keys[..0]))
            .unwrap();
    });
}

#[test]
fn a_transaction_is_all_or_nothing_and_says_what_failed() {
    in_namespace(|netfilter| {
        netfilter
            .replace_table(TABLE, Protection::None, fill)
            .unwrap();
        let (there, missing) = ([1; 16], [9; 16]);
        netfilter
            .transact(TABLE, |batch| batch.add(FORWARDED, [there]))
            .unwrap();
        let refused = netfilter.transact(TABLE, |batch| {
            batch.remove(FORWARDED, [there]);
            batch.remove(FORWARDED, [missing]);
        });
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused.index, errno(&refused)),
            (Some(1), Some(libc::ENOENT))
        );
        let left = netfilter.elements(TABLE, FORWARDED).unwrap();
        assert_eq!(left.iter().map(|e| e.key).collect::<Vec<_>>(), [there]);
        netfilter
            .transact(TABLE, |batch| batch.delete_table())
            .unwrap();
        let refused = netfilter.transact(TABLE, |batch| batch.delete_table());
        assert_eq!(errno(&refused.unwrap_err()), Some(libc::ENOENT));
    });
}
