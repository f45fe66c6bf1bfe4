//! Pages of a logged-in customer: cart, checkout, orders.

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::response::Response;
use http::HeaderMap;
use serde::Deserialize;

use super::account::form;
use super::{Frame, check_form, value};
use crate::answer::{self, Stamp};
use crate::checkout::PaymentMethod;
use crate::error::Failure;
use crate::input::{Args, Id};
use crate::session::{COOKIE_NAME, LoggedIn, Visitor};
use crate::shop::Shop;
use crate::{cart, checkout as till, orders as placed, token};
use minijinja::context;

/// `GET /cart`
pub(crate) async fn cart(
    State(shop): State<Shop>,
    stamp: Stamp,
    LoggedIn(user): LoggedIn,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let cart = cart::read(shop.database(), user.user_id).await?;
    let frame = Frame::new(&shop, stamp, Visitor(Some(user)), &headers);
    shop.pages().show("cart.html", &frame, &cart)
}

#[derive(Debug, Deserialize)]
pub(crate) struct AddForm {
    csrf: String,
    product_id: i64,
    quantity: i64,
}

/// `POST /cart/add`
pub(crate) async fn add(
    State(shop): State<Shop>,
    LoggedIn(user): LoggedIn,
    headers: HeaderMap,
    given: Result<Form<AddForm>, FormRejection>,
) -> Result<Response, Failure> {
    let given = form(given)?;
    check_form(&shop, &headers, COOKIE_NAME, &given.csrf)?;
    cart::add(
        shop.database(),
        user.user_id,
        given.product_id,
        given.quantity,
    )
    .await?;
    answer::see_other("/cart")
}

#[derive(Debug, Deserialize)]
pub(crate) struct RemoveForm {
    csrf: String,
    product_id: i64,
}

/// `POST /cart/remove`
pub(crate) async fn remove(
    State(shop): State<Shop>,
    LoggedIn(user): LoggedIn,
    headers: HeaderMap,
    given: Result<Form<RemoveForm>, FormRejection>,
) -> Result<Response, Failure> {
    let given = form(given)?;
    check_form(&shop, &headers, COOKIE_NAME, &given.csrf)?;
    cart::remove(shop.database(), user.user_id, given.product_id).await?;
    answer::see_other("/cart")
}

#[derive(Debug, Deserialize)]
pub(crate) struct CheckoutForm {
    csrf: String,
    payment_method: PaymentMethod,
}

/// `POST /checkout`
pub(crate) async fn checkout(
    State(shop): State<Shop>,
    LoggedIn(user): LoggedIn,
    headers: HeaderMap,
    given: Result<Form<CheckoutForm>, FormRejection>,
) -> Result<Response, Failure> {
    let given = form(given)?;
    check_form(&shop, &headers, COOKIE_NAME, &given.csrf)?;
    let reference = format!("web-{}", token::request_id());
    let receipt = till::buy(
        shop.database(),
        user.user_id,
        reference,
        given.payment_method,
    )
    .await?;
    answer::see_other(&format!("/orders/{}", receipt.order_id))
}

/// `GET /orders`
pub(crate) async fn orders(
    State(shop): State<Shop>,
    stamp: Stamp,
    LoggedIn(user): LoggedIn,
    headers: HeaderMap,
    args: Args,
) -> Result<Response, Failure> {
    let found = placed::of_user(shop.database().readers(), user.user_id, args.page()?).await?;
    let frame = Frame::new(&shop, stamp, Visitor(Some(user)), &headers);
    let body = context! { found => value(&found), more => found.more() };
    shop.pages().show("orders.html", &frame, &body)
}

/// `GET /orders/{id}`
pub(crate) async fn order(
    State(shop): State<Shop>,
    stamp: Stamp,
    LoggedIn(user): LoggedIn,
    headers: HeaderMap,
    id: Id,
) -> Result<Response, Failure> {
    let order = placed::read(shop.database().readers(), &user, id.of("order")?).await?;
    let frame = Frame::new(&shop, stamp, Visitor(Some(user)), &headers);
    shop.pages().show("order.html", &frame, &order)
}
