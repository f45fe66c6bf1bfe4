//! What every handler shares, and the list of routes.
//!
//! Owns the order of the layers. Refuses global state: a process can hold several shops.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::extract::FromRef;
use axum::routing::{get, post, put};
use http::HeaderValue;
use std::sync::Arc;
use tokio::sync::Mutex;
use tower_http::catch_panic::CatchPanicLayer;

use crate::database::Database;
use crate::error::{Failure, StartError};
use crate::pages::Pages;
use crate::{
    answer, cart, catalog, checkout, export, health, images, input, orders, pages, recommendations,
    report, reviews, session,
};

/// The shop: database, pages, identity of the build. Clones are cheap and share everything.
#[derive(Debug, Clone)]
pub struct Shop(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    pages: Pages,
    build_id: HeaderValue,
    form_key: Vec<u8>,
    /// Held while recommendations are recomputed: two at once would undo one another.
    recompute: Mutex<()>,
}

impl Shop {
    /// Puts the shop together over a filled database.
    ///
    /// # Errors
    /// A build id that is no header value, a broken template, a database that cannot be read.
    pub async fn new(database: Database, build_id: &str) -> Result<Self, StartError> {
        let build_id = HeaderValue::from_str(build_id)
            .map_err(|_| StartError::BuildId(build_id.to_owned()))?;
        let pages = Pages::new()?;
        let form_key = database.form_key().await?;
        let recompute = Mutex::new(());
        Ok(Self(Arc::new(Inner {
            database,
            pages,
            build_id,
            form_key,
            recompute,
        })))
    }

    pub(crate) fn database(&self) -> &Database {
        &self.0.database
    }

    pub(crate) fn pages(&self) -> &Pages {
        &self.0.pages
    }

    pub(crate) fn build_id(&self) -> &HeaderValue {
        &self.0.build_id
    }

    pub(crate) fn form_key(&self) -> &[u8] {
        &self.0.form_key
    }

    pub(crate) fn recompute_lock(&self) -> &Mutex<()> {
        &self.0.recompute
    }

    /// The whole shop as one service.
    pub fn router(&self) -> Router {
        Router::new()
            .merge(api())
            .merge(back_office())
            .merge(html())
            .fallback(async || Failure::NoSuchPage)
            .method_not_allowed_fallback(async || Failure::MethodNotAllowed)
            .layer(DefaultBodyLimit::max(input::BODY_BYTES_MAX))
            // Inside the stamp, so that the page of a panic has a request id too.
            .layer(CatchPanicLayer::custom(answer::panicked))
            // Outermost, so that no answer leaves without stamp and build id.
            .layer(axum::middleware::from_fn_with_state(
                self.clone(),
                answer::finish,
            ))
            .with_state(self.clone())
    }
}

impl FromRef<Shop> for Database {
    fn from_ref(shop: &Shop) -> Self {
        shop.database().clone()
    }
}

fn api() -> Router<Shop> {
    let image = get(images::show)
        .merge(put(images::store).layer(DefaultBodyLimit::max(images::IMAGE_BYTES_MAX)));
    Router::new()
        .route("/api/products", get(catalog::list))
        .route("/api/products/{id}", get(catalog::detail))
        .route("/api/products/{id}/price", put(catalog::change_price))
        .route("/api/products/{id}/prices", get(catalog::price_history))
        .route(
            "/api/products/{id}/reviews",
            get(reviews::list).post(reviews::create),
        )
        .route("/api/products/{id}/image", image)
        .route("/api/categories", get(catalog::categories))
        .route("/api/reviews/{id}", get(reviews::detail))
        .route("/api/reviews/{id}/helpful", post(reviews::helpful))
        .route("/api/recommendations/{id}", get(recommendations::show))
        .route("/api/login", post(session::login))
        .route("/api/logout", post(session::logout))
        .route("/api/me", get(session::me))
        .route("/api/cart", get(cart::show))
        .route("/api/cart/items", post(cart::add_item))
        .route("/api/checkout", post(checkout::checkout))
        .route("/api/orders", get(orders::list))
        .route("/api/orders/{id}", get(orders::detail))
}

fn back_office() -> Router<Shop> {
    Router::new()
        .route("/health", get(health::health))
        .route("/export/orders.csv", get(export::orders_csv))
        .route("/reports/sales", get(report::sales))
        .route(
            "/admin/recommendations/recompute",
            post(recommendations::recompute_now),
        )
        .route("/admin/orders/{id}/ship", post(orders::ship))
}

fn html() -> Router<Shop> {
    Router::new()
        .route("/", get(pages::browse::home))
        .route("/products", get(pages::browse::products))
        .route("/products/{id}", get(pages::browse::product))
        .route(
            "/login",
            get(pages::account::login_form).post(pages::account::login),
        )
        .route("/logout", post(pages::account::logout))
        .route("/cart", get(pages::buying::cart))
        .route("/cart/add", post(pages::buying::add))
        .route("/cart/remove", post(pages::buying::remove))
        .route("/checkout", post(pages::buying::checkout))
        .route("/orders", get(pages::buying::orders))
        .route("/orders/{id}", get(pages::buying::order))
}
