pub mod finished;
pub mod registry;
pub mod statistics;
