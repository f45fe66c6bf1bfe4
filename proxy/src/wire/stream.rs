//! The socket below a connection: TCP, with or without TLS, or a Unix socket of this machine.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};
use tokio_rustls::client::TlsStream;

use crate::upstreams::address::{Address, Route};

/// A socket.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Its reading half.
#[derive(Debug)]
pub(super) enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    Tls(tokio::io::ReadHalf<Box<TlsStream<TcpStream>>>),
}

/// Its writing half.
#[derive(Debug)]
pub(super) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
    Tls(tokio::io::WriteHalf<Box<TlsStream<TcpStream>>>),
}

impl Stream {
    pub(crate) async fn connect(to: &Address) -> io::Result<Self> {
        let stream = match to.route() {
            Route::Socket(at) => TcpStream::connect(at).await?,
            Route::Name(name) => TcpStream::connect(name).await?,
            Route::Unix(path) => return UnixStream::connect(path).await.map(Self::Unix),
        };
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// Whether the other side is there and has said nothing. Costs no system call unless something
    /// has come.
    pub(super) fn is_quiet(&mut self) -> bool {
        let waits = |tried: io::Result<usize>| {
            tried.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        match self {
            Self::Tcp(stream) => waits(stream.try_read(&mut [0])),
            Self::Unix(stream) => waits(stream.try_read(&mut [0])),
            // What TLS says for itself (tickets for the next handshake) is taken on the way.
            Self::Tls(stream) => {
                let cx = &mut Context::from_waker(Waker::noop());
                let mut byte = [0];
                let mut into = ReadBuf::new(&mut byte);
                Pin::new(&mut **stream)
                    .poll_read(cx, &mut into)
                    .is_pending()
            }
        }
    }

    pub(super) fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
            Self::Tls(stream) => {
                let (read, write) = tokio::io::split(stream);
                (ReadHalf::Tls(read), WriteHalf::Tls(write))
            }
        }
    }
}

impl WriteHalf {
    /// Drops it without an end of what is written.
    pub(super) fn forget(self) {
        match self {
            Self::Tcp(half) => half.forget(),
            Self::Unix(half) => half.forget(),
            Self::Tls(half) => drop(half),
        }
    }
}

macro_rules! reads {
    ($of:ident) => {
        impl AsyncRead for $of {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                into: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Tcp(io) => Pin::new(io).poll_read(cx, into),
                    Self::Unix(io) => Pin::new(io).poll_read(cx, into),
                    Self::Tls(io) => Pin::new(io).poll_read(cx, into),
                }
            }
        }
    };
}

macro_rules! writes {
    ($of:ident) => {
        impl AsyncWrite for $of {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                from: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    Self::Tcp(io) => Pin::new(io).poll_write(cx, from),
                    Self::Unix(io) => Pin::new(io).poll_write(cx, from),
                    Self::Tls(io) => Pin::new(io).poll_write(cx, from),
                }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                from: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    Self::Tcp(io) => Pin::new(io).poll_write_vectored(cx, from),
                    Self::Unix(io) => Pin::new(io).poll_write_vectored(cx, from),
                    Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, from),
                }
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    // Sockets keep nothing back.
                    Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
                    Self::Tls(io) => Pin::new(io).poll_flush(cx),
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    Self::Tcp(io) => Pin::new(io).poll_shutdown(cx),
                    Self::Unix(io) => Pin::new(io).poll_shutdown(cx),
                    Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
                }
            }
        }
    };
}

reads!(Stream);
reads!(ReadHalf);
writes!(Stream);
writes!(WriteHalf);
