//! Pure: prompt lines of several commands that are being carried out.

use std::collections::VecDeque;

use crate::message::CallId;
use crate::prompt::grammar::Command;

/// A line with commands left to carry out.
#[derive(Clone, Debug)]
pub struct Line {
    /// The remaining commands, in order.
    pub commands: VecDeque<Command>,
    /// The call that must finish before the next command.
    pub waits_for: Option<CallId>,
}
