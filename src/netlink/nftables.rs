//! One nftables table of its own: the gate and what hangs on it. Pure.
