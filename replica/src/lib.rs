//! One replica.
pub mod entry;
pub mod engine;
pub mod gate;
pub mod state_machine;
pub mod storage;
