//! Pure: lines of several commands that are under way.

use std::collections::VecDeque;

use crate::message::CallId;
use crate::prompt::grammar::Command;

/// A line of which commands are left.
#[derive(Clone, Debug)]
pub struct Line {
    /// Those that are left, in order.
    pub commands: VecDeque<Command>,
    /// The call that has to come back first.
    pub waits_for: Option<CallId>,
}
