//! A TLS client of our own, for the connection that tells PostgreSQL's log.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::{Mode, Pem, Tls};

impl Tls {
    /// Whether TLS is asked of a server at all.
    pub(crate) fn is_wanted(&self) -> bool {
        self.mode != Some(Mode::Disable)
    }

    /// What the URL asks for, as rustls takes it.
    ///
    /// # Errors
    /// Says which file is wrong, and how.
    pub(crate) fn client(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let chain = match self.mode {
            Some(Mode::VerifyCa | Mode::VerifyFull) => Some(self.verifier(&provider)?),
            _ => None,
        };
        let config = match (self.mode, chain) {
            (Some(Mode::VerifyFull), Some(chain)) => config.with_webpki_verifier(chain),
            (_, chain) => {
                let lenient = Lenient { provider, chain };
                config
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(lenient))
            }
        };
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let what = "the client certificate";
                let chain = certificates(&certificate.text(what)?, what)?;
                let key = PrivateKeyDer::from_pem_slice(&key.text("the client key")?)
                    .map_err(|e| format!("the client key is broken: {e}"))?;
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(|e| format!("the client key does not fit its certificate: {e}"))
            }
            _ => Ok(config.with_no_client_auth()),
        }
    }

    /// The machine's own CAs, as for other connections, and the one that the URL names.
    fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<WebPkiServerVerifier>, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(ca) = &self.ca {
            let what = "the CA";
            for certificate in certificates(&ca.text(what)?, what)? {
                roots
                    .add(certificate)
                    .map_err(|e| format!("{what} is broken: {e}"))?;
            }
        }
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|e| format!("no CA to trust: {e}"))
    }
}

impl Pem {
    fn text(&self, what: &str) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => super::files::read(path, what),
            Self::Inline(text) => Ok(text.clone().into_bytes()),
        }
    }
}

fn certificates(text: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("{what} is broken: {e}"))
}

/// Encrypts with whoever answers (`require`, as libpq means it), or with whoever has a certificate
/// of a trusted CA, in any name (`verify-ca`). That the server holds the certificate's key is
/// looked at in either case.
#[derive(Debug)]
struct Lenient {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(end, between, name, ocsp, now) {
            // The name is looked at last: the chain is good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
