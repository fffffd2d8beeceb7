//! The judgement of a certificate that another party shows.
//!
//! The chain is checked by webpki, as in any TLS. A server's host name is not: it is a replica of
//! this cluster, wherever it was reached, because its certificate says so. So a port-forward, an
//! address and a name are alike, and a client's certificate never serves.

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use crate::credentials::Certificate;
use crate::identity::Subject;

/// Returns the cryptography that everything here uses.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    &PROVIDER
}

/// The authorities that one party trusts.
pub(crate) struct Trust {
    roots: RootCertStore,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    /// Trusts these authorities; there is at least one.
    pub(crate) fn new(roots: RootCertStore) -> Self {
        let shared = Arc::new(roots.clone());
        let clients =
            WebPkiClientVerifier::builder_with_provider(shared, Arc::clone(provider())).build();
        Self { roots, clients: clients.expect("there are roots, and no revocation lists") }
    }

    /// Checks that one of the authorities has signed a certificate, which is valid at a time.
    pub(crate) fn check(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let (own, others) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.clients.verify_client_cert(own, others, now).map(|_| ())
    }
}

/// The ones that a party of a cluster talks to.
#[derive(Clone)]
pub(crate) struct Verifier {
    pub(crate) trust: Arc<Trust>,
    /// The word of the party's own cluster; `None` for one that has no certificate to tell.
    pub(crate) cluster: Option<String>,
    /// Whether only replicas are meant.
    pub(crate) replicas_only: bool,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier for {:?}", self.cluster)
    }
}

/// A certificate whose name is not one that is meant here.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("its certificate says {0}, and not that it is a replica")]
    NotAReplica(String),
    #[error("its certificate says {0}, which is not of this cluster ({1})")]
    OtherCluster(String, String),
    #[error("{0}")]
    Nobody(String),
}

impl Verifier {
    fn check_identity(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let unfit = |why: Unfit| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
        };
        let identity = Certificate::read(certificate)
            .map_err(|error| unfit(Unfit::Nobody(error.to_string())))?
            .identity;
        if let Some(own) = self.cluster.as_ref().filter(|own| **own != identity.cluster) {
            return Err(unfit(Unfit::OtherCluster(identity.to_string(), own.clone())));
        }
        match identity.subject {
            Subject::Client(_) if self.replicas_only => {
                Err(unfit(Unfit::NotAReplica(identity.to_string())))
            }
            _ => Ok(()),
        }
    }
}

impl ClientCertVerifier for Verifier {
    /// Tells strangers nothing of the authorities.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    /// A client may say later who it is, by a token or a password.
    fn client_auth_mandatory(&self) -> bool {
        self.replicas_only
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.trust.clients.verify_client_cert(own, others, now)?;
        self.check_identity(own).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls12_signature(message, own, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, own, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let algorithms = provider().signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(own)?;
        let roots = &self.trust.roots;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, others, now, algorithms)?;
        self.check_identity(own).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls12_signature(self, message, own, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls13_signature(self, message, own, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ClientCertVerifier::supported_verify_schemes(self)
    }
}
