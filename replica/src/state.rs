//! Pure: the replicated state: the entries that change it, the machine that applies them, and the
//! form in which it is copied.
//!
//! Guarantees that the same entries make the same state on every replica. Does not know who decides
//! them, or where the state is kept.

pub mod accounts;
pub mod chain;
pub mod entry;
pub mod machine;
pub mod rights;
pub mod snapshot;
pub mod start;
pub mod tokens;
pub mod version;
