//! The same TLS for the driver that reads MySQL's log.

use std::path::PathBuf;

use mysql_async::{ClientIdentity, SslOpts};

use super::{Mode, Pem, Tls};

impl Tls {
    /// `encrypted` is whether the server has TLS, where the URL leaves it to that.
    pub(crate) fn binlog(&self, encrypted: bool) -> Option<SslOpts> {
        let mode = self.mode.unwrap_or(Mode::Prefer);
        if mode == Mode::Disable || mode == Mode::Prefer && !encrypted {
            return None;
        }
        super::ready();
        let mut options = SslOpts::default();
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            let identity = ClientIdentity::new(certificate.source(), key.source());
            options = options.with_client_identity(Some(identity));
        }
        if !matches!(mode, Mode::VerifyCa | Mode::VerifyFull) {
            return Some(options.with_danger_accept_invalid_certs(true));
        }
        // The machine's own CAs, as for other connections, and not a list that is built in.
        let machine = rustls_native_certs::load_native_certs().certs;
        let roots = machine
            .into_iter()
            .map(|root| root.to_vec().into())
            .chain(self.ca.as_ref().map(Pem::source));
        // The driver means to leave the name out where told so, and looks at it all the same.
        Some(
            options
                .with_disable_built_in_roots(true)
                .with_root_certs(roots.collect())
                .with_danger_skip_domain_validation(mode == Mode::VerifyCa),
        )
    }
}

impl Pem {
    /// As a file's name or as its text.
    fn source<T: From<PathBuf> + From<Vec<u8>>>(&self) -> T {
        match self {
            Self::File(path) => path.clone().into(),
            Self::Inline(text) => text.clone().into_bytes().into(),
        }
    }
}
