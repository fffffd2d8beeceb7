//! A cluster's certificate authority: makes itself, and certificates for replicas and clients.
//!
//! Certificates begin to be valid before they were made, so that they are also valid where the
//! clock is behind. Guarantees that a certificate is for what its identity says, and nothing else.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::credentials::{Certificate, Credentials, CredentialsError, certificates};
use crate::description::Description;
use crate::identity::{Identity, Subject};

/// How long an authority is valid.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * DAY);
/// How long a replica's certificate is valid.
pub const REPLICA_LIFETIME: Duration = Duration::from_secs(7 * DAY);
/// How long a client's certificate is valid.
pub const CLIENT_LIFETIME: Duration = Duration::from_secs(90 * DAY);
/// How long before it was made a certificate begins to be valid: other clocks may be a day behind.
const BACKDATE: Duration = Duration::from_secs(2 * DAY);
/// A day, in seconds.
const DAY: u64 = 24 * 60 * 60;

/// A certificate authority, with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    /// All authorities that are to be trusted, this one among them, in PEM form.
    bundle: String,
}

/// A certificate that was made, with its key, in PEM form.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// Makes an authority for a cluster.
    #[must_use]
    pub fn generate(cluster: &str, now: SystemTime) -> Self {
        let key = new_key();
        let params = authority_params(cluster, now);
        let certificate = params.self_signed(&key).expect("a new key signs");
        Self {
            bundle: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Returns the name of the authority of a cluster.
    #[must_use]
    pub fn name_of(cluster: &str) -> String {
        format!("kvorum authority of {cluster}")
    }

    /// Reads an authority: a bundle of trusted certificates in PEM form, and the key of one of
    /// them.
    ///
    /// # Errors
    /// When they do not parse, or none of the certificates is that of the key.
    pub fn from_pem(bundle: &str, key: &str) -> Result<Self, CredentialsError> {
        let key =
            KeyPair::from_pem(key).map_err(|error| CredentialsError::Key(error.to_string()))?;
        let public = key.subject_public_key_info();
        for certificate in certificates(bundle)? {
            let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
                .map_err(|error| CredentialsError::Certificate(error.to_string()))?;
            if parsed.public_key().raw == public {
                let issuer = Issuer::from_ca_cert_der(&certificate, key)
                    .map_err(|error| CredentialsError::Certificate(error.to_string()))?;
                return Ok(Self { issuer, certificate, bundle: bundle.to_owned() });
            }
        }
        Err(CredentialsError::NoAuthority)
    }

    /// Returns the authorities to trust, in PEM form.
    #[must_use]
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Returns the authority's key, in PEM form.
    #[must_use]
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Describes the authority's own certificate.
    ///
    /// # Errors
    /// When it does not parse, as one that was signed elsewhere may.
    pub fn description(&self) -> Result<Description, CredentialsError> {
        Description::read(self.certificate.clone())
    }

    /// Reads a certificate that this authority has signed, and that is of use with its key, both in
    /// PEM form.
    ///
    /// # Errors
    /// When another one has signed it, or they do not parse or fit each other.
    pub fn read_signed(
        &self,
        certificate: &str,
        key: &str,
    ) -> Result<Certificate, CredentialsError> {
        Credentials::of(vec![self.certificate.clone()], certificate, key)
            .map(|read| read.certificate)
    }

    /// Makes a certificate. A replica's also has the host names and addresses at which it is
    /// reached.
    #[must_use]
    pub fn issue(
        &self,
        identity: &Identity,
        hosts: &[String],
        now: SystemTime,
        lifetime: Duration,
    ) -> Issued {
        let key = new_key();
        let mut params = CertificateParams::default();
        let uri = identity.to_string().try_into().expect("an identity is ASCII");
        params.subject_alt_names = vec![SanType::URI(uri)];
        // What is no host name cannot be asked for either.
        let name = |host: &String| match host.parse() {
            Ok(address) => Some(SanType::IpAddress(address)),
            Err(_) => host.as_str().try_into().ok().map(SanType::DnsName),
        };
        params.subject_alt_names.extend(hosts.iter().filter_map(name));
        let (name, usages) = match &identity.subject {
            Subject::Replica(_) => (
                "replica",
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            ),
            Subject::Client(user) => (user.as_str(), vec![ExtendedKeyUsagePurpose::ClientAuth]),
        };
        params.distinguished_name = named(name);
        params.extended_key_usages = usages;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = valid(now, lifetime);
        let certificate = params.signed_by(&key, &self.issuer).expect("an authority's key signs");
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

fn authority_params(cluster: &str, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&Authority::name_of(cluster));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = valid(now, AUTHORITY_LIFETIME);
    params
}

fn valid(now: SystemTime, lifetime: Duration) -> (OffsetDateTime, OffsetDateTime) {
    (OffsetDateTime::from(now - BACKDATE), OffsetDateTime::from(now + lifetime))
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("the system has random numbers")
}
