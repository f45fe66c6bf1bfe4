//! The shop on a real socket: start, answer, orderly end.

use crate::harness::TestShop;
use legacy_monolith::{Options, StartError, serve};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Far longer than anything here takes; reached only by a hang.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    at: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), StartError>>,
}

async fn start(shop: &TestShop) -> Running {
    let (stop, stopped) = oneshot::channel();
    let (ready, bound) = oneshot::channel();
    let options = Options {
        listen: "127.0.0.1:0".parse().unwrap(),
        recommend_every: Some(Duration::from_secs(3600)),
    };
    let shop = shop.shop.clone();
    let task = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        serve(shop, &options, stopped, |at| ready.send(at).unwrap()).await
    });
    let at = timeout(PATIENCE, bound).await.unwrap().unwrap();
    Running { at, stop, task }
}

async fn read_until(connection: &mut TcpStream, what: &str) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = timeout(PATIENCE, connection.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(
            count > 0,
            "closed before {what:?}: {}",
            String::from_utf8_lossy(&text)
        );
        text.extend_from_slice(&buffer[..count]);
        let so_far = String::from_utf8_lossy(&text);
        if so_far.contains(what) {
            return so_far.into_owned();
        }
    }
}

#[tokio::test]
async fn it_answers_on_a_socket_and_finishes_what_it_began() {
    let shop = TestShop::open().await;
    let Running { at, stop, task } = start(&shop).await;
    let mut connection = TcpStream::connect(at).await.unwrap();
    let request = "GET /health HTTP/1.1\r\nhost: shop\r\n\r\n";
    connection.write_all(request.as_bytes()).await.unwrap();
    let answer = read_until(&mut connection, "\"status\":\"ok\"").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("x-build-id: test-build\r\n"), "{answer}");
    // A report is under way when the signal comes: it is sent to its end.
    let request = "GET /reports/sales?pace_ms=5 HTTP/1.1\r\nhost: shop\r\n\r\n";
    connection.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut connection, "sales report").await;
    stop.send(()).unwrap();
    let rest = read_until(&mut connection, "\r\n0\r\n\r\n").await;
    assert!(rest.contains("total    orders="), "{rest}");
    timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(at).await.is_err());
}

#[tokio::test]
async fn the_job_fills_recommendations_by_itself() {
    let shop = TestShop::open().await;
    let Running { stop, task, .. } = start(&shop).await;
    let filled = async {
        // Each question waits for the database's answer, which is pause enough.
        while shop.number("SELECT count(*) FROM recommendations").await == 0 {}
    };
    timeout(PATIENCE, filled).await.unwrap();
    stop.send(()).unwrap();
    timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let shop = TestShop::open().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap();
    let options = Options {
        listen,
        recommend_every: None,
    };
    let error = serve(shop.shop.clone(), &options, std::future::pending(), |_| {})
        .await
        .unwrap_err();
    assert!(error.to_string().contains(&listen.to_string()), "{error}");
}
