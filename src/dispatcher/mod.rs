pub mod finished;
pub mod link;
pub mod registry;
pub mod statistics;
pub mod turns;
pub mod waiting;
