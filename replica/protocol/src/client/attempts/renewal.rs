//! Makes connections anew when the client has other credentials.
//!
//! A connection shows what its client had when it was opened. When an authority is replaced, a
//! replica ends those that show a certificate of the old one. Guarantees that by then there is
//! another one, if the client had its new certificate in time: it is opened beside the old one,
//! whose calls go on to their end. Does not know when the old one would be ended.

use std::sync::Arc;

use tokio::time::timeout;

use super::{Attempts, Endpoint};

impl Attempts {
    /// Makes the open connections anew, in the background and one after another, if the credentials
    /// were replaced since. If that fails, the next request that needs one makes it.
    pub(super) fn renew(&self) {
        let Some(tls) = self.dial.encryption.tls() else { return };
        let replaced = tls.replaced();
        let due: Vec<_> = self.pool(|pool| {
            if std::mem::replace(&mut pool.renewed, replaced) == replaced {
                return Vec::new();
            }
            let open = pool.connections.iter().filter(|(_, connection)| connection.is_open());
            let known = open.map(|(address, connection)| (address.clone(), Arc::clone(connection)));
            known.collect()
        });
        if due.is_empty() {
            return;
        }
        let attempts = self.clone();
        tokio::spawn(async move {
            for (address, old) in due {
                let name = Some(old.welcome().name.clone());
                let endpoint = Endpoint { name, address };
                let made = timeout(attempts.dial.patience(), attempts.dial(&endpoint)).await;
                let Ok(Ok(made)) = made else { continue };
                attempts.pool(|pool| {
                    // It may have been lost, and made again, meanwhile.
                    if let Some(known) = pool.connections.get_mut(&endpoint.address)
                        && Arc::ptr_eq(known, &old)
                    {
                        *known = Arc::new(made);
                    }
                });
            }
        });
    }
}
