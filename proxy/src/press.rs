//! Compresses a body as it passes: what comes at once is put together, what has come goes on before
//! anybody waits for more, so that streams are as prompt as without.

use std::fmt;
use std::io::{self, Write as _};
use std::task::{Context, Poll};

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::write::GzEncoder;
use http_body::Frame;
use zstd::stream::write::Encoder as ZstdEncoder;
use zstd::zstd_safe::CParameter;

use crate::wire::WireError;

/// Levels at which a byte costs about what it costs to carry it over TLS: higher ones take several
/// times as long for a few percent.
const GZIP_LEVEL: u32 = 4;
const BROTLI_LEVEL: i32 = 4;
const ZSTD_LEVEL: i32 = 3;
/// Of the window, as a power of two. It is memory of every answer on its way, and pages are small.
const WINDOW_LOG: u32 = 18;
/// Compressed bytes that make a part.
const PART: usize = 16 * 1_024;
/// Bytes after which it is another request's turn: less than a millisecond.
const TURN: usize = 32 * 1_024;
/// For the compressor's own steps.
const BUFFER: usize = 4 * 1_024;

/// How content is coded (RFC 9110 section 8.4.1, RFC 7932, RFC 8878).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    Brotli,
    Zstd,
}

impl Coding {
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }
}

enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(ZstdEncoder<'static, Vec<u8>>),
}

impl Encoder {
    fn new(coding: Coding, length: Option<u64>) -> io::Result<Self> {
        let out = Vec::new();
        Ok(match coding {
            Coding::Gzip => Self::Gzip(GzEncoder::new(out, flate2::Compression::new(GZIP_LEVEL))),
            Coding::Brotli => {
                let params = BrotliEncoderParams {
                    quality: BROTLI_LEVEL,
                    lgwin: i32::try_from(WINDOW_LOG).unwrap_or_default(),
                    size_hint: length
                        .and_then(|l| usize::try_from(l).ok())
                        .unwrap_or_default(),
                    ..BrotliEncoderParams::default()
                };
                Self::Brotli(Box::new(CompressorWriter::with_params(
                    out, BUFFER, &params,
                )))
            }
            Coding::Zstd => {
                let mut encoder = ZstdEncoder::new(out, ZSTD_LEVEL)?;
                encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
                Self::Zstd(encoder)
            }
        })
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.write_all(data),
            Self::Brotli(encoder) => encoder.write_all(data),
            Self::Zstd(encoder) => encoder.write_all(data),
        }
    }

    /// All that went in can be read from what comes out.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.flush(),
            Self::Brotli(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }

    fn out(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Brotli(encoder) => Ok(encoder.into_inner()),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// A compressor at work on one body.
pub(crate) struct Press {
    /// `None` at its end.
    encoder: Option<Encoder>,
    /// Something went in that has not come out.
    holds: bool,
    /// Since it was another request's turn.
    taken: usize,
    trailers: Option<Frame<Bytes>>,
}

impl fmt::Debug for Press {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Press").finish_non_exhaustive()
    }
}

type Part = Option<Result<Frame<Bytes>, WireError>>;

impl Press {
    /// `None` where the memory for it cannot be had.
    pub(crate) fn new(coding: Coding, length: Option<u64>) -> Option<Self> {
        Some(Self {
            encoder: Some(Encoder::new(coding, length).ok()?),
            holds: false,
            taken: 0,
            trailers: None,
        })
    }

    /// A body that is there already; `None` leaves it as it is.
    pub(crate) fn whole(mut self, body: &[u8]) -> Option<Bytes> {
        let mut encoder = self.encoder.take()?;
        encoder.write(body).ok()?;
        Some(Bytes::from(encoder.finish().ok()?))
    }

    /// Nothing comes any more.
    pub(crate) fn is_over(&self) -> bool {
        self.encoder.is_none() && self.trailers.is_none()
    }

