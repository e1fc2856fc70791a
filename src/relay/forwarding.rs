//! Who forwards media: the kernel, or the workers in user space.

use log::info;

use crate::config::Forwarding;
use crate::moment::Now;
use crate::session::{Action, Counters, Engine};

/// Decides at start whether components are handed to the kernel.
///
/// # Errors
/// Where the kernel is demanded and cannot be had.
pub fn choose(setting: Forwarding) -> Result<bool, String> {
    match setting {
        Forwarding::Kernel => Err(
            "forwarding = kernel: this version forwards in user space only; allowed: auto, userspace"
                .to_owned(),
        ),
        Forwarding::Auto => {
            info!("media is relayed in user space (forwarding = auto)");
            Ok(false)
        }
        Forwarding::Userspace => Ok(false),
    }
}

/// Answers what an engine asks of the kernel: it cannot forward, and there is nothing to take back.
pub fn execute(engine: &mut Engine, action: &Action, now: Now) {
    match action {
        Action::Install { flow, .. } => engine.flow_installed(*flow, false),
        Action::Withdraw(flow) => {
            engine.flow_withdrawn(*flow, [Counters::default(); 2], now);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_is_demanded_and_not_there_is_an_error() {
        let message = choose(Forwarding::Kernel).unwrap_err();
        assert!(message.contains("forwarding = kernel"), "{message}");
        assert_eq!(choose(Forwarding::Auto), Ok(false));
        assert_eq!(choose(Forwarding::Userspace), Ok(false));
    }
}
