//! The crowd: shoppers with cookies who never pause, from the first step to the last.
//!
//! Pacing is open-loop: request number n is due at n / rate whatever happened to those before,
//! so a shop that stalls is asked no less, and what piles up shows in the latencies. The number
//! of shoppers bounds the connections, and with them the requests under way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, Request};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dice::Dice;
use super::errands::{self, Actor, Errand};
use super::http::{Connection, Reply};
use super::ledger::{Kind, Ledger};

/// Enough that the writes of a two-second hold all wait with a shopper of their own (at the
/// default rate some 30 a second belong to slices), and reads go on beside them.
const SHOPPERS: u64 = 160;
/// The seeded shop's first users are its staff.
const STAFF_MAX: u64 = 20;

/// Shoppers at work. Dropping it stops them in the middle; [`Crowd::leave`] lets each finish.
#[derive(Debug)]
pub(crate) struct Crowd {
    shoppers: JoinSet<()>,
    stop: CancellationToken,
}

impl Crowd {
    /// Logs everybody in and starts the traffic at `rate` requests per second.
    ///
    /// # Errors
    /// When a shopper cannot log in.
    pub(crate) async fn open(
        shop: SocketAddr,
        rate: u32,
        seed: u64,
        ledger: &Arc<Ledger>,
    ) -> anyhow::Result<Self> {
        let mut arriving = JoinSet::new();
        for number in 0..SHOPPERS {
            let ledger = Arc::clone(ledger);
            arriving.spawn(Shopper::arrive(shop, seed, number, ledger));
        }
        let mut crowd = Vec::new();
        while let Some(shopper) = arriving.join_next().await {
            crowd.push(shopper.context("a shopper's task broke")??);
        }
        let stop = CancellationToken::new();
        let clock = Arc::new(Pace::new(rate));
        let mut shoppers = JoinSet::new();
        for shopper in crowd {
            shoppers.spawn(shopper.shop(Arc::clone(&clock), stop.clone()));
        }
        Ok(Self { shoppers, stop })
    }

    /// Ends the traffic; every request under way is finished first.
    ///
    /// # Errors
    /// When a shopper's task panicked: what it knew of its last write is lost then.
    pub(crate) async fn leave(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.shoppers.join_next().await {
            ended.context("a shopper's task broke")?;
        }
        Ok(())
    }
}

/// When each request is due.
#[derive(Debug)]
struct Pace {
    start: Instant,
    between: Duration,
    next: AtomicU64,
}

impl Pace {
    fn new(rate: u32) -> Self {
        Self {
            start: Instant::now(),
            between: Duration::from_secs(1) / rate.max(1),
            next: AtomicU64::new(0),
        }
    }

    /// Takes the next request and says when it is due.
    fn take(&self) -> Instant {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(self.between.as_nanos()).unwrap_or(u64::MAX);
        self.start + Duration::from_nanos(nanos.saturating_mul(number))
    }
}

/// Cookies of one browser.
#[derive(Debug, Clone, Default)]
struct Jar(BTreeMap<String, String>);

impl Jar {
    fn keep(&mut self, headers: &HeaderMap) {
        for value in headers
            .get_all(SET_COOKIE)
            .iter()
            .filter_map(|v| v.to_str().ok())
        {
            let pair = value.split(';').next().unwrap_or_default();
            if let Some((name, value)) = pair.split_once('=') {
                self.0
                    .insert(name.trim().to_owned(), value.trim().to_owned());
            }
        }
    }

    fn header(&self) -> Option<HeaderValue> {
        if self.0.is_empty() {
            return None;
        }
        let pairs: Vec<String> = self
            .0
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        HeaderValue::try_from(pairs.join("; ")).ok()
    }
}

#[derive(Debug)]
struct Shopper {
    ledger: Arc<Ledger>,
    dice: Dice,
    connection: Connection,
    user: u64,
    own: Jar,
    staff: Jar,
    /// A product whose ETag this shopper knows.
    seen: Option<(u64, String)>,
    /// Whether something lies in the cart, so that an order is possible.
    cart_filled: bool,
}

impl Shopper {
    async fn arrive(
        shop: SocketAddr,
        seed: u64,
        number: u64,
        ledger: Arc<Ledger>,
    ) -> anyhow::Result<Self> {
        let mut shopper = Self {
            ledger,
            dice: Dice::new(seed, number),
            connection: Connection::new(shop),
            user: STAFF_MAX + 1 + number,
            own: Jar::default(),
            staff: Jar::default(),
            seen: None,
            cart_filled: false,
        };
        let user = shopper.user;
        shopper.own = shopper.log_in(user).await?;
        shopper.staff = shopper.log_in(1 + number % STAFF_MAX).await?;
        Ok(shopper)
    }

