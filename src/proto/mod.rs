//! Text protocols: bytes in, types out; pure.
