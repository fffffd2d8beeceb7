//! Messages on standard error, beside a command's output.
//!
//! Does not know who reads them.

use std::io::Write;

/// Prints a line on standard error. The reader may be gone; that is no reason to end the work in
/// progress.
pub fn note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "kvorum: {line}");
}
