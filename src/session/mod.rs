//! The core: all call semantics; no clock, no sockets.
