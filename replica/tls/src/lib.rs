//! The certificates of a cluster, and the encrypted connections that they are for.
//!
//! Each cluster has an [`Authority`] of its own, which signs a certificate for every replica and
//! client; the name in it, an [`Identity`], says who that is. [`Tls`] holds one party's
//! [`Credentials`], which may be replaced at any time, and opens and accepts connections with them.
//!
//! Guarantees TLS 1.3 only; that nobody is taken for a replica or client whose certificate the
//! cluster's authority did not sign, does not name, or names for another cluster; and that a
//! connection meant for one port is not taken by the other. Does not know what a client may do, nor
//! where certificates are kept.

mod authority;
mod connection;
mod credentials;
mod description;
mod folder;
mod identity;
mod verification;
mod wire;

pub use authority::{Authority, CLIENT_LIFETIME, Issued, REPLICA_LIFETIME};
pub use connection::{Peer, Port, Tls, distrust, explain, is_other_protocol};
pub use credentials::{Certificate, Credentials, CredentialsError};
pub use description::{Description, Fingerprint, Owner, signer};
pub use folder::{
    AUTHORITY_KEY_FILE, AUTHORITY_SECRET, CA_FILE, CERTIFICATE_FILE, KEY_FILE, client_secret,
    read_authorities, read_folder, read_private, read_text, write_private,
};
pub use identity::{Identity, NotAnIdentity, ReplicaName, Subject};
pub use wire::{Accepted, Encryption, Mode, Wire, accept};
