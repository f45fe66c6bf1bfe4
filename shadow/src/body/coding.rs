//! Content codings taken off, each within a bound: what grows beyond it is a bomb, and is not
//! unpacked any further.

use std::io::Read;

use brotli_decompressor::Decompressor;
use bytes::Bytes;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use zstd::stream::read::Decoder;

use super::Unreadable;

/// A decoded body, and one of the candidate, is at most this many times the bound of a copied
/// one: an answer that was copied compressed comes plain from a side that does not compress. What
/// grows further is counted as a bomb, and its memory is bounded.
pub(crate) const GROWTH_MAX: usize = 4;

/// Of zstd, as a power of two: more is not allowed on the web (RFC 9659), and is memory.
const WINDOW_LOG_MAX: u32 = 23;

/// Of one body. Each may grow to the bound anew.
const CODINGS_MAX: usize = 8;

/// Takes the content codings off, the last one first (RFC 9110 8.4). `cap` is the bound of a body
/// that is copied.
pub(crate) fn decoded(headers: &HeaderMap, body: &Bytes, cap: usize) -> Result<Bytes, Unreadable> {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let mut codings = Vec::new();
    for value in values {
        let text = value.to_str().map_err(|_| "encoding")?;
        codings.extend(text.split(',').map(|name| name.trim().to_ascii_lowercase()));
    }
    if codings.len() > CODINGS_MAX {
        return Err("encoding");
    }
    let mut body = body.clone();
    for coding in codings.iter().rev() {
        body = plain(coding, &body, cap.saturating_mul(GROWTH_MAX))?;
    }
    Ok(body)
}

/// Takes one coding off.
pub(super) fn plain(coding: &str, body: &Bytes, most: usize) -> Result<Bytes, Unreadable> {
    Ok(match coding {
        "" | "identity" => body.clone(),
        // An empty body has no frame; HEAD and 304 answers name a coding all the same.
        _ if body.is_empty() => body.clone(),
        "gzip" | "x-gzip" => inflate(MultiGzDecoder::new(&**body), most)?,
        // Meant is zlib, but some send the bare stream.
        "deflate" => match inflate(ZlibDecoder::new(&**body), most) {
            Err("broken-encoding") => inflate(DeflateDecoder::new(&**body), most)?,
            other => other?,
        },
        "br" => brotli(body, most)?,
        "zstd" => zstd(body, most)?,
        _ => return Err("encoding"),
    })
}

fn inflate(reader: impl Read, most: usize) -> Result<Bytes, Unreadable> {
    let mut found = Vec::new();
    let one_more = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    reader
        .take(one_more)
        .read_to_end(&mut found)
        .map_err(|_| "broken-encoding")?;
    if found.len() > most {
        return Err("bomb");
    }
    Ok(Bytes::from(found))
}

/// Windows beyond those of RFC 7932, up to a gigabyte, begin with a sign of their own.
fn brotli(body: &Bytes, most: usize) -> Result<Bytes, Unreadable> {
    const LARGE_WINDOW: u8 = 0x11;
    const BUFFER: usize = 4096;
    if body
        .first()
        .is_some_and(|first| first & 0x7f == LARGE_WINDOW)
    {
        return Err("broken-encoding");
    }
    inflate(Decompressor::new(&**body, BUFFER), most)
}

fn zstd(body: &Bytes, most: usize) -> Result<Bytes, Unreadable> {
    let decoder = Decoder::with_buffer(&**body).and_then(|mut decoder| {
        decoder.window_log_max(WINDOW_LOG_MAX)?;
        Ok(decoder)
    });
    inflate(decoder.map_err(|_| "broken-encoding")?, most)
}