    async fn log_in(&mut self, user: u64) -> anyhow::Result<Jar> {
        let request = errands::request(Errand::LogIn, &mut self.dice, "", None, user)?;
        let begun = Instant::now();
        let reply = self.connection.send(request).await;
        let failure = match &reply {
            Ok(reply) if reply.status.is_success() => None,
            Ok(reply) => Some(format!(
                "POST /api/login: {} {}",
                reply.status,
                reply.excerpt()
            )),
            Err(why) => Some(format!("POST /api/login: {why}")),
        };
        self.ledger.request(true, begun.elapsed(), failure.clone());
        if let Some(failure) = failure {
            bail!("user {user} cannot log in: {failure}");
        }
        let mut jar = Jar::default();
        if let Ok(reply) = reply {
            jar.keep(&reply.headers);
        }
        Ok(jar)
    }

    async fn shop(mut self, pace: Arc<Pace>, stop: CancellationToken) {
        loop {
            let due = pace.take();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(due) => {}
            }
            let errand = Errand::choose(&mut self.dice);
            self.run(errand).await;
        }
    }

    async fn run(&mut self, wanted: Errand) {
        // Who has an empty cart fills it first.
        let errand = match wanted {
            Errand::Order if !self.cart_filled => Errand::FillCart,
            other => other,
        };
        let token = errand.kind().map(|kind| (kind, self.ledger.attempt(kind)));
        let text = token.as_ref().map_or("", |(_, token)| token.as_str());
        let seen = self.seen.as_ref();
        let Ok(mut request) = errands::request(errand, &mut self.dice, text, seen, self.user)
        else {
            return;
        };
        let actor = errand.actor(&mut self.dice);
        self.sign(actor, &mut request);
        let (method, target) = (request.method().clone(), request.uri().to_string());
        let begun = Instant::now();
        let reply = self.connection.send(request).await;
        let failure = verdict(errand, &method, &target, &reply);
        if let (None, Some((kind, token))) = (&failure, &token) {
            self.ledger.acknowledge(*kind, token);
        }
        self.ledger
            .request(errand.is_write(), begun.elapsed(), failure.clone());
        if let (None, Ok(reply)) = (failure, reply) {
            self.learn(errand, actor, &target, &reply);
        }
    }

    fn sign(&self, actor: Actor, request: &mut Request<Bytes>) {
        let jar = match actor {
            Actor::Staff => &self.staff,
            Actor::Customer => &self.own,
            Actor::Visitor(visitor) => {
                if let Ok(name) = HeaderValue::try_from(format!("visitor-{visitor}")) {
                    request.headers_mut().insert("x-visitor", name);
                }
                return;
            }
        };
        if let Some(cookies) = jar.header() {
            request.headers_mut().insert(COOKIE, cookies);
        }
    }

    fn learn(&mut self, errand: Errand, actor: Actor, target: &str, reply: &Reply) {
        match actor {
            Actor::Staff => self.staff.keep(&reply.headers),
            Actor::Customer => self.own.keep(&reply.headers),
            Actor::Visitor(_) => {}
        }
        match errand {
            Errand::FillCart => self.cart_filled = true,
            Errand::Order => self.cart_filled = false,
            Errand::Look => {
                let id = target.rsplit('/').next().and_then(|id| id.parse().ok());
                let etag = reply
                    .headers
                    .get(http::header::ETAG)
                    .and_then(|v| v.to_str().ok());
                if let (Some(id), Some(etag)) = (id, etag) {
                    self.seen = Some((id, etag.to_owned()));
                }
            }
            _ => {}
        }
    }
}

/// `None` if the shopper got what was to be expected, else what broke.
fn verdict(
    errand: Errand,
    method: &Method,
    target: &str,
    reply: &Result<Reply, String>,
) -> Option<String> {
    match reply {
        Ok(reply) if errand.is_good(reply.status) => None,
        Ok(reply) => {
            let side = reply
                .headers
                .get("x-build-id")
                .and_then(|v| v.to_str().ok());
            let side = side.unwrap_or("no build");
            Some(format!(
                "{method} {target}: {} from {side}: {}",
                reply.status,
                reply.excerpt()
            ))
        }
        Err(why) => Some(format!("{method} {target}: {why}")),
    }
}

