//! Connections to a socket of this machine. The URI's host is the socket's path in hexadecimal
//! digits, because a path is no host.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use http::uri::Authority;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tower::Service;

/// Connects by path.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnixDialer;

/// A path as a host.
///
/// # Errors
/// Of a path that is longer than any host, and than any socket's.
pub(super) fn host(path: &Path) -> Result<Authority, String> {
    let bytes = path.as_os_str().as_bytes();
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Authority::try_from(digits).map_err(|error| error.to_string())
}

fn path(host: &str) -> Option<PathBuf> {
    let byte = |at: usize| u8::from_str_radix(host.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..host.len()).step_by(2).map(byte).collect();
    Some(PathBuf::from(OsStr::from_bytes(&bytes?)))
}

impl Service<Uri> for UnixDialer {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let path = uri.host().and_then(path);
        Box::pin(async move {
            let path = path.ok_or(io::ErrorKind::InvalidInput)?;
            UnixStream::connect(path).await.map(TokioIo::new)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_goes_through_a_host() {
        let socket = Path::new("/run/shop é.sock");
        let host = host(socket).unwrap();
        assert_eq!(path(host.host()).unwrap(), socket);
        assert_eq!(path("zz"), None);
        assert_eq!(path("é"), None);
    }
}
