//! Pages that anybody may read: front page, search, product.

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use minijinja::context;

use super::{Frame, value};
use crate::answer::Stamp;
use crate::catalog::{self, Search};
use crate::error::Failure;
use crate::input::{Args, Id};
use crate::session::Visitor;
use crate::shop::Shop;
use crate::{recommendations, reviews};

/// `GET /`
pub(crate) async fn home(
    State(shop): State<Shop>,
    stamp: Stamp,
    visitor: Visitor,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let pool = shop.database().readers();
    let featured = catalog::featured(pool, stamp.turn()).await?;
    let categories = catalog::all_categories(pool).await?;
    let frame = Frame::new(&shop, stamp, visitor, &headers);
    shop.pages().show(
        "home.html",
        &frame,
        &context! {
            featured => value(&featured),
            categories => value(&categories),
        },
    )
}

/// `GET /products`
pub(crate) async fn products(
    State(shop): State<Shop>,
    stamp: Stamp,
    visitor: Visitor,
    headers: HeaderMap,
    args: Args,
) -> Result<Response, Failure> {
    let search = Search::from_args(&args)?;
    let found = catalog::find(shop.database().readers(), &search, stamp.turn()).await?;
    let body = context! {
        found => value(&found),
        more => found.more(),
        text => search.text,
        category => search.category,
        sort => args.text("sort"),
    };
    shop.pages().show(
        "products.html",
        &Frame::new(&shop, stamp, visitor, &headers),
        &body,
    )
}

/// `GET /products/{id}`: joins catalog, stock, reviews and recommendations.
pub(crate) async fn product(
    State(shop): State<Shop>,
    stamp: Stamp,
    visitor: Visitor,
    headers: HeaderMap,
    id: Id,
) -> Result<Response, Failure> {
    let id = id.of("product")?;
    let pool = shop.database().readers();
    let product = catalog::product(pool, id, stamp.turn()).await?;
    let (on_hand, has_image): (i64, bool) = sqlx::query_as(
        "SELECT coalesce((SELECT on_hand FROM inventory WHERE product_id = ?1), 0), \
         EXISTS (SELECT 1 FROM product_images WHERE product_id = ?1)",
    )
    .bind(id)
    .fetch_one(pool)
    .await?;
    let reviews = reviews::of_product(pool, id, 1).await?;
    let together = recommendations::of_product(&shop, id).await?;
    let frame = Frame::new(&shop, stamp, visitor, &headers);
    let body = context! {
        product => value(&product),
        on_hand,
        has_image,
        reviews => value(&reviews),
        together => value(&together),
    };
    shop.pages().show("product.html", &frame, &body)
}
