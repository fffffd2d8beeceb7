//! What one party shows and trusts: its certificate with the key, and the authorities it believes.
//!
//! Guarantees that credentials which were read are of use: the certificate names an identity, the
//! key fits it, and one of the authorities has signed it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::time::ASN1Time;

use crate::identity::Identity;
use crate::verification::{Trust, provider};

/// Most certificates in a bundle or a chain.
const CERTIFICATES_MAX: usize = 16;

/// What a certificate says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// The replica or client that it is for.
    pub identity: Identity,
    /// The time from which it is valid.
    pub not_before: SystemTime,
    /// The time until which it is valid.
    pub not_after: SystemTime,
}

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// When it does not parse, or does not name exactly one identity.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, CredentialsError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(der)
            .map_err(|error| CredentialsError::Certificate(error.to_string()))?;
        let names =
            parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
                _ => None,
            });
        let mut identities = names.into_iter().flatten().filter_map(|name| match name {
            GeneralName::URI(uri) => uri.parse().ok(),
            _ => None,
        });
        let (Some(identity), None) = (identities.next(), identities.next()) else {
            return Err(CredentialsError::NoIdentity);
        };
        let validity = parsed.validity();
        let (not_before, not_after) = (time(validity.not_before), time(validity.not_after));
        Ok(Self { identity, not_before, not_after })
    }
}

/// What one party shows and trusts.
#[derive(Clone)]
pub struct Credentials {
    /// What its own certificate says.
    pub certificate: Certificate,
    /// Its certificate, and those between it and an authority.
    pub(crate) shown: Arc<CertifiedKey>,
    /// The authorities that it believes, and how others are checked by them.
    pub(crate) authorities: Arc<Vec<CertificateDer<'static>>>,
    pub(crate) trust: Arc<Trust>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials of {}", self.certificate.identity)
    }
}

/// Credentials that are of no use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A text without what it should hold.
    #[error("there is no {0} in it in PEM form")]
    Empty(&'static str),
    /// A text that does not parse.
    #[error("it does not parse: {0}")]
    Pem(String),
    /// More certificates than anybody needs.
    #[error("it has more than {CERTIFICATES_MAX} certificates")]
    TooMany,
    /// A certificate that does not parse.
    #[error("the certificate does not parse: {0}")]
    Certificate(String),
    /// A certificate that does not say who it is for.
    #[error(
        "the certificate does not name one replica or client: it needs exactly one URI of the \
         form kvorum://CLUSTER/replica/NAME or kvorum://CLUSTER/client/NAME among its subject \
         alternative names"
    )]
    NoIdentity,
    /// A key of another certificate.
    #[error("the key does not fit the certificate")]
    OtherKey,
    /// A key that cannot be used.
    #[error("the key cannot be used: {0}")]
    Key(String),
    /// A certificate of an authority that is not trusted.
    #[error("none of the authorities in {} has signed the certificate", crate::CA_FILE)]
    OtherAuthority,
    /// An authority without its key, or a key of none.
    #[error("none of the authorities is that of the key")]
    NoAuthority,
}

/// Returns the trust in these authorities.
pub(crate) fn trust(
    authorities: &[CertificateDer<'static>],
) -> Result<Arc<Trust>, CredentialsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        let added = roots.add(authority.clone());
        added.map_err(|error| CredentialsError::Certificate(error.to_string()))?;
    }
    Ok(Arc::new(Trust::new(roots)))
}

/// Converts a time of a certificate; one before 1970 counts as 1970.
pub(crate) fn time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Reads all certificates of a text.
pub(crate) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let read: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(text.as_bytes()).take(CERTIFICATES_MAX + 1).collect();
    let read = read.map_err(|error| CredentialsError::Pem(error.to_string()))?;
    match read.len() {
        0 => Err(CredentialsError::Empty("certificate")),
        1..=CERTIFICATES_MAX => Ok(read),
        _ => Err(CredentialsError::TooMany),
    }
}

impl Credentials {
    /// Whether these are the same: the same certificate, and the same authorities.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.shown.cert == other.shown.cert && self.authorities == other.authorities
    }

    /// Reads credentials: the authorities, the certificate with those between it and an authority,
    /// and its key, each in PEM form.
    ///
    /// # Errors
    /// When one of them does not parse, or they do not fit each other.
    pub fn from_pem(authorities: &str, chain: &str, key: &str) -> Result<Self, CredentialsError> {
        Self::of(certificates(authorities)?, chain, key)
    }

    /// Reads credentials that are to be trusted because of these authorities.
    pub(crate) fn of(
        authorities: Vec<CertificateDer<'static>>,
        chain: &str,
        key: &str,
    ) -> Result<Self, CredentialsError> {
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| match error {
            rustls::pki_types::pem::Error::NoItemsFound => CredentialsError::Empty("key"),
            error => CredentialsError::Pem(error.to_string()),
        })?;
        let certificate = Certificate::read(&chain[0])?;
        let shown =
            CertifiedKey::from_der(chain, key, provider()).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => CredentialsError::OtherKey,
                error => CredentialsError::Key(error.to_string()),
            })?;
        let trust = trust(&authorities)?;
        // At a time when it is valid: one that is over, or not yet, is another matter.
        let since = certificate.not_before.duration_since(SystemTime::UNIX_EPOCH);
        let valid = UnixTime::since_unix_epoch(since.unwrap_or_default());
        trust.check(&shown.cert, valid).map_err(|_| CredentialsError::OtherAuthority)?;
        let (authorities, shown) = (Arc::new(authorities), Arc::new(shown));
        Ok(Self { certificate, shown, authorities, trust })
    }
}
