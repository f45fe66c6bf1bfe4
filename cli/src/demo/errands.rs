//! What a shopper may want next: the mix of requests, each with the answers that count as good.
//!
//! Pure: dice in, requests out. Only the crowd sends them.

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};

use super::dice::Dice;
use super::ledger::Kind;

/// Rows that the seeded shop is sure to have.
pub(crate) const PRODUCTS: u64 = 5_000;
pub(crate) const REVIEWS: u64 = 40_000;
/// An id that no row has, nor gets while the demo runs.
const NO_SUCH_ID: u64 = 9_000_000;
/// Products that many look at, as in any shop.
const POPULAR: u64 = 40;
/// Anonymous visitors; many, so that a share of them is close to that share of the traffic.
const VISITORS: u64 = 20_000;

/// One thing a shopper does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Errand {
    Browse,
    Search,
    Look,
    LookAgain,
    LookForGone,
    Categories,
    PriceHistory,
    ReadReviews,
    ReadReview,
    ReadGoneReview,
    FrontPage,
    WhoAmI,
    ChangePrice,
    WriteReview,
    Vote,
    FillCart,
    Order,
    LogIn,
}

/// The mix, in parts of [`PARTS`]; a fifth are writes.
const MIX: [(Errand, u64); 18] = [
    (Errand::Browse, 13),
    (Errand::Search, 5),
    (Errand::Look, 15),
    (Errand::LookAgain, 5),
    (Errand::LookForGone, 3),
    (Errand::Categories, 5),
    (Errand::PriceHistory, 5),
    (Errand::ReadReviews, 14),
    (Errand::ReadReview, 7),
    (Errand::ReadGoneReview, 3),
    (Errand::FrontPage, 2),
    (Errand::WhoAmI, 2),
    (Errand::ChangePrice, 6),
    (Errand::WriteReview, 5),
    (Errand::Vote, 3),
    (Errand::FillCart, 3),
    (Errand::Order, 2),
    (Errand::LogIn, 2),
];

/// The sum of [`MIX`].
const PARTS: u64 = 100;

impl Errand {
    pub(crate) fn choose(dice: &mut Dice) -> Self {
        let mut left = dice.below(PARTS);
        for (errand, parts) in MIX {
            if left < parts {
                return errand;
            }
            left -= parts;
        }
        Self::Browse
    }

    pub(crate) fn is_write(self) -> bool {
        matches!(
            self,
            Self::ChangePrice
                | Self::WriteReview
                | Self::Vote
                | Self::FillCart
                | Self::Order
                | Self::LogIn
        )
    }

    /// What the write leaves in a database, if it leaves something that can be told apart.
    pub(crate) fn kind(self) -> Option<Kind> {
        match self {
            Self::ChangePrice => Some(Kind::Price),
            Self::WriteReview => Some(Kind::Review),
            Self::Vote => Some(Kind::Vote),
            Self::Order => Some(Kind::Order),
            _ => None,
        }
    }

    /// Who does it.
    pub(crate) fn actor(self, dice: &mut Dice) -> Actor {
        match self {
            Self::ChangePrice => Actor::Staff,
            errand if errand.is_write() => Actor::Customer,
            Self::WhoAmI => Actor::Customer,
            _ if dice.percent(65) => Actor::Visitor(dice.below(VISITORS)),
            _ => Actor::Customer,
        }
    }

    /// Whether the shopper got what was to be expected.
    pub(crate) fn is_good(self, status: StatusCode) -> bool {
        match self {
            Self::LookForGone | Self::ReadGoneReview => status == StatusCode::NOT_FOUND,
            Self::LookAgain => status.is_success() || status == StatusCode::NOT_MODIFIED,
            // Whether a page redirects is the shop's affair.
            Self::FrontPage => status.is_success() || status.is_redirection(),
            _ => status.is_success(),
        }
    }
}

/// In whose name a request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Actor {
    Staff,
    Customer,
    Visitor(u64),
}

