//! Pure: how commands end.
//!
//! Guarantees one exit status for each kind of end, the same for every command.

use kvorum_protocol::ClientError;
use kvorum_protocol::client::Fate;
use kvorum_protocol::message::Refusal;

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// It did what was asked.
    Done = 0,
    /// It failed in a way that no other status names.
    Failed = 1,
    /// What was asked makes no sense.
    Usage = 2,
    /// There is no such key.
    NotFound = 3,
    /// No replica, no leader or no majority could be had.
    Unavailable = 4,
    /// The outcome of a write is unknown.
    Unknown = 5,
    /// Not allowed.
    NotAuthorized = 6,
    /// It would act, and needs `--yes`.
    NeedsYes = 7,
    /// A mistake in this program.
    Bug = 70,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that did not do what was asked: how it ends, and the line that says why.
#[derive(Debug, PartialEq, Eq)]
pub struct Stop {
    /// The exit status.
    pub exit: Exit,
    /// What, where, and what next; empty when everything is said already.
    pub message: String,
}

impl Stop {
    /// An end with a message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// What was asked makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// It failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// The same end, said once more.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::new(self.exit, self.message.clone())
    }
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Limit(_)
            | ClientError::NoSuchNode { .. }
            | ClientError::Refused {
                refusal: Refusal::Limit(_) | Refusal::UnknownReplica { .. },
                ..
            } => Exit::Usage,
            ClientError::Refused { refusal: Refusal::FaultsForbidden, .. } => Exit::NotAuthorized,
            ClientError::Refused { .. } | ClientError::Target(_) => Exit::Failed,
            ClientError::Unavailable { .. } => Exit::Unavailable,
            ClientError::Unknown { .. } => Exit::Unknown,
        };
        let next = match (exit, error.fate()) {
            (Exit::Unknown, Fate::Unknown) => {
                "; it may have happened or may still: read the key to find out"
            }
            (Exit::Unavailable, _) => "; nothing was done",
            _ => "",
        };
        Self::new(exit, format!("{error}{next}"))
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            // Whoever read our output has enough of it.
            std::io::ErrorKind::BrokenPipe => Self::new(Exit::Done, ""),
            _ => Self::failed(error.to_string()),
        }
    }
}