/// Sum of all votes as the ledger knows them: at least and at most.
pub(crate) fn votes(ledger: &Ledger) -> (u64, u64) {
    let claims = ledger.claims(Kind::Vote);
    let sure = claims.acknowledged.len() as u64;
    (sure, sure + claims.in_doubt.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::Response;
    use outgrow_testkit::{Upstream, eventually};

    use super::*;

    /// A shop of three lines: logs everybody in, answers as `status` says.
    async fn shop(status: fn(&str) -> u16) -> Upstream {
        Upstream::start(move |request| async move {
            let mut answer = Response::new(Bytes::from_static(b"{}"));
            if request.uri().path() == "/api/login" {
                answer
                    .headers_mut()
                    .insert(SET_COOKIE, HeaderValue::from_static("sid=abc; Path=/"));
                return answer;
            }
            let path = request.uri().path();
            let gone = path.contains("/9000");
            *answer.status_mut() = if gone { 404 } else { status(path) }.try_into().unwrap();
            answer
        })
        .await
    }

    #[tokio::test]
    async fn a_good_shop_sees_every_shopper_and_nothing_fails() {
        let shop = shop(|_| 200).await;
        let ledger = Arc::new(Ledger::new(3));
        let crowd = Crowd::open(shop.addr(), 2_000, 3, &ledger).await.unwrap();
        eventually("requests", Duration::from_secs(20), || async {
            (ledger.counts().requests > 1_500).then_some(())
        })
        .await;
        crowd.leave().await.unwrap();
        let counts = ledger.counts();
        assert_eq!((counts.failed, ledger.failures()), (0, Vec::new()));
        assert!(counts.writes * 10 >= counts.requests, "{counts:?}");
        assert!(ledger.claims(Kind::Price).in_doubt.is_empty());
        let seen = shop.seen();
        assert_eq!(
            seen.len() as u64,
            counts.requests,
            "the ledger has every request"
        );
        assert!(
            seen.iter()
                .filter(|s| s.method == Method::PUT)
                .all(|s| s.header("cookie") == Some("sid=abc"))
        );
        assert!(seen.iter().any(|s| s.header("x-visitor").is_some()));
    }

    #[tokio::test]
    async fn a_refused_write_fails_and_stays_in_doubt() {
        let shop = shop(|path| if path.ends_with("/price") { 503 } else { 200 }).await;
        let ledger = Arc::new(Ledger::new(3));
        let crowd = Crowd::open(shop.addr(), 2_000, 3, &ledger).await.unwrap();
        eventually("a failure", Duration::from_secs(20), || async {
            (ledger.counts().failed > 3).then_some(())
        })
        .await;
        crowd.leave().await.unwrap();
        let claims = ledger.claims(Kind::Price);
        assert!(claims.acknowledged.is_empty());
        assert_eq!(claims.in_doubt.len() as u64, ledger.counts().failed);
        assert!(
            ledger.failures()[0].contains("/price: 503"),
            "{:?}",
            ledger.failures()
        );
    }

    #[tokio::test]
    async fn a_shop_that_lets_nobody_in_is_an_error() {
        let shop = Upstream::always(500, "closed").await;
        let ledger = Arc::new(Ledger::new(3));
        let error = Crowd::open(shop.addr(), 10, 3, &ledger).await.unwrap_err();
        assert!(error.to_string().contains("cannot log in"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_due_in_open_loop() {
        let pace = Pace::new(250);
        let times = Mutex::new(Vec::new());
        for _ in 0..3 {
            times.lock().unwrap().push(pace.take() - pace.start);
        }
        let expected = [0, 4, 8].map(Duration::from_millis);
        assert_eq!(*times.lock().unwrap(), expected);
    }

    #[test]
    fn cookies_are_kept_by_name() {
        let mut headers = HeaderMap::new();
        headers.append(
            SET_COOKIE,
            HeaderValue::from_static("sid=1; HttpOnly; Path=/"),
        );
        headers.append(SET_COOKIE, HeaderValue::from_static("cohort=x"));
        let mut jar = Jar::default();
        assert_eq!(jar.header(), None);
        jar.keep(&headers);
        headers.insert(SET_COOKIE, HeaderValue::from_static("sid=2"));
        jar.keep(&headers);
        assert_eq!(jar.header().unwrap(), "cohort=x; sid=2");
    }
}