    /// The next part, of what `next` gives.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut next: impl FnMut(&mut Context<'_>) -> Poll<Part>,
    ) -> Poll<Part> {
        if self.encoder.is_none() {
            return Poll::Ready(self.trailers.take().map(Ok));
        }
        loop {
            if self.taken >= TURN {
                self.taken = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let made = match next(cx) {
                Poll::Pending if !self.holds => return Poll::Pending,
                Poll::Pending => self.flushed(),
                Poll::Ready(Some(Err(error))) => {
                    self.encoder = None;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => return self.end(None),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.data(&data),
                    Err(trailers) => return self.end(Some(trailers)),
                },
            };
            match made {
                Ok(None) => {}
                Ok(Some(part)) => return Poll::Ready(Some(Ok(Frame::data(part)))),
                Err(error) => {
                    self.encoder = None;
                    return Poll::Ready(Some(Err(WireError::from(error))));
                }
            }
        }
    }

    fn data(&mut self, data: &[u8]) -> io::Result<Option<Bytes>> {
        let Some(encoder) = &mut self.encoder else {
            return Ok(None);
        };
        encoder.write(data)?;
        self.holds = true;
        self.taken += data.len();
        let full = encoder.out().len() >= PART;
        Ok(full.then(|| Bytes::from(std::mem::take(encoder.out()))))
    }

    fn flushed(&mut self) -> io::Result<Option<Bytes>> {
        self.holds = false;
        let Some(encoder) = &mut self.encoder else {
            return Ok(None);
        };
        encoder.flush()?;
        let made = std::mem::take(encoder.out());
        Ok((!made.is_empty()).then(|| Bytes::from(made)))
    }

    fn end(&mut self, trailers: Option<Frame<Bytes>>) -> Poll<Part> {
        self.trailers = trailers;
        let Some(encoder) = self.encoder.take() else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(match encoder.finish() {
            Ok(made) => Ok(Frame::data(Bytes::from(made))),
            Err(error) => {
                self.trailers = None;
                Err(WireError::from(error))
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::Read;
    use std::task::Waker;

    use super::*;

    const ALL: [Coding; 3] = [Coding::Gzip, Coding::Brotli, Coding::Zstd];

    /// What can be read of it, also of a beginning.
    fn read(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut reader: Box<dyn Read + '_> = match coding {
            Coding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
            Coding::Brotli => Box::new(brotli::Decompressor::new(bytes, BUFFER)),
            Coding::Zstd => Box::new(zstd::Decoder::new(bytes).unwrap()),
        };
        let (mut found, mut some) = (Vec::new(), [0; 999]);
        while let Ok(n) = reader.read(&mut some) {
            if n == 0 {
                break;
            }
            found.extend_from_slice(&some[..n]);
        }
        found
    }

    #[test]
    fn every_part_can_be_read_before_the_next_one_comes() {
        for coding in ALL {
            let mut press = Press::new(coding, None).unwrap();
            let mut cx = Context::from_waker(Waker::noop());
            let mut come: VecDeque<Bytes> = VecDeque::new();
            let mut seen = Vec::new();
            for text in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
                come.push_back(Bytes::from(text));
                let part = press.poll(&mut cx, |_| match come.pop_front() {
                    Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                    None => Poll::Pending,
                });
                let Poll::Ready(Some(Ok(part))) = part else {
                    panic!("{coding:?}: nothing");
                };
                seen.extend_from_slice(&part.into_data().unwrap());
                assert!(read(coding, &seen).ends_with(text.as_bytes()), "{coding:?}");
                let waits = press.poll(&mut cx, |_| Poll::Pending);
                assert!(waits.is_pending(), "nothing is flushed twice");
            }
            let end = press.poll(&mut cx, |_| Poll::Ready(None));
            let Poll::Ready(Some(Ok(part))) = end else {
                panic!("{coding:?}: no end");
            };
            seen.extend_from_slice(&part.into_data().unwrap());
            assert!(press.is_over());
            assert_eq!(read(coding, &seen), b"data: 1\n\ndata: 2\n\ndata: 3\n\n");
        }
    }

    #[test]
    fn a_long_body_gives_turns_and_comes_whole_with_its_trailers() {
        let word = |n: u32| n.wrapping_mul(2_654_435_761).to_string();
        let body: String = (0..60_000).map(word).collect();
        for coding in ALL {
            let mut press = Press::new(coding, Some(body.len() as u64)).unwrap();
            let mut cx = Context::from_waker(Waker::noop());
            let mut come = body.as_bytes().chunks(10_000);
            let mut trailers = Some(http::HeaderMap::new());
            let (mut seen, mut turns, mut last) = (Vec::new(), 0, false);
            while !press.is_over() {
                let part = press.poll(&mut cx, |_| match come.next() {
                    Some(data) => Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(data))))),
                    None => Poll::Ready(trailers.take().map(|t| Ok(Frame::trailers(t)))),
                });
                match part {
                    Poll::Pending => turns += 1,
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => seen.extend_from_slice(&data),
                        Err(_) => last = true,
                    },
                    Poll::Ready(_) => panic!("{coding:?}: no end"),
                }
            }
            assert!(turns >= body.len() / (TURN + 10_000) - 1, "{turns}");
            assert!(last && seen.len() < body.len());
            assert!(read(coding, &seen) == body.as_bytes(), "{coding:?}");
            let whole = Press::new(coding, None).unwrap().whole(body.as_bytes());
            assert!(
                read(coding, &whole.unwrap()) == body.as_bytes(),
                "{coding:?}"
            );
        }
    }
}
