//! The kernel thread and the real kernel, in network namespaces of the test's own; with root only. Packets are the
//! lab's business (tests/netns).

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::config::Forwarding;
use crate::diagnosis::requirements::Wanted;
use crate::netlink::socket::Netfilter;
use crate::proto::{Component, PerParty};
use crate::relay::kernel::conntrack::table::{FORWARDED, LEAVING, RelayTable};
use crate::relay::kernel::flow::FlowKey;
use crate::relay::kernel::order::Order;
use crate::relay::kernel::{Opened, Ready, Settings, open, start};
use crate::session::{FlowEnd, FlowId, FlowNews, Installed, Loss, SessionKey};
use crate::support::skip::{missing, skip_test};
use crate::sys::clock;
use crate::sys::mailbox::{Mailbox, Postbox, mailbox};
use crate::sys::netlink::enter_namespace;

const PATIENCE: Duration = Duration::from_secs(5);

/// A thread in a network namespace of its own; none without root.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    if let Some(program) = missing(&["ip", "nft", "iptables", "conntrack"]) {
        return skip_test(&name, &format!("{program} is not installed"));
    }
    let run = move || match enter_namespace() {
        Ok(()) => test(),
        Err(_) => skip_test(&name, "needs root"),
    };
    std::thread::spawn(run).join().unwrap();
}

fn command(line: &str) {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
}

