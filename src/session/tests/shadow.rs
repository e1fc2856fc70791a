//! Before each step of each test another engine takes over all that there is, as the next process of the relay would: the same
//! must come of the step, and all must be known as it is known where nobody took over. So whatever a test brings about may have
//! a change of the process in the middle.

use super::*;

const MOST_SESSIONS: usize = 4;
const MOST_STREAMS: usize = 24;

/// What happens to an engine.
#[derive(Debug)]
pub(super) enum Event<'a> {
    Update(&'a Update, Asker),
    Remove(&'a Remove, ReplyTo),
    Packet(PortKey, SocketAddr, &'a [u8]),
    Tick,
    News(FlowNews),
}

/// What it says to that at once.
#[derive(Debug, PartialEq)]
pub(super) enum Done {
    Nothing,
    Removed(bool),
    Packet(PacketVerdict),
}

impl Event<'_> {
    pub(super) fn happen(
        &self,
        engine: &mut Engine,
        host: &mut FakeMachine,
        now: Now,
    ) -> (Done, Vec<Action>) {
        let done = match *self {
            Event::Update(update, asker) => {
                engine.update(update, asker, host, now);
                Done::Nothing
            }
            Event::Remove(remove, to) => Done::Removed(engine.remove(remove, to, now)),
            Event::Packet(port, from, data) => {
                Done::Packet(engine.packet(port, from, data, now.mono))
            }
            Event::Tick => {
                engine.tick(now);
                Done::Nothing
            }
            Event::News(news) => {
                engine.on_flow_news(news, now);
                Done::Nothing
            }
        };
        (done, drained(engine, host, now.mono))
    }

    /// The same where sessions have other names.
    fn renamed(&self, names: &Names) -> Event<'_> {
        match *self {
            Event::Packet(port, from, data) => {
                let session = names.of(port.session);
                Event::Packet(PortKey { session, ..port }, from, data)
            }
            Event::News(news) => Event::News(match news {
                FlowNews::Installed(flow, answer) => FlowNews::Installed(names.flow(flow), answer),
                FlowNews::Traffic(flow, more) => FlowNews::Traffic(names.flow(flow), more),
                FlowNews::Lost(flow, loss, last) => FlowNews::Lost(names.flow(flow), loss, last),
                FlowNews::Withdrawn(flow, last) => FlowNews::Withdrawn(names.flow(flow), last),
                FlowNews::Heard(_) | FlowNews::CountedAnew | FlowNews::Mended => news,
            }),
            Event::Update(update, asker) => Event::Update(update, asker),
            Event::Remove(remove, to) => Event::Remove(remove, to),
            Event::Tick => Event::Tick,
        }
    }
}

/// What an engine wants done; the machine has done its part.
pub(super) fn drained(engine: &mut Engine, host: &mut FakeMachine, now: Moment) -> Vec<Action> {
    let mut actions = Vec::new();
    while let Some(action) = engine.poll_action() {
        if let Action::Close { port } = action {
            host.bound.remove(&port);
            host.bound.remove(&(port + 1));
            host.pool.give_back(port, now);
        }
        actions.push(action);
    }
    actions
}

/// What the sessions that were there before are called by who has taken them over.
struct Names(HashMap<SessionKey, SessionKey>);

impl Names {
    /// One that is over has no name any more.
    fn of(&self, session: SessionKey) -> SessionKey {
        let named = self.0.get(&session).copied();
        named.unwrap_or(SessionKey::for_tests(9999))
    }

    fn flow(&self, flow: FlowId) -> FlowId {
        let session = self.of(flow.session);
        FlowId { session, ..flow }
    }
}

/// The engine that has taken over.
pub(super) struct Shadow {
    engine: Engine,
    host: FakeMachine,
    names: Names,
}

impl Shadow {
    /// None where the one before knows what cannot outlive it, or has so much that it would take minutes.
    pub(super) fn of(lab: &Lab) -> Option<Shadow> {
        let (sessions, streams) = lab.engine.size();
        if !lab.engine.is_plain() || sessions > MOST_SESSIONS || streams > MOST_STREAMS {
            return None;
        }
        let mut engine = lab.engine.like();
        let mut host = lab.host.clone();
        host.left = std::mem::take(&mut host.bound)
            .into_keys()
            .filter(|port| port.is_multiple_of(2))
            .collect();
        let mut names = HashMap::new();
        for (key, _, state) in lab.engine.states(lab.now) {
            let taken = engine.adopt(&state, Owner(0), &mut host, lab.moment());
            let why = String::from_utf8_lossy(&state);
            taken.unwrap_or_else(|error| panic!("{error}: {why}"));
            names.insert(key, engine.last_adopted());
        }
        // What is asked for once more.
        drained(&mut engine, &mut host, lab.now);
        assert!(
            host.left.is_empty(),
            "pairs that nobody has: {:?}",
            host.left
        );
        Some(Shadow {
            engine,
            host,
            names: Names(names),
        })
    }

    /// The same happens here.
    #[track_caller]
    pub(super) fn compare(mut self, event: &Event<'_>, lab: &Lab, done: &Done, actions: &[Action]) {
        let ours = event.renamed(&self.names);
        let (ours, own) = ours.happen(&mut self.engine, &mut self.host, lab.moment());
        assert_eq!(ours, *done, "{event:?}");
        let here = |action: &Action| {
            plain(action, &|session| {
                let mut known = self.names.0.iter();
                known
                    .find(|(_, name)| **name == session)
                    .map(|(key, _)| *key)
            })
        };
        let there = |action: &Action| {
            plain(action, &|session| {
                self.names.0.contains_key(&session).then_some(session)
            })
        };
        let own: Vec<String> = own.iter().map(here).collect();
        let theirs: Vec<String> = actions.iter().map(there).collect();
        assert_eq!(own, theirs, "{event:?}");
        let ports = |host: &FakeMachine| host.bound.keys().copied().collect::<HashSet<u16>>();
        assert_eq!(ports(&self.host), ports(&lab.host), "{event:?}");
        assert_eq!(
            known(&self.engine, lab.now),
            known(&lab.engine, lab.now),
            "{event:?}"
        );
    }
}

/// The states of all sessions, for people.
fn known(engine: &Engine, now: Moment) -> Vec<String> {
    let states = engine.states(now).into_iter();
    let mut known: Vec<String> = states
        .map(|(_, _, state)| String::from_utf8_lossy(&state).into_owned())
        .collect();
    known.sort();
    known
}

/// An action with the names that sessions had before; who asked for an end is forgotten by who takes over.
fn plain(action: &Action, name: &dyn Fn(SessionKey) -> Option<SessionKey>) -> String {
    let flow = |what: &str, flow: &FlowId| {
        let FlowId {
            stream,
            component,
            turn,
            ..
        } = flow;
        let session = name(flow.session);
        format!("{what} {session:?} {stream} {component} {turn}")
    };
    match action {
        Action::Install { flow: id, ends } => flow("install", id) + &format!(" {ends:?}"),
        Action::Withdraw(id) => flow("withdraw", id),
        Action::Suspect(id) => flow("suspect", id),
        Action::Removed { ended, .. } | Action::Expired { ended, .. } => format!("{ended:?}"),
        Action::Close { .. } | Action::Send { .. } | Action::Updated { .. } => {
            format!("{action:?}")
        }
    }
}
