//! A TCP relay between a program and its server, to cut, stall and mend the network between them.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fair,
    /// Connections end, and new ones do at once.
    Cut,
}

/// A relay on a free loopback port. Dropping it cuts everything.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    /// Where new connections go.
    server: Arc<watch::Sender<SocketAddr>>,
    weather: Arc<watch::Sender<Weather>>,
    /// Connections up to this one are silent for ever, though open.
    lost: Arc<watch::Sender<u64>>,
    made: Arc<watch::Sender<u64>>,
    task: AbortHandle,
}

impl Relay {
    /// # Panics
    /// Panics when there is no free port.
    pub async fn to(server: SocketAddr) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), server).await
    }

    /// As [`Self::to`], at an address of the test's.
    ///
    /// # Panics
    /// Panics when somebody else is there.
    pub async fn at(address: SocketAddr, server: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await;
        let listener = listener.expect("a free loopback port");
        let address = listener.local_addr().expect("it is bound");
        let server = Arc::new(watch::channel(server).0);
        let weather = Arc::new(watch::channel(Weather::Fair).0);
        let lost = Arc::new(watch::channel(0).0);
        let made = Arc::new(watch::channel(0).0);
        let accept = accept(
            listener,
            Arc::clone(&server),
            Arc::clone(&weather),
            Arc::clone(&lost),
            Arc::clone(&made),
        );
        let task = tokio::spawn(accept).abort_handle();
        Self {
            address,
            server,
            weather,
            lost,
            made,
            task,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection and takes no new one.
    pub fn cut(&self) {
        self.weather.send_replace(Weather::Cut);
    }

    /// Takes connections again.
    pub fn mend(&self) {
        self.weather.send_replace(Weather::Fair);
    }

    /// New connections go to another server, as by an address that a fail-over moves.
    pub fn lead_to(&self, server: SocketAddr) {
        self.server.send_replace(server);
    }

    /// Present connections carry nothing any more and do not end, as when the other host has
    /// lost its power; new ones are carried.
    pub fn lose(&self) {
        let made = *self.made.borrow();
        self.lost.send_replace(made);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn accept(
    listener: TcpListener,
    server: Arc<watch::Sender<SocketAddr>>,
    weather: Arc<watch::Sender<Weather>>,
    lost: Arc<watch::Sender<u64>>,
    made: Arc<watch::Sender<u64>>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let number = *made.borrow() + 1;
        made.send_replace(number);
        let (mut weather, lost) = (weather.subscribe(), lost.subscribe());
        if *weather.borrow_and_update() == Weather::Cut {
            continue;
        }
        let server = *server.borrow();
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(server).await else {
                return;
            };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let there = carry(from_client, to_server, lost.clone(), number);
            let back = carry(from_server, to_client, lost, number);
            tokio::select! {
                _ = weather.wait_for(|w| *w == Weather::Cut) => {}
                () = async { tokio::join!(there, back); } => {}
            }
        });
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut lost: watch::Receiver<u64>,
    number: u64,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            biased;
            _ = lost.wait_for(|lost| *lost >= number) => None,
            read = from.read(&mut buffer) => Some(read),
        };
        match read {
            // Open, and silent.
            None => std::future::pending::<()>().await,
            Some(Ok(0) | Err(_)) => break,
            Some(Ok(count)) => {
                if to.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
        }
    }
    let _ = to.shutdown().await;
}