fn settings(protect: bool) -> Settings {
    Settings {
        wanted: Wanted {
            relay_ip: [10, 0, 0, 1].into(),
            auto_detect: false,
            port_range: (40000, 41000),
            mark: 0x4d50_0000,
            mark_mask: 0xffff_0000,
        },
        protect,
        shortest_silence: Duration::from_secs(90),
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = clock::moment() + PATIENCE;
    while !is_so() {
        assert!(clock::moment() < end, "{what}: waited in vain");
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// A kernel that is ready to forward, or why there is none.
fn opened(settings: &Settings, forwarding: Forwarding) -> Result<Ready, String> {
    match open(settings, forwarding, false)? {
        Opened::Kernel(ready) => Ok(*ready),
        Opened::UserSpace(why) => Err(why.to_string()),
    }
}

/// A kernel thread with one worker, and a socket to look at what it does.
struct Lab {
    orders: Postbox<Order>,
    mailbox: Mailbox<Vec<FlowNews>>,
    news: Vec<FlowNews>,
    netfilter: Netfilter,
}

impl Lab {
    fn new(protect: bool) -> Lab {
        command("ip link set lo up");
        command("sysctl -q -w net.ipv4.ip_forward=1");
        let ready = opened(&settings(protect), Forwarding::Kernel).unwrap();
        let (postbox, mailbox) = mailbox(100).unwrap();
        let deliver = Box::new(move |worker, news| {
            assert_eq!(worker, 0);
            let _ = postbox.send(news);
        });
        Lab {
            orders: start(
                ready,
                1,
                deliver,
                Arc::default(),
                Arc::default(),
                Arc::default(),
            )
            .unwrap(),
            mailbox,
            news: Vec::new(),
            netfilter: Netfilter::open().unwrap(),
        }
    }

    fn install(&mut self, number: u32) {
        let port = 40000 + 4 * number as u16;
        let end = |remote: &str, port| FlowEnd {
            remote: remote.parse().unwrap(),
            local: SocketAddr::from(([10, 0, 0, 1], port)),
        };
        let ends = PerParty {
            caller: end("192.0.2.1:30000", port),
            callee: end("192.0.2.2:31000", port + 2),
        };
        self.orders.send(Order::Install(key(number), ends)).unwrap();
        let taken = FlowNews::Installed(key(number).flow, Installed::Taken);
        self.hear("the flow is installed", |news| news == taken);
    }

    fn hear(&mut self, what: &str, is_it: impl Fn(FlowNews) -> bool) {
        let Lab { mailbox, news, .. } = self;
        wait_until(what, || {
            while let Some(more) = mailbox.take() {
                news.extend(more);
            }
            news.iter().any(|news| is_it(*news))
        });
    }

    fn elements(&mut self) -> Option<usize> {
        self.elements_of("mediaproxy_40000")
    }

    /// The size of the set `forwarded` of a table; none where there is no such table.
    fn elements_of(&mut self, table: &str) -> Option<usize> {
        let found = self.netfilter.elements(table, FORWARDED);
        found.ok().map(|elements| elements.len())
    }

    fn entries(&mut self) -> usize {
        let mut count = 0;
        self.netfilter
            .dump(0x4d50_0000, 0xffff_0000, |_| count += 1)
            .unwrap();
        count
    }

    fn quit(&mut self) {
        let (done, is_done) = crossbeam_channel::bounded(1);
        self.orders.send(Order::Quit(done)).unwrap();
        is_done.recv_timeout(PATIENCE).unwrap();
        assert_eq!((self.elements(), self.entries()), (None, 0));
    }
}

fn key(number: u32) -> FlowKey {
    let flow = FlowId {
        session: SessionKey::for_tests(number),
        stream: 0,
        component: Component::Rtp,
        turn: 1,
    };
    FlowKey { worker: 0, flow }
}

#[test]
fn a_host_that_does_not_forward_is_refused_with_the_setting_that_does_it() {
    in_namespace(|| {
        command("ip link set lo up");
        let why = opened(&settings(true), Forwarding::Kernel).err().unwrap();
        assert!(
            why.contains("forwarding = kernel") && why.contains("net.ipv4.ip_forward"),
            "{why}"
        );
        // As calls will tell who asks why they are not in the kernel.
        let why = opened(&settings(true), Forwarding::Auto).err().unwrap();
        assert!(why.starts_with("the kernel cannot forward media: "));
        assert!(why.contains("sysctl -w net.ipv4.ip_forward=1"), "{why}");
        let why = opened(&settings(true), Forwarding::Userspace).err();
        assert_eq!(why.unwrap(), "forwarding = userspace");
    });
}

#[test]
fn relays_of_other_ranges_stand_beside_it() {
    in_namespace(|| {
        let mut lab = Lab::new(true);
        let mut beside = settings(true);
        beside.wanted.port_range = (50000, 51000);
        assert!(opened(&beside, Forwarding::Kernel).is_ok());
        lab.install(1);
        assert_eq!(lab.entries(), 1);
        lab.quit();
    });
}

#[test]
fn what_a_dead_relay_left_is_removed_and_nothing_else() {
    in_namespace(|| {
        command("ip link set lo up");
        command("sysctl -q -w net.ipv4.ip_forward=1");
        let mut netfilter = Netfilter::open().unwrap();
        let tuple = "conntrack -I -p udp -s 192.0.2.7 -d 10.0.0.1 -t 60";
        // Of the relay's mark and range; of its range; of its mark.
        command(&format!(
            "{tuple} --sport 1 --dport 40100 --mark 0x4d500000"
        ));
        command(&format!("{tuple} --sport 1 --dport 40200"));
        command(&format!(
            "{tuple} --sport 1 --dport 51000 --mark 0x4d500000"
        ));
        command("nft add table ip somebodys");
        let _ready = opened(&settings(true), Forwarding::Kernel).unwrap();
        let mut left = Vec::new();
        netfilter
            .dump(0, 0, |entry| left.push(entry.original.destination.port()))
            .unwrap();
        left.sort_unstable();
        assert_eq!(left, [40200, 51000]);
        let listed = Command::new("nft")
            .args(["list", "tables"])
            .output()
            .unwrap();
        assert!(String::from_utf8_lossy(&listed.stdout).contains("somebodys"));
    });
}

#[test]
fn a_deleted_entry_is_told_at_once() {
    in_namespace(|| {
        let mut lab = Lab::new(true);
        lab.install(1);
        let start = clock::moment();
        command("conntrack -F");
        let lost = FlowNews::Lost(key(1).flow, Loss::Deleted, PerParty::default());
        lab.hear("the loss", |news| news == lost);
        assert!(clock::moment() - start < Duration::from_secs(1));
        assert_eq!(lab.elements(), Some(0));
        lab.quit();
    });
}

#[test]
fn a_protected_table_outlives_a_flush_of_the_ruleset() {
    in_namespace(|| {
        let mut lab = Lab::new(true);
        lab.install(1);
        command("nft flush ruleset");
        assert_eq!((lab.elements(), lab.entries()), (Some(2), 1));
        lab.quit();
    });
}

/// As on kernels that cannot protect it. Beside each flush the kernel's own part is measured: a thread that is woken
/// and makes such a table. A machine that is too busy for that in half the time excuses the relay, and the best of ten
/// counts, so that only what the relay does itself can fail this.
#[test]
fn an_unprotected_table_is_back_within_20_ms_with_all_its_flows() {
    in_namespace(|| {
        let mut lab = Lab::new(false);
        for number in 0..50 {
            lab.install(number);
        }
        let control = Control::start();
        let time = |lab: &mut Lab, table: &str, wake: &dyn Fn()| {
            let start = clock::moment();
            lab.netfilter
                .transact(table, |batch| batch.delete_table())
                .unwrap();
            wake();
            wait_until("the table is back", || lab.elements_of(table) == Some(100));
            clock::moment() - start
        };
        let (mut relay, mut kernel) = (Vec::new(), Vec::new());
        for _ in 0..10 {
            relay.push(time(&mut lab, "mediaproxy_40000", &|| ()));
            kernel.push(time(&mut lab, Control::TABLE, &|| control.wake()));
        }
        let least = kernel.iter().min().copied().unwrap_or_default();
        assert!(
            relay.iter().min() <= Some(&Duration::from_millis(20).max(least * 2)),
            "{relay:?}, the kernel's part: {kernel:?}"
        );
        lab.netfilter
            .transact(Control::TABLE, |batch| batch.delete_table())
            .unwrap();
        command("nft flush ruleset");
        wait_until("the table is back", || lab.elements() == Some(100));
        assert_eq!(lab.entries(), 50);
        lab.quit();
    });
}

/// A thread that makes a table as large as the relay's with 50 flows whenever it is woken.
struct Control(Sender<()>);

impl Control {
    const TABLE: &str = "control";

    fn start() -> Control {
        let (sender, orders) = crossbeam_channel::unbounded();
        let mut netfilter = Netfilter::open().unwrap();
        let mut make = move || {
            let keys: Vec<[u8; 16]> = (0..100u128).map(u128::to_be_bytes).collect();
            let made = netfilter.transact(Control::TABLE, |batch| {
                batch.table(0);
                let made = RelayTable {
                    ports: 50000..=51000,
                    addresses: &[[10, 0, 0, 1].into()],
                    mark: 0x4d51_0000,
                    mask: 0xffff_0000,
                    size: 2000,
                };
                made.fill(batch);
                batch.add(LEAVING, &keys);
                batch.add(FORWARDED, &keys);
            });
            made.unwrap();
        };
        make();
        std::thread::spawn(move || orders.iter().for_each(|()| make()));
        Control(sender)
    }

    fn wake(&self) {
        self.0.send(()).unwrap();
    }
}
