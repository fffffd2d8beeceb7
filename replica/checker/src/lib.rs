//! Pure: decides whether a history of puts, conditional puts, deletes and gets is linearizable.
//!
//! The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the memory
//! of Lowe ("Testing for linearizability", 2017, section 4): operations are put in an order one
//! after the other, each between its call and its answer, and a set of operations that once led to
//! a state is not tried again. Keys are independent, so each key is checked alone (Horn and
//! Kroening, "Faster linearizability checking via P-compositionality", 2015).
//!
//! Guarantees that an accepted history has such an order, in which the reported revisions rise, and
//! that a rejected one has none. An operation without an answer may or may not have happened. Needs
//! each value to be written once, so that a read identifies the write it saw. Does not know what
//! made the history.

mod register;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};

use kvorum_protocol::data::{Key, Operation, Outcome, Value};
use register::{Register, State};

/// Most steps of the search for one key; beyond it the history is too entangled to be judged.
const TRIES_MAX: u64 = 1_000_000;

/// The request of an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// A put or a delete.
    Write(Operation),
    /// A linearizable read.
    Get(Key),
}

impl Asked {
    fn key(&self) -> &Key {
        match self {
            Self::Write(operation) => operation.key().expect("a history is about keys"),
            Self::Get(key) => key,
        }
    }
}

/// The answer to an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// The outcome of a write.
    Written(Outcome),
    /// The key's value and revision, or `None` if it does not exist.
    Value(Option<(Value, u64)>),
}

/// One operation of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Op {
    /// The request.
    pub asked: Asked,
    /// The time of the call, by any clock that all operations share.
    pub called: u64,
    /// The time of the answer, and the answer; `None` if there was none.
    pub told: Option<(u64, Told)>,
}

/// The number of an operation in its history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OpId(usize);

/// The requests of clients and the answers they got.
#[derive(Clone, Default, Debug)]
pub struct History {
    ops: Vec<Option<Op>>,
}

/// A summary of an accepted history.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Checked {
    /// Operations with an answer.
    pub answered: usize,
    /// Writes that may or may not have happened.
    pub unknown: usize,
    /// Keys with at least one operation that counts.
    pub keys: usize,
}

/// The reason why a history is not accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// A read saw a value that was never written, or two writes have one revision.
    #[error("{key:?}: {why}: {op:?}")]
    Impossible {
        /// The key.
        key: Key,
        /// The contradiction.
        why: &'static str,
        /// The operation in which it shows.
        op: Box<Op>,
    },
    /// No order of the operations explains all answers.
    #[error("{key:?} is not linearizable: of {count} operations none can be next of {stuck:#?}")]
    NoOrder {
        /// The key.
        key: Key,
        /// Operations on the key.
        count: usize,
        /// The operations that could come next, and did not fit, when most were placed.
        stuck: Vec<Op>,
    },
    /// Too many orders would have to be tried.
    #[error("{key:?}: the history of {count} operations is too entangled to be judged")]
    Undecided {
        /// The key.
        key: Key,
        /// Operations on the key.
        count: usize,
    },
}

impl History {
    /// Records a call.
    pub fn called(&mut self, at: u64, asked: Asked) -> OpId {
        self.ops.push(Some(Op { asked, called: at, told: None }));
        OpId(self.ops.len() - 1)
    }

    /// Records the answer to a call.
    ///
    /// # Panics
    /// When the call was answered or withdrawn before.
    pub fn told(&mut self, op: OpId, at: u64, told: Told) {
        let op = self.ops[op.0].as_mut().expect("what was withdrawn is not answered");
        assert!(op.told.is_none(), "an operation is answered once");
        op.told = Some((at, told));
    }

    /// Removes an operation that certainly did not happen.
    pub fn withdrawn(&mut self, op: OpId) {
        self.ops[op.0] = None;
    }

    /// Looks for an order of each key's operations.
    ///
    /// # Errors
    /// The first violation found.
    pub fn check(&self) -> Result<Checked, Violation> {
        let mut checked = Checked::default();
        let mut keys: BTreeMap<&Key, Vec<&Op>> = BTreeMap::new();
        for op in self.ops.iter().flatten() {
            match (&op.told, &op.asked) {
                (Some(_), _) => checked.answered += 1,
                (None, Asked::Write(_)) => checked.unknown += 1,
                // A read without an answer shows nothing.
                (None, Asked::Get(_)) => continue,
            }
            keys.entry(op.asked.key()).or_default().push(op);
        }
        checked.keys = keys.len();
        for (key, mut ops) in keys {
            ops.sort_by_key(|op| op.called);
            Search::new(&ops, Register::of(key, &ops)?).run(key)?;
        }
        Ok(checked)
    }
}

/// An operation's place in the order.
struct Step {
    op: usize,
    /// The state before it.
    before: State,
    /// Its place among the operations that could have come here.
    rank: usize,
}

/// The search for an order of one key's operations.
struct Search<'a> {
    ops: &'a [&'a Op],
    register: Register,
    /// The operations that are in the order, as bits.
    placed: Vec<u64>,
    /// Number of answered operations that are not in the order.
    left: usize,
    /// Number of writes of known revision that are in the order.
    done: usize,
    state: State,
    /// The order so far.
    order: Vec<Step>,
    seen: HashSet<(usize, Box<[u64]>, State)>,
    tries: u64,
    /// The fewest answered operations that were left, and the operations that could come next then.
    stuck: (usize, Vec<usize>),
}

