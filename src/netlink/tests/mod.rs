//! What several unit tests share.

pub(crate) mod vectors;
