//! Pure: the names in certificates.
//!
//! An identity is a URI among a certificate's subject alternative names:
//! `kvorum://CLUSTER/replica/NAME` or `kvorum://CLUSTER/client/NAME`. `CLUSTER` is a word that all
//! certificates of a cluster share; whoever has another one is refused, so that two clusters may
//! trust one authority.

use std::fmt;
use std::str::FromStr;

/// The URI scheme of identities.
const SCHEME: &str = "kvorum://";
/// Longest part of an identity, in bytes.
const PART_BYTES_MAX: usize = 253;
/// The name of a replica's certificate that all replicas share.
const ANY: &str = "*";

/// The one that a certificate is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster's word, the same in all its certificates.
    pub cluster: String,
    /// The replica or client.
    pub subject: Subject,
}

/// A replica, or a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// A replica.
    Replica(ReplicaName),
    /// A client, by its user's name.
    Client(String),
}

/// The replicas that may use a certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplicaName {
    /// The replica of this name.
    One(String),
    /// Every replica: they share the certificate.
    Any,
}

impl ReplicaName {
    /// Whether the replica of this name may use the certificate.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Any => true,
        }
    }
}

/// A text that is no identity.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "'{}' is not kvorum://CLUSTER/replica/NAME or kvorum://CLUSTER/client/NAME",
    .0.escape_debug()
)]
pub struct NotAnIdentity(String);

impl Identity {
    /// Returns the identity of a replica.
    #[must_use]
    pub fn replica(cluster: &str, name: &str) -> Self {
        let name = ReplicaName::One(name.to_owned());
        Self { cluster: cluster.to_owned(), subject: Subject::Replica(name) }
    }

    /// Returns the identity of a client.
    #[must_use]
    pub fn client(cluster: &str, user: &str) -> Self {
        Self { cluster: cluster.to_owned(), subject: Subject::Client(user.to_owned()) }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match &self.subject {
            Subject::Replica(ReplicaName::One(name)) => ("replica", name.as_str()),
            Subject::Replica(ReplicaName::Any) => ("replica", ANY),
            Subject::Client(name) => ("client", name.as_str()),
        };
        write!(f, "{SCHEME}{}/{kind}/{name}", self.cluster)
    }
}

impl FromStr for Identity {
    type Err = NotAnIdentity;

    fn from_str(text: &str) -> Result<Self, NotAnIdentity> {
        // Quoted in messages and logs: only as much of it as a name may have.
        let shown = || text.chars().take(PART_BYTES_MAX).collect();
        let parse = || {
            let mut parts = text.strip_prefix(SCHEME)?.splitn(3, '/');
            let (cluster, kind, name) = (parts.next()?, parts.next()?, parts.next()?);
            let subject = match (kind, name) {
                ("replica", ANY) => Subject::Replica(ReplicaName::Any),
                ("replica", name) if is_word(name) => {
                    Subject::Replica(ReplicaName::One(name.to_owned()))
                }
                ("client", name) if is_word(name) => Subject::Client(name.to_owned()),
                _ => return None,
            };
            is_word(cluster).then(|| Self { cluster: cluster.to_owned(), subject })
        };
        parse().ok_or_else(|| NotAnIdentity(shown()))
    }
}

/// Whether a text may be a part of an identity: letters, digits, `-`, `_`, `.` and `@`.
fn is_word(text: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    (1..=PART_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_fit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read_as_they_are_written() {
        let any =
            Identity { subject: Subject::Replica(ReplicaName::Any), ..Identity::client("c", "x") };
        for identity in [
            Identity::replica("kvorum.default", "kvorum-0"),
            Identity::client("kvorum.default", "admin"),
            Identity::client("c", "who@example.org"),
            any,
        ] {
            assert_eq!(identity.to_string().parse(), Ok(identity));
        }
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        let long = format!("kvorum://c/client/{}", "a".repeat(PART_BYTES_MAX + 1));
        for text in [
            "",
            "kvorum://",
            "kvorum://c/replica",
            "kvorum://c/replica/",
            "kvorum:///replica/a",
            "kvorum://c/member/a",
            "kvorum://c/client/*",
            "kvorum://c/client/a/b",
            "kvorum://c/client/a b",
            "kvorum://c/client/\u{1b}[31m",
            "spiffe://c/replica/a",
            &long,
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_shared_certificate_is_of_every_replica() {
        assert!(ReplicaName::Any.is("kvorum-1"));
        assert!(ReplicaName::One("kvorum-1".to_owned()).is("kvorum-1"));
        assert!(!ReplicaName::One("kvorum-1".to_owned()).is("kvorum-10"));
    }
}
