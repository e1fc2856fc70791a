//! The judgement of a host, fact by fact.
