//! Pictures of products.
//!
//! Owns `product_images`. Refuses what is no picture: the first bytes must agree with the type
//! that the client declares, so that no script is ever served from the shop's address.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

use crate::answer::{self, Stamp};
use crate::error::Failure;
use crate::input::{self, Id};
use crate::session::Staff;
use crate::shop::Shop;
use crate::{clock, token};

/// The largest picture, in bytes: a product photo of the size that the pages show.
pub(crate) const IMAGE_BYTES_MAX: usize = 1024 * 1024;
const NO_SNIFF: HeaderName = HeaderName::from_static("x-content-type-options");
const TYPES: &str = "an image must be image/png, image/jpeg, image/gif or image/webp";

/// The type of a picture by its first bytes.
fn kind(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => Some("image/webp"),
        _ => None,
    }
}

#[derive(Serialize)]
struct Stored<'a> {
    product_id: i64,
    content_type: &'a str,
    bytes: usize,
    etag: String,
}

/// `PUT /api/products/{id}/image`, the picture as the raw body.
pub(crate) async fn store(
    State(shop): State<Shop>,
    stamp: Stamp,
    _: Staff,
    id: Id,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Failure> {
    let product_id = id.of("product")?;
    let declared = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| {
            value
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase()
        })
        .filter(|value| {
            ["image/png", "image/jpeg", "image/gif", "image/webp"].contains(&value.as_str())
        })
        .ok_or(Failure::UnsupportedType(TYPES))?;
    let bytes = input::body(request, &shop, IMAGE_BYTES_MAX).await?;
    if kind(&bytes) != Some(declared.as_str()) {
        return Err(Failure::Unprocessable(format!("the body is no {declared}")));
    }
    let digest = token::content_digest(&bytes);
    let mut tx = shop.database().write().await?;
    let known: Option<i64> = sqlx::query_scalar("SELECT id FROM products WHERE id = ?")
        .bind(product_id)
        .fetch_optional(&mut *tx)
        .await?;
    known.ok_or(Failure::NotFound("product"))?;
    sqlx::query(
        "INSERT INTO product_images(product_id, content_type, bytes, digest, updated_at) \
         VALUES (?, ?, ?, ?, ?) ON CONFLICT(product_id) DO UPDATE SET \
         content_type = excluded.content_type, bytes = excluded.bytes, \
         digest = excluded.digest, updated_at = excluded.updated_at",
    )
    .bind(product_id)
    .bind(&declared)
    .bind(bytes.as_ref())
    .bind(&digest)
    .bind(clock::now())
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    let etag = format!("\"{digest}\"");
    let stored = Stored {
        product_id,
        content_type: &declared,
        bytes: bytes.len(),
        etag: etag.clone(),
    };
    answer::with_etag(answer::ok(&stamp, &stored)?, &etag)
}

/// `GET /api/products/{id}/image`
pub(crate) async fn show(
    State(shop): State<Shop>,
    id: Id,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let id = id.of("image")?;
    let pool = shop.database().readers();
    let digest: Option<String> =
        sqlx::query_scalar("SELECT digest FROM product_images WHERE product_id = ?")
            .bind(id)
            .fetch_optional(pool)
            .await?;
    let digest = digest.ok_or(Failure::NotFound("image"))?;
    let etag = format!("\"{digest}\"");
    if answer::client_has(&headers, &etag) {
        return answer::not_modified(&etag);
    }
    // Tag and bytes from one row: the picture may have been replaced since the line above.
    let row: Option<(String, Vec<u8>, String)> = sqlx::query_as(
        "SELECT content_type, bytes, digest FROM product_images WHERE product_id = ?",
    )
    .bind(id)
    .fetch_optional(pool)
    .await?;
    let (content_type, bytes, digest) = row.ok_or(Failure::NotFound("image"))?;
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, answer::header(&content_type)?);
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=60"),
    );
    headers.insert(NO_SNIFF, HeaderValue::from_static("nosniff"));
    answer::with_etag(response, &format!("\"{digest}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_known_by_their_first_bytes() {
        assert_eq!(kind(b"\x89PNG\r\n\x1a\nrest"), Some("image/png"));
        assert_eq!(kind(b"\xff\xd8\xff\xe0"), Some("image/jpeg"));
        assert_eq!(kind(b"GIF89a"), Some("image/gif"));
        assert_eq!(kind(b"RIFF\0\0\0\0WEBPVP8 "), Some("image/webp"));
        assert_eq!(kind(b"<svg onload=alert(1)>"), None);
        assert_eq!(kind(b""), None);
    }
}
