//! An API server, and as whom it is asked.
//!
//! Does not know where that comes from.

use std::time::Duration;

use kube::Config;

/// How long a call of the API server may take.
pub const CALL_PATIENCE: Duration = Duration::from_secs(5);

/// An API server, and as whom it is asked.
#[derive(Clone)]
pub struct Access {
    pub(super) config: Config,
    /// The context.
    pub context: String,
    /// The user of the context, or the pod's `ServiceAccount`.
    pub user: String,
    /// The login plugin of the user.
    pub plugin: Option<String>,
    /// The namespace.
    pub namespace: String,
    /// This program runs in a pod of the cluster.
    pub is_inside: bool,
}

impl Access {
    /// The API server's address.
    #[must_use]
    pub fn server(&self) -> String {
        self.config.cluster_url.to_string().trim_end_matches('/').to_owned()
    }
}
