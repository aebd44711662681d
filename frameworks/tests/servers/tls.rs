//! A certificate for `localhost`, and configurations of servers and clients that trust it.

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
};

pub struct Tls {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Tls {
    pub fn new() -> Self {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let certified = certified.expect("a certificate");
        Self {
            certificate: certified.cert.der().clone(),
            key: PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into()),
        }
    }

    /// Returns the configuration of a server that speaks these protocols.
    pub fn server(&self, alpn: &[&str]) -> ServerConfig {
        let certificates = vec![self.certificate.clone()];
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(certificates, self.key.clone_key())
            .expect("a key of the certificate");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// Returns the configuration of a client that speaks this protocol.
    pub fn client(&self, alpn: &str) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a root");
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        config
    }
}
