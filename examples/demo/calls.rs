//! The demo's calls: who they are between, and what happens in them when.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mediaproxy::proto::Component;

use crate::phones::{AUDIO, Leg, Phones, Sum, Talk, VIDEO};
use crate::support::proxy::{Media, Message, Proxy};

/// Longer than a packet is under way on one host.
const UNDER_WAY: Duration = Duration::from_millis(80);

/// What happens in a call.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Start,
    Hold,
    Resume,
    AddVideo,
    Move,
}

/// One m= line: both phones' sides.
struct Stream {
    kind: &'static str,
    caller: Arc<Leg>,
    callee: Arc<Leg>,
}

/// A call between two people.
pub struct Call {
    pub call_id: String,
    /// What it shows.
    pub title: &'static str,
    caller: &'static str,
    callee: &'static str,
    /// Of caller and callee.
    uris: [String; 2],
    cseq: u32,
    streams: Vec<Stream>,
    /// So many of the streams are in use.
    in_use: usize,
}

/// All calls, quiet so far.
pub fn all() -> io::Result<Vec<Call>> {
    let plans: [(&'static str, &'static str, &'static str, &[Talk], usize); 4] = [
        ("plain audio", "alice", "bob", &[AUDIO], 1),
        ("audio and video", "carol", "dave", &[AUDIO, VIDEO], 2),
        ("hold and resume", "erin", "frank", &[AUDIO], 1),
        (
            "adds video, then moves",
            "grace",
            "heidi",
            &[AUDIO, VIDEO],
            1,
        ),
    ];
    let mut calls = Vec::new();
    let mut number = 0x0d00_0000;
    for (title, caller, callee, talks, in_use) in plans {
        let mut streams = Vec::new();
        for talk in talks {
            streams.push(Stream {
                kind: if talk.payload_type == VIDEO.payload_type {
                    "video"
                } else {
                    "audio"
                },
                caller: Arc::new(Leg::new(*talk, number)?),
                callee: Arc::new(Leg::new(*talk, number + 1)?),
            });
            number += 2;
        }
        calls.push(Call {
            call_id: format!("{}-{caller}-and-{callee}", calls.len() + 1),
            title,
            caller,
            callee,
            uris: [caller, callee].map(|name| format!("{name}@example.com")),
            cseq: 0,
            streams,
            in_use,
        });
    }
    Ok(calls)
}

/// When what happens, in order of time; calls by their place in [`all`].
pub fn script() -> Vec<(Duration, usize, Step)> {
    let at = |millis: u64, call, step| (Duration::from_millis(millis), call, step);
    vec![
        at(0, 0, Step::Start),
        at(300, 1, Step::Start),
        at(600, 2, Step::Start),
        at(900, 3, Step::Start),
        at(2500, 2, Step::Hold),
        at(3500, 3, Step::AddVideo),
        at(5000, 2, Step::Resume),
        at(6000, 3, Step::Move),
    ]
}

impl Call {
    /// All legs, those of streams that are not in use yet included.
    pub fn legs(&self) -> impl Iterator<Item = Arc<Leg>> {
        let both = |stream: &Stream| [stream.caller.clone(), stream.callee.clone()];
        self.streams.iter().flat_map(both)
    }

    /// The books of every flow: its name and its sum.
    pub fn sums(&self) -> Vec<(String, Sum)> {
        let mut found = Vec::new();
        for stream in &self.streams {
            for component in [Component::Rtp, Component::Rtcp] {
                let name = |from, to| format!("{} {component} {from} to {to}", stream.kind);
                let (caller, callee) = (&stream.caller, &stream.callee);
                let down = caller.sum_towards(callee, component);
                let up = callee.sum_towards(caller, component);
                found.push((name(self.caller, self.callee), down));
                found.push((name(self.callee, self.caller), up));
            }
        }
        found
    }

    /// Does a step and says what was done.
    pub fn take_step(
        &mut self,
        step: Step,
        proxy: &mut Proxy,
        phones: &Phones,
    ) -> Result<String, String> {
        let (caller, callee) = (self.caller, self.callee);
        match step {
            Step::Start => {
                let ports = self.negotiate(proxy, ["sendrecv"; 2])?;
                self.talk(&ports);
                Ok(format!("{caller} calls {callee}: {}", self.title))
            }
            Step::Hold => {
                self.be_quiet();
                self.negotiate(proxy, ["inactive"; 2])?;
                Ok(format!(
                    "{caller} puts {callee} on hold: the relay now waits 2 hours, not 90 s"
                ))
            }
            Step::Resume => {
                let ports = self.negotiate(proxy, ["sendrecv"; 2])?;
                self.talk(&ports);
                Ok(format!("{caller} is back with {callee}: on the same ports"))
            }
            Step::AddVideo => {
                self.in_use = self.streams.len();
                let ports = self.negotiate(proxy, ["sendrecv"; 2])?;
                self.talk(&ports);
                Ok(format!(
                    "{caller} adds video: a re-INVITE, and fresh ports for the new stream alone"
                ))
            }
            Step::Move => {
                // What is sent to the old place after it was left is lost on any network: both wait.
                self.be_quiet();
                thread::sleep(UNDER_WAY);
                for stream in &self.streams[..self.in_use] {
                    phones.move_leg(&stream.caller).map_err(|e| e.to_string())?;
                }
                let ports = self.negotiate(proxy, ["sendrecv"; 2])?;
                self.talk(&ports);
                Ok(format!(
                    "{caller} moves to another network: other addresses, so fresh ports"
                ))
            }
        }
    }

    /// Ends the call.
    pub fn hang_up(&mut self, proxy: &mut Proxy) -> Result<(), String> {
        let [from, to] = [self.caller, self.callee].map(str::to_owned);
        proxy.remove(&self.message("request", (&from, &to), &[]))
    }

    /// An offer by the caller and the callee's answer. The relay's ports for each stream: for caller and callee.
    fn negotiate(
        &mut self,
        proxy: &mut Proxy,
        directions: [&'static str; 2],
    ) -> Result<Vec<[u16; 2]>, String> {
        self.cseq += 1;
        // Only what comes after the first answer knows the callee's tag.
        let tag = if self.cseq == 1 { "" } else { self.callee };
        let offer = self.media(directions[0], |stream| &stream.caller)?;
        let for_callee = proxy.update(&self.message("request", (self.caller, tag), &offer))?;
        let answer = self.media(directions[1], |stream| &stream.callee)?;
        let tags = (self.caller, self.callee);
        let for_caller = proxy.update(&self.message("reply", tags, &answer))?;
        Ok(for_caller
            .into_iter()
            .zip(for_callee)
            .map(|(caller, callee)| [caller, callee])
            .collect())
    }

    fn media(
        &self,
        direction: &'static str,
        side: impl Fn(&Stream) -> &Arc<Leg>,
    ) -> Result<Vec<Media>, String> {
        let describe = |stream: &Stream| {
            let address = side(stream).address().map_err(|e| e.to_string())?;
            Ok(Media {
                kind: stream.kind,
                address,
                direction,
            })
        };
        self.streams[..self.in_use].iter().map(describe).collect()
    }

    fn message<'a>(
        &'a self,
        kind: &'static str,
        (from_tag, to_tag): (&'a str, &'a str),
        media: &'a [Media],
    ) -> Message<'a> {
        Message {
            kind,
            call_id: &self.call_id,
            cseq: self.cseq,
            from: (&self.uris[0], from_tag),
            to: (&self.uris[1], to_tag),
            user_agent: "demo phone",
            media,
        }
    }

    fn talk(&self, ports: &[[u16; 2]]) {
        for (stream, [caller, callee]) in self.streams.iter().zip(ports) {
            stream.caller.talk_to(*caller);
            stream.callee.talk_to(*callee);
        }
    }

    fn be_quiet(&self) {
        self.legs().for_each(|leg| leg.be_quiet());
    }
}
