//! Access to an API server: its address and the identity under which it is called.
//!
//! Does not know where they come from.

use std::time::Duration;

use kube::Config;

/// The time that a call to the API server may take.
pub const CALL_PATIENCE: Duration = Duration::from_secs(5);

/// Access to an API server: its address and the identity under which it is called.
#[derive(Clone)]
pub struct Access {
    pub(super) config: Config,
    /// The name of the context.
    pub context: String,
    /// The user of the context, or the pod's `ServiceAccount`.
    pub user: String,
    /// The login plugin of the user.
    pub plugin: Option<String>,
    /// The namespace.
    pub namespace: String,
    /// Whether this program runs in a pod of the cluster.
    pub is_inside: bool,
}

impl Access {
    /// Returns the API server's address.
    #[must_use]
    pub fn server(&self) -> String {
        self.config.cluster_url.to_string().trim_end_matches('/').to_owned()
    }

    /// Returns the proxy on the way there, without the password that its URL may hold.
    #[must_use]
    pub fn proxy(&self) -> Option<String> {
        let url = self.config.proxy_url.as_ref()?;
        let (scheme, host) = (url.scheme_str().unwrap_or("http"), url.host()?);
        let port = url.port_u16().map_or_else(String::new, |port| format!(":{port}"));
        Some(format!("{scheme}://{host}{port}"))
    }
}