/// The request of an errand. `token` marks what it writes, `etag` is what [`Errand::LookAgain`]
/// has seen of which product, `user` is who logs in.
///
/// # Errors
/// Never for the parts that the demo uses; the builder's error otherwise.
pub(crate) fn request(
    errand: Errand,
    dice: &mut Dice,
    token: &str,
    seen: Option<&(u64, String)>,
    user: u64,
) -> Result<Request<Bytes>, http::Error> {
    let mut request = Request::builder();
    let mut body: Option<Value> = None;
    let mut method = Method::GET;
    let target = match errand {
        Errand::Browse => browse(dice),
        Errand::Search => format!("/api/products?q={}&per_page=10", word(dice)),
        Errand::Look => format!("/api/products/{}", product(dice)),
        Errand::LookAgain => match seen {
            Some((id, etag)) => {
                request = request.header(header::IF_NONE_MATCH, etag);
                format!("/api/products/{id}")
            }
            None => format!("/api/products/{}", product(dice)),
        },
        Errand::LookForGone => format!("/api/products/{}", NO_SUCH_ID + dice.below(1_000)),
        Errand::Categories => "/api/categories".to_owned(),
        Errand::PriceHistory => format!("/api/products/{}/prices", product(dice)),
        Errand::ReadReviews => {
            format!(
                "/api/products/{}/reviews?page={}",
                product(dice),
                dice.between(1, 2)
            )
        }
        Errand::ReadReview => format!("/api/reviews/{}", dice.between(1, REVIEWS)),
        Errand::ReadGoneReview => format!("/api/reviews/{}", NO_SUCH_ID + dice.below(1_000)),
        Errand::FrontPage => "/".to_owned(),
        Errand::WhoAmI => "/api/me".to_owned(),
        Errand::ChangePrice | Errand::WriteReview | Errand::Vote => {
            let (verb, target, value) = slice_write(errand, dice, token);
            method = verb;
            body = Some(value);
            target
        }
        Errand::FillCart | Errand::Order | Errand::LogIn => {
            let (target, value) = shop_write(errand, dice, token, user);
            method = Method::POST;
            body = Some(value);
            target.to_owned()
        }
    };
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let body = body.map_or_else(Bytes::new, |value| Bytes::from(value.to_string()));
    request
        .method(method)
        .uri(target)
        .header(header::ACCEPT, "application/json")
        .body(body)
}

/// Writes that belong to a slice.
fn slice_write(errand: Errand, dice: &mut Dice, token: &str) -> (Method, String, Value) {
    match errand {
        Errand::ChangePrice => {
            let cents = dice.between(100, 19_999);
            let price = format!("{}.{:02}", cents / 100, cents % 100);
            let target = format!("/api/products/{}/price", product(dice));
            (Method::PUT, target, json!({"price": price, "ref": token}))
        }
        Errand::WriteReview => {
            let target = format!("/api/products/{}/reviews", product(dice));
            let body = format!("{REVIEW_BEGINS}{token}");
            let review = json!({"rating": dice.between(1, 5), "title": token, "body": body});
            (Method::POST, target, review)
        }
        _ => {
            let target = format!("/api/reviews/{}/helpful", dice.between(1, REVIEWS));
            (Method::POST, target, json!({}))
        }
    }
}

/// Writes that stay in the monolith.
fn shop_write(errand: Errand, dice: &mut Dice, token: &str, user: u64) -> (&'static str, Value) {
    match errand {
        Errand::Order => ("/api/checkout", json!({"ref": token})),
        Errand::LogIn => ("/api/login", credentials(user)),
        _ => {
            let line = json!({"product_id": in_stock(dice), "quantity": dice.between(1, 2)});
            ("/api/cart/items", line)
        }
    }
}

/// How the body of a review begins; its token follows.
pub(crate) const REVIEW_BEGINS: &str = "As described, arrived on Tuesday. ";

