//! The content of a certificate, for people: its owner, its time, its uses, and its signer.
//!
//! Guarantees that any certificate which parses is described, also one of no use here.

use std::fmt;
use std::time::SystemTime;

use ring::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;

use crate::credentials::{Certificate, Credentials, CredentialsError, certificates, time};
use crate::identity::Identity;
use crate::verification::Trust;

/// The bytes of a fingerprint that are shown: enough to tell certificates of one cluster apart.
const SHOWN_BYTES: usize = 8;

/// The SHA-256 hash of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Fingerprint([u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..SHOWN_BYTES].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The owner of a certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A replica or a client.
    Party(Identity),
    /// An authority, by its name.
    Authority(String),
    /// Something else, by its name: this certificate is of no use in a cluster.
    Other(String),
}

/// The content of a certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// Its owner.
    pub owner: Owner,
    /// The time from which it is valid.
    pub not_before: SystemTime,
    /// The time until which it is valid.
    pub not_after: SystemTime,
    /// Whether its owner may accept connections with it.
    pub serves: bool,
    /// Whether its owner may open connections with it.
    pub connects: bool,
    /// The hash that tells it from all others.
    pub fingerprint: Fingerprint,
    der: CertificateDer<'static>,
}

impl Description {
    /// Describes every certificate of a text in PEM form.
    ///
    /// # Errors
    /// When there is none, or one does not parse.
    pub fn read_all(pem: &str) -> Result<Vec<Self>, CredentialsError> {
        certificates(pem)?.into_iter().map(Self::read).collect()
    }

    /// Describes one certificate.
    pub(crate) fn read(der: CertificateDer<'static>) -> Result<Self, CredentialsError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| CredentialsError::Certificate(error.to_string()))?;
        let usage = parsed.extended_key_usage().ok().flatten().map(|usage| usage.value);
        let of_any = |may: fn(&x509_parser::extensions::ExtendedKeyUsage<'_>) -> bool| {
            usage.is_some_and(|usage| usage.any || may(usage))
        };
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest(&SHA256, &der).as_ref());
        let validity = parsed.validity();
        Ok(Self {
            owner: owner(&der, &parsed),
            not_before: time(validity.not_before),
            not_after: time(validity.not_after),
            serves: of_any(|usage| usage.server_auth),
            connects: of_any(|usage| usage.client_auth),
            fingerprint: Fingerprint(fingerprint),
            der,
        })
    }
}

impl Credentials {
    /// Describes the authorities that are believed.
    #[must_use]
    pub fn authorities(&self) -> Vec<Description> {
        let read = self.authorities.iter().map(|one| Description::read(one.clone()));
        read.filter_map(Result::ok).collect()
    }
}

fn owner(der: &CertificateDer<'_>, parsed: &X509Certificate<'_>) -> Owner {
    let common = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let name = common.map_or_else(|| parsed.subject().to_string(), str::to_owned);
    match Certificate::read(der) {
        _ if parsed.is_ca() => Owner::Authority(name),
        Ok(certificate) => Owner::Party(certificate.identity),
        Err(_) => Owner::Other(name),
    }
}

/// Returns the authority that has signed the first certificate of a chain, by itself or through the
/// others, if it is among these.
#[must_use]
pub fn signer<'a>(
    chain: &[Description],
    authorities: &'a [Description],
) -> Option<&'a Description> {
    // At a time when it is valid: one that is over, or not yet, was signed all the same.
    let since = chain.first()?.not_before.duration_since(SystemTime::UNIX_EPOCH);
    let valid = UnixTime::since_unix_epoch(since.unwrap_or_default());
    let chain: Vec<_> = chain.iter().map(|one| one.der.clone()).collect();
    authorities.iter().find(|authority| {
        let mut roots = RootCertStore::empty();
        let is_added = roots.add(authority.der.clone()).is_ok();
        is_added && Trust::new(roots).check(&chain, valid).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Authority, CLIENT_LIFETIME, REPLICA_LIFETIME};

    #[test]
    fn a_certificate_is_described() {
        let now = SystemTime::now();
        let (ours, theirs) = (Authority::generate("c", now), Authority::generate("c", now));
        let both = format!("{}{}", theirs.bundle(), ours.bundle());
        let authorities = Description::read_all(&both).unwrap();
        assert_eq!(authorities.len(), 2);
        assert_eq!(authorities[0].owner, Owner::Authority("kvorum authority of c".to_owned()));
        assert!(!authorities[0].serves && !authorities[0].connects);
        assert_ne!(authorities[0].fingerprint, authorities[1].fingerprint);
        for (identity, lifetime, serves) in [
            (Identity::replica("c", "kvorum-0"), REPLICA_LIFETIME, true),
            (Identity::client("c", "app"), CLIENT_LIFETIME, false),
        ] {
            let issued = ours.issue(&identity, &[], now, lifetime);
            let chain = Description::read_all(&issued.certificate).unwrap();
            assert_eq!(chain[0].owner, Owner::Party(identity));
            assert_eq!((chain[0].serves, chain[0].connects), (serves, true));
            assert!(chain[0].not_before < now && chain[0].not_after > now);
            let by = signer(&chain, &authorities).map(|one| one.fingerprint);
            assert_eq!(by, Some(authorities[1].fingerprint));
            assert_eq!(signer(&chain, &authorities[..1]), None);
        }
        assert_eq!(signer(&[], &authorities), None);
        assert_eq!(authorities[0].fingerprint.to_string().len(), 2 * SHOWN_BYTES);
        for wrong in
            ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            assert!(Description::read_all(wrong).is_err(), "{wrong}");
        }
    }
}
