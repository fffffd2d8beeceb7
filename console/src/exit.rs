//! Pure: the exit statuses of commands, and the errors that lead to them.
//!
//! Guarantees one exit status for each kind of end, the same for every command.

use kvorum_protocol::ClientError;
use kvorum_protocol::client::Fate;
use kvorum_protocol::connection::ConnectError;
use kvorum_protocol::handshake::HandshakeRefusal;
use kvorum_protocol::message::Refusal;

/// The exit status of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// The command did what was asked.
    Done = 0,
    /// The command failed in a way that no other status covers.
    Failed = 1,
    /// The request makes no sense.
    Usage = 2,
    /// There is no such key.
    NotFound = 3,
    /// No replica, no leader or no majority was available.
    Unavailable = 4,
    /// The outcome of a write is unknown.
    Unknown = 5,
    /// The action is not allowed.
    NotAuthorized = 6,
    /// The command would act, and needs `--yes`.
    NeedsYes = 7,
    /// A bug in this program.
    Bug = 70,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The end of a command that did not do what was asked: its exit status and the reason.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit status.
    pub exit: Exit,
    /// The message: what happened, where, and what to do next; empty when nothing is left to say.
    pub message: String,
}

impl Failure {
    /// Creates a failure with an exit status and a message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Creates the failure of a request that makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Creates the failure of a command.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Returns a copy, to report the same failure once more.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::new(self.exit, self.message.clone())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Limit(_)
            | ClientError::NoSuchNode { .. }
            | ClientError::Refused {
                refusal: Refusal::Limit(_) | Refusal::UnknownReplica { .. },
                ..
            } => Exit::Usage,
            ClientError::Refused {
                refusal: Refusal::FaultsForbidden | Refusal::Forbidden { .. },
                ..
            } => Exit::NotAuthorized,
            ClientError::Target(
                ConnectError::Forbidden { .. } | ConnectError::Distrusted { .. },
            ) => Exit::NotAuthorized,
            ClientError::Target(ConnectError::Refused {
                refusal: HandshakeRefusal::NotEncrypted | HandshakeRefusal::Unauthenticated(_),
                ..
            }) => Exit::NotAuthorized,
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

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            // The reader of the output has closed the pipe: it has read enough.
            std::io::ErrorKind::BrokenPipe => Self::new(Exit::Done, ""),
            _ => Self::failed(error.to_string()),
        }
    }
}
