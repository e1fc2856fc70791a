//! Flows that are being removed: who is told when their totals are known. Pure.

use std::collections::HashMap;

use super::flow::FlowKey;
use super::flows::Forwarded;
use super::news::NewsQueue;
use crate::counters::Counters;
use crate::proto::PerParty;
use crate::session::{FlowNews, Loss};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Removals {
    open: HashMap<FlowKey, Open>,
}

#[derive(Debug)]
struct Open {
    flow: Forwarded,
    /// It was lost, and its worker is told so first.
    loss: Option<Loss>,
    /// Orders to withdraw it that are to be answered.
    withdrawals: u32,
}

impl Removals {
    /// A flow goes because its worker wants it back.
    pub(super) fn withdraw(&mut self, key: FlowKey, flow: Forwarded) {
        let open = Open {
            flow,
            loss: None,
            withdrawals: 1,
        };
        self.open.insert(key, open);
    }

    /// A flow goes because it is no good.
    pub(super) fn lose(&mut self, key: FlowKey, flow: Forwarded, loss: Loss) {
        let open = Open {
            flow,
            loss: Some(loss),
            withdrawals: 0,
        };
        self.open.insert(key, open);
    }

    /// Its worker wants back what may be going already: it is answered after that. False where it is not.
    pub(super) fn is_going(&mut self, key: &FlowKey) -> bool {
        let open = self.open.get_mut(key);
        open.map(|open| open.withdrawals += 1).is_some()
    }

    /// A flow's totals are known: tells what was relayed since it was read last, once.
    pub(super) fn complete(
        &mut self,
        key: &FlowKey,
        totals: PerParty<Counters>,
        news: &mut NewsQueue,
    ) {
        let Some(open) = self.open.remove(key) else {
            return;
        };
        let (worker, flow) = (key.worker, key.flow);
        let mut last = open.flow.since_read(totals);
        if let Some(loss) = open.loss {
            news.tell(
                worker,
                FlowNews::Lost(flow, loss, std::mem::take(&mut last)),
            );
        }
        for _ in 0..open.withdrawals {
            news.tell(worker, FlowNews::Withdrawn(flow, std::mem::take(&mut last)));
        }
    }
}