impl<'a> Search<'a> {
    fn new(ops: &'a [&'a Op], register: Register) -> Self {
        Self {
            ops,
            register,
            placed: vec![0; ops.len().div_ceil(64)],
            left: ops.iter().filter(|op| op.told.is_some()).count(),
            done: 0,
            state: None,
            order: Vec::new(),
            seen: HashSet::new(),
            tries: 0,
            stuck: (usize::MAX, Vec::new()),
        }
    }

    fn run(mut self, key: &Key) -> Result<(), Violation> {
        let count = self.ops.len();
        // The candidates with a lower rank were tried already.
        let mut from = 0;
        while self.left > 0 {
            self.tries += 1;
            if self.tries > TRIES_MAX {
                return Err(Violation::Undecided { key: key.clone(), count });
            }
            if let Some((rank, op, state)) = self.next(from) {
                self.place(rank, op, state);
                from = 0;
                continue;
            }
            if self.left < self.stuck.0 {
                self.stuck = (self.left, self.candidates().take(8).collect());
            }
            match self.take_back() {
                Some(rank) => from = rank + 1,
                None => {
                    let stuck = self.stuck.1.iter().map(|op| self.ops[*op].clone()).collect();
                    return Err(Violation::NoOrder { key: key.clone(), count, stuck });
                }
            }
        }
        Ok(())
    }

    /// Returns the operations that may come next: those called before any other operation that is
    /// not placed was answered.
    fn candidates(&self) -> impl Iterator<Item = usize> {
        let mut earliest = u64::MAX;
        let first = self.placed.iter().take_while(|word| **word == u64::MAX).count() * 64;
        (first..self.ops.len())
            .take_while(move |op| {
                if self.is_placed(*op) {
                    return true;
                }
                let is_concurrent = self.ops[*op].called <= earliest;
                let answered = self.ops[*op].told.as_ref().map_or(u64::MAX, |(at, _)| *at);
                earliest = earliest.min(answered);
                is_concurrent
            })
            .filter(move |op| !self.is_placed(*op))
    }

    /// Returns the next operation that fits the state and leads to something new. Operations that
    /// certainly happened come first; operations that may have happened are tried where no other
    /// fits.
    fn next(&mut self, from: usize) -> Option<(usize, usize, State)> {
        let (sure, perhaps): (Vec<usize>, Vec<usize>) =
            self.candidates().partition(|op| self.ops[*op].told.is_some());
        // Unseen writes that do the same are interchangeable: the first will do.
        let mut kinds = Vec::new();
        let perhaps = perhaps.into_iter().filter(|op| {
            if !self.is_unseen(*op) {
                return true;
            }
            let kind = register::kind(self.ops[*op]);
            let is_first = !kinds.contains(&kind);
            kinds.push(kind);
            is_first
        });
        let all: Vec<usize> = sure.into_iter().chain(perhaps).collect();
        for (rank, op) in all.into_iter().enumerate().skip(from) {
            if !self.register.is_next(op, self.done) || self.is_idle(op) {
                continue;
            }
            let Some(state) = self.register.after(self.state, op, self.ops[op]) else { continue };
            self.flip(op);
            let full = self.placed.iter().take_while(|word| **word == u64::MAX).count();
            let last =
                self.placed.iter().rposition(|word| *word != 0).map_or(full, |last| last + 1);
            let bits = self.placed[full..last.max(full)].into();
            let is_new = self.seen.insert((full, bits, state));
            self.flip(op);
            if is_new {
                return Some((rank, op, state));
            }
        }
        None
    }

    /// Whether a write would only hide an unseen write right before it: the order without that
    /// write does as well.
    fn is_idle(&self, op: usize) -> bool {
        let hides_unseen = self.order.last().is_some_and(|last| self.is_unseen(last.op));
        hides_unseen && self.is_unseen(op) && register::is_unconditional(self.ops[op])
    }

    /// Whether no answer and no read shows that a write took effect.
    fn is_unseen(&self, op: usize) -> bool {
        self.ops[op].told.is_none() && !self.register.is_known(op)
    }

    fn place(&mut self, rank: usize, op: usize, state: State) {
        self.flip(op);
        self.order.push(Step { op, before: self.state, rank });
        self.left -= usize::from(self.ops[op].told.is_some());
        self.done += usize::from(self.register.is_known(op));
        self.state = state;
    }

    /// Takes the last operation out of the order, and returns its rank among the candidates there.
    fn take_back(&mut self) -> Option<usize> {
        let Step { op, before, rank } = self.order.pop()?;
        self.flip(op);
        self.left += usize::from(self.ops[op].told.is_some());
        self.done -= usize::from(self.register.is_known(op));
        self.state = before;
        Some(rank)
    }

    fn is_placed(&self, op: usize) -> bool {
        self.placed[op / 64] & (1 << (op % 64)) != 0
    }

    fn flip(&mut self, op: usize) {
        self.placed[op / 64] ^= 1 << (op % 64);
    }
}
