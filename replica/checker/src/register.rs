//! Pure: the state of one key after each operation.

use std::collections::HashMap;

use kvorum_protocol::data::{Condition, Key, Operation, Outcome, Value};

use crate::{Asked, Op, Told, Violation};

/// The operation that wrote the key's current value; `None` when the key does not exist.
pub type State = Option<usize>;

/// The known facts about the writes of one key.
pub struct Register {
    /// By operation: its revision, if an answer or a read reported it.
    revisions: Vec<Option<u64>>,
    /// The writes of known revision, by revision: the order in which they took effect.
    order: Vec<usize>,
    writers: HashMap<u64, usize>,
    values: HashMap<Value, usize>,
}

impl Register {
    /// Collects the revisions of the writes from all answers.
    ///
    /// # Errors
    /// When a read saw a value that was never written, or two writes have one revision.
    pub fn of(key: &Key, ops: &[&Op]) -> Result<Self, Violation> {
        let mut register = Self {
            revisions: vec![None; ops.len()],
            order: Vec::new(),
            writers: HashMap::new(),
            values: HashMap::new(),
        };
        let impossible = |why, op: &Op| {
            let (key, op) = (key.clone(), Box::new(op.clone()));
            Err(Violation::Impossible { key, why, op })
        };
        for (number, op) in ops.iter().enumerate() {
            if let Asked::Write(Operation::Put { value, .. }) = &op.asked
                && register.values.insert(value.clone(), number).is_some()
            {
                return impossible("a value that was written before, so reads cannot tell", op);
            }
        }
        for (number, op) in ops.iter().enumerate() {
            let (writer, revision) = match op.told.as_ref().map(|(_, told)| told) {
                Some(Told::Written(
                    Outcome::Put { revision } | Outcome::Deleted { revision, .. },
                )) => (number, *revision),
                Some(Told::Value(Some((value, revision)))) => match register.values.get(value) {
                    Some(writer) => (*writer, *revision),
                    None => return impossible("a value that nobody wrote", op),
                },
                _ => continue,
            };
            let known = register.revisions[writer].replace(revision);
            if known.is_some_and(|known| known != revision) {
                return impossible("a write with two revisions", op);
            }
            if register.writers.insert(revision, writer).is_some_and(|other| other != writer) {
                return impossible("a revision of two writes", op);
            }
        }
        register.order = (0..ops.len()).filter(|op| register.revisions[*op].is_some()).collect();
        register.order.sort_by_key(|op| register.revisions[*op]);
        Ok(register)
    }

    /// Whether an operation can take effect next, after `done` writes of known revision.
    pub fn is_next(&self, op: usize, done: usize) -> bool {
        self.revisions[op].is_none() || self.order.get(done) == Some(&op)
    }

    /// Whether the revision of a write is known.
    pub fn is_known(&self, op: usize) -> bool {
        self.revisions[op].is_some()
    }

    /// Returns the state after an operation, if it can happen in `state` and get the answer it got.
    pub fn after(&self, state: State, number: usize, op: &Op) -> Option<State> {
        let told = op.told.as_ref().map(|(_, told)| told);
        let operation = match (&op.asked, told) {
            (Asked::Get(_), Some(Told::Value(None))) => return state.is_none().then_some(state),
            (Asked::Get(_), Some(Told::Value(Some((value, _))))) => {
                return (state == self.values.get(value).copied()).then_some(state);
            }
            (Asked::Get(_), _) => return None,
            (Asked::Write(operation), _) => operation,
        };
        let (written, condition) = match operation {
            Operation::Put { condition, .. } => (Some(number), condition),
            Operation::Delete { condition, .. } => (None, condition),
            // No register is about users.
            Operation::Access(_) => return None,
        };
        let holds = self.holds(*condition, state);
        match (told, operation) {
            // If it happened, then at some time after its call.
            (None, _) => holds.then_some(written),
            (Some(Told::Written(Outcome::Put { .. })), Operation::Put { .. }) => {
                holds.then_some(written)
            }
            (Some(Told::Written(Outcome::Deleted { existed, .. })), Operation::Delete { .. }) => {
                (holds && *existed == state.is_some()).then_some(written)
            }
            (Some(Told::Written(Outcome::ConditionFailed { current })), _) => {
                let fits = match (state, current) {
                    (None, None) => true,
                    (Some(writer), Some(revision)) => self.may_be(writer, *revision),
                    _ => false,
                };
                let fails = match condition {
                    Condition::Always => false,
                    Condition::Absent => current.is_some(),
                    Condition::AtRevision(revision) => *current != Some(*revision),
                };
                (fits && fails).then_some(state)
            }
            (Some(Told::Written(Outcome::Expired)), _) => Some(state),
            _ => None,
        }
    }

    fn holds(&self, condition: Condition, state: State) -> bool {
        match condition {
            Condition::Always => true,
            Condition::Absent => state.is_none(),
            Condition::AtRevision(revision) => {
                state.is_some_and(|writer| self.may_be(writer, revision))
            }
        }
    }

    /// Whether a write may have a revision: a write whose revision was never reported may have any
    /// that no other write has.
    fn may_be(&self, writer: usize, revision: u64) -> bool {
        match self.revisions[writer] {
            Some(known) => known == revision,
            None => revision > 0 && !self.writers.contains_key(&revision),
        }
    }
}

/// Returns the effect of an unanswered write: whether it puts, and on what condition.
pub fn kind(op: &Op) -> Option<(bool, Condition)> {
    match &op.asked {
        Asked::Write(Operation::Put { condition, .. }) => Some((true, *condition)),
        Asked::Write(Operation::Delete { condition, .. }) => Some((false, *condition)),
        Asked::Write(Operation::Access(_)) | Asked::Get(_) => None,
    }
}

/// Whether an operation is a write that takes effect in any state.
pub fn is_unconditional(op: &Op) -> bool {
    kind(op).is_some_and(|(_, condition)| condition == Condition::Always)
}
