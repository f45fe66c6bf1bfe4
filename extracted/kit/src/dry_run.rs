//! Writes that are asked for and taken back: a copy of a write that somebody else carries out.
//!
//! Owns the field `x-outgrow-dry-run` of a request (`1`) and of its answer (`rolled-back`). A dry run
//! does all that the write does, in the same transaction, which is then rolled back. Every answer of
//! the slice's routes to one says so, those that refuse included: they have written nothing. Refuses
//! any other value, because nobody could say whether it means a write.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderValue};

use crate::answer::Failure;

/// The field of a request, and of its answer.
pub const DRY_RUN_HEADER: &str = "x-outgrow-dry-run";

const ASKED: &[u8] = b"1";
const ROLLED_BACK: HeaderValue = HeaderValue::from_static("rolled-back");

/// Whether this is to be taken back.
///
/// # Errors
/// 400 for a field that is neither missing nor `1`.
pub fn asked(headers: &HeaderMap) -> Result<bool, Failure> {
    let mut values = headers.get_all(DRY_RUN_HEADER).iter();
    match (values.next().map(HeaderValue::as_bytes), values.next()) {
        (None, _) => Ok(false),
        (Some(ASKED), None) => Ok(true),
        _ => Err(Failure::bad_request(format!(
            "{DRY_RUN_HEADER} is `1`, or not there"
        ))),
    }
}

/// Says in the answer that nothing was written. For routes whose writes all go through
/// [`crate::write::Write`].
pub(crate) async fn say_so(request: Request, next: Next) -> Result<Response, Failure> {
    let is_dry = asked(request.headers())?;
    let mut response = next.run(request).await;
    if is_dry {
        response.headers_mut().insert(DRY_RUN_HEADER, ROLLED_BACK);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_a_dry_run() {
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(DRY_RUN_HEADER, HeaderValue::from_static(value));
            }
            asked(&headers).map_err(|failure| failure.status().as_u16())
        };
        assert_eq!(with(&[]), Ok(false));
        assert_eq!(with(&["1"]), Ok(true));
        for values in [&["0"][..], &["true"], &[""], &["1", "1"], &["1, 1"]] {
            assert_eq!(with(values), Err(400), "{values:?}");
        }
    }
}
