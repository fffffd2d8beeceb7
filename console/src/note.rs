//! What is said on standard error beside a command's output.
//!
//! Does not know who listens.

use std::io::Write;

/// Says something on standard error. Nobody may be listening there any more; that is no reason to
/// end what goes on.
pub fn note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "kvorum: {line}");
}
