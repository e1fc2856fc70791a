//! The saved state of a session, as another process of the relay finds it: any bytes are refused or make a session that ends as
//! every other does, with its ports given back.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use mediaproxy::moment::{Moment, Now, UnixTime};
use mediaproxy::proto::SessionId;
use mediaproxy::session::{Action, Engine, Environment, FlowNews, Owner, PortKey, Settings, Tally};

/// Every pair can be had, once.
#[derive(Default)]
struct Machine {
    bound: BTreeSet<u16>,
}

impl Environment for Machine {
    fn bind(&mut self, _: IpAddr, _: PortKey) -> Option<u16> {
        None
    }

    fn rebind(&mut self, _: IpAddr, port: u16, _: PortKey) -> bool {
        assert!(port != 0 && port.is_multiple_of(2));
        self.bound.insert(port)
    }

    fn tally(&mut self, _: u16, _: SessionId) -> Option<Tally> {
        None
    }

    fn local_address(&mut self, _: Option<IpAddr>) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    fn random(&mut self) -> u128 {
        0
    }
}

fn engine() -> Engine {
    Engine::new(Settings {
        stream_timeout: Duration::from_secs(90),
        on_hold_timeout: Duration::from_secs(7200),
        setup_timeout: Duration::from_secs(300),
        learning: Default::default(),
        advertised_ip: None,
        routable_private_ranges: Vec::new(),
        kernel: Ok(()),
    })
}

/// Does the actions of the engine. Returns true if it reported the session.
fn act(engine: &mut Engine, machine: &mut Machine, now: Now) -> bool {
    let mut is_reported = false;
    while let Some(action) = engine.poll_action() {
        match action {
            Action::Close { port } => assert!(machine.bound.remove(&port)),
            Action::Withdraw(flow) => {
                engine.on_flow_news(FlowNews::Withdrawn(flow, Default::default()), now);
            }
            Action::Expired { .. } => is_reported = true,
            _ => {}
        }
    }
    is_reported
}

pub fn run(data: &[u8]) {
    let now = Now {
        mono: Moment::after_start(Duration::from_secs(2000)),
        unix: UnixTime::from_secs(1_700_000_000),
    };
    let (mut first, mut machine) = (engine(), Machine::default());
    if first.adopt(data, Owner(0), &mut machine, now).is_err() {
        assert!(machine.bound.is_empty() && !first.has_changes());
        return;
    }
    first.tick(now);
    let mut is_reported = act(&mut first, &mut machine, now);
    let mut states = Vec::new();
    first.save_all(|_, _, state| states.extend(state.map(<[u8]>::to_vec)));
    assert_eq!(states.is_empty(), is_reported);
    for state in states {
        let (mut second, mut machine) = (engine(), Machine::default());
        let again = second.adopt(&state, Owner(0), &mut machine, now);
        again.expect("what this version has written");
        second.end_all(now);
        assert!(act(&mut second, &mut machine, now));
        assert!(machine.bound.is_empty());
    }
    first.end_all(now);
    is_reported |= act(&mut first, &mut machine, now);
    assert!(is_reported && machine.bound.is_empty());
}