/// The password rule of the seeded shop.
pub(crate) fn credentials(user: u64) -> Value {
    json!({"email": format!("user{user}@shop.example"), "password": format!("outgrow-{user}")})
}

fn browse(dice: &mut Dice) -> String {
    let sort = dice
        .pick(&["id", "price", "name", "newest"])
        .copied()
        .unwrap_or("id");
    let page = dice.between(1, 5);
    if dice.percent(50) {
        format!(
            "/api/products?category={}&sort={sort}&page={page}",
            dice.between(1, 48)
        )
    } else {
        format!("/api/products?sort={sort}&page={page}&per_page=10")
    }
}

fn product(dice: &mut Dice) -> u64 {
    if dice.percent(20) {
        dice.between(1, POPULAR)
    } else {
        dice.between(1, PRODUCTS)
    }
}

/// Every thousandth product is sold out, and an order of it is refused.
fn in_stock(dice: &mut Dice) -> u64 {
    let id = product(dice);
    if id.is_multiple_of(1_000) { id - 1 } else { id }
}

fn word(dice: &mut Dice) -> &'static str {
    let words = [
        "lamp", "oak", "steel", "chair", "kettle", "shelf", "linen", "bright",
    ];
    dice.pick(&words).copied().unwrap_or("lamp")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_mix_adds_up_and_a_tenth_or_more_are_writes() {
        assert_eq!(MIX.iter().map(|(_, parts)| parts).sum::<u64>(), PARTS);
        let writes: u64 = MIX
            .iter()
            .filter(|(e, _)| e.is_write())
            .map(|(_, parts)| parts)
            .sum();
        assert!(writes * 10 >= PARTS, "{writes} of {PARTS}");
    }

    #[test]
    fn every_errand_comes_up() {
        let mut dice = Dice::new(1, 1);
        let mut seen = HashMap::new();
        for _ in 0..5_000 {
            *seen.entry(Errand::choose(&mut dice)).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), MIX.len(), "{seen:?}");
    }

    #[test]
    fn a_write_carries_its_token() {
        let mut dice = Dice::new(1, 1);
        for errand in [Errand::ChangePrice, Errand::WriteReview, Errand::Order] {
            let request = request(errand, &mut dice, "demo1-x9", None, 5).unwrap();
            assert_ne!(request.method(), Method::GET);
            assert!(String::from_utf8_lossy(request.body()).contains("demo1-x9"));
        }
    }

    #[test]
    fn a_price_is_decimal_text_with_two_places() {
        let mut dice = Dice::new(1, 1);
        for _ in 0..200 {
            let request = request(Errand::ChangePrice, &mut dice, "t", None, 5).unwrap();
            let body: Value = serde_json::from_slice(request.body()).unwrap();
            let (euros, cents) = body["price"].as_str().unwrap().split_once('.').unwrap();
            assert!(
                euros.parse::<u32>().unwrap() >= 1 && cents.len() == 2,
                "{body}"
            );
        }
    }

    #[test]
    fn a_missing_row_is_expected_only_where_it_was_asked_for() {
        assert!(Errand::LookForGone.is_good(StatusCode::NOT_FOUND));
        assert!(!Errand::LookForGone.is_good(StatusCode::OK));
        assert!(!Errand::Look.is_good(StatusCode::NOT_FOUND));
        assert!(!Errand::Vote.is_good(StatusCode::SERVICE_UNAVAILABLE));
        assert!(Errand::LookAgain.is_good(StatusCode::NOT_MODIFIED));
    }

    #[test]
    fn staff_change_prices_and_nobody_writes_anonymously() {
        let mut dice = Dice::new(1, 1);
        for (errand, _) in MIX {
            for _ in 0..50 {
                let actor = errand.actor(&mut dice);
                assert_eq!(actor == Actor::Staff, errand == Errand::ChangePrice);
                assert!(!(errand.is_write() && matches!(actor, Actor::Visitor(_))));
            }
        }
    }
}
