//! Events of the row log as MySQL 8 and MariaDB write them. Pure.

use std::borrow::Cow;

use super::gtid::{Gtids, Named, previous};
use super::wire::{Bits, Reader, inflate};

/// MariaDB's mark of a single statement that is its own transaction.
const STANDALONE: u8 = 1;

/// What an event says, so far as it is our business.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// A file begins, or is gone on with: what its events look like.
    Described,
    /// The log goes on in this file.
    Rotate {
        file: String,
        place: u64,
    },
    /// A transaction begins, or one statement if nothing follows that says otherwise.
    Gtid {
        begun: bool,
        named: Named,
    },
    /// All transactions of the files before this one; `None` where they have no names that are known.
    Before(Option<Gtids>),
    Query {
        schema: String,
        text: Cow<'a, [u8]>,
    },
    /// The transaction is committed.
    Commit,
    /// It is prepared, and committed only by another statement; or at once, in one phase.
    Prepared {
        one_phase: bool,
    },
    Map(Mapped<'a>),
    Rows(Rows<'a>),
    /// A whole transaction, compressed; its events follow.
    Payload,
    /// A kind of rows that cannot be read, in words.
    Unreadable(&'static str),
    Other,
}

/// A table that rows are about to be told of.
#[derive(Debug)]
pub(super) struct Mapped<'a> {
    pub(super) id: u64,
    pub(super) schema: String,
    pub(super) table: String,
    rest: Reader<'a>,
}

/// A column as the log describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Logged {
    pub(super) code: u8,
    pub(super) meta: u16,
    /// `None` where the server does not log names.
    pub(super) name: Option<String>,
    pub(super) unsigned: bool,
    /// Of an enum or a set, in the column's own charset.
    pub(super) labels: Vec<Vec<u8>>,
}

/// Rows of one table, of one kind of change.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    pub(super) table: u64,
    /// Columns there are in the rows before the change and after it.
    pub(super) before: Option<Bits<'a>>,
    pub(super) after: Option<Bits<'a>>,
    pub(super) width: usize,
    pub(super) data: Cow<'a, [u8]>,
}

/// One event, without its header and checksum. `None` when it is broken.
pub(super) fn decode(kind: u8, data: &[u8]) -> Option<Event<'_>> {
    let mut left = Reader(data);
    Some(match kind {
        2 => query(left, false)?,
        4 => Event::Rotate {
            place: left.low(8)?,
            file: String::from_utf8_lossy(left.0).into_owned(),
        },
        15 => Event::Described,
        16 => Event::Commit,
        19 => {
            let id = left.low(6)?;
            left.take(2)?;
            Event::Map(Mapped {
                id,
                schema: left.name()?,
                table: left.name()?,
                rest: left,
            })
        }
        26 => Event::Unreadable("a gap (an incident of the server)"),
        23..=25 | 30..=32 => rows(kind, left, false)?,
        38 => Event::Prepared {
            one_phase: left.byte()? != 0,
        },
        39 => Event::Unreadable("parts of JSON documents (`binlog_row_value_options`)"),
        40 => Event::Payload,
        // MySQL's, with a name of its own, without one, and with a tag.
        33 => {
            left.take(1)?;
            let uuid = left.take(16)?.try_into().ok()?;
            let number = left.low(8)?;
            Event::Gtid {
                begun: false,
                named: Named::Unique { uuid, number },
            }
        }
        34 | 42 => Event::Gtid {
            begun: false,
            named: Named::Unknown,
        },
        35 => Event::Before(previous(data)),
        // MariaDB's.
        162 => {
            let number = left.low(8)?;
            let domain = u32::try_from(left.low(4)?).ok()?;
            Event::Gtid {
                begun: left.byte()? & STANDALONE == 0,
                named: Named::Counted { domain, number },
            }
        }
        165 => query(left, true)?,
        166..=168 => rows(kind - 143, left, true)?,
        169..=171 => rows(kind - 139, left, true)?,
        _ => Event::Other,
    })
}

fn query(mut left: Reader<'_>, compressed: bool) -> Option<Event<'_>> {
    left.take(8)?;
    let schema = usize::from(left.byte()?);
    left.take(2)?;
    let status = left.size(2)?;
    left.take(status)?;
    let schema = String::from_utf8_lossy(left.take(schema)?).into_owned();
    left.take(1)?;
    let text = if compressed {
        Cow::Owned(inflate(left.0)?)
    } else {
        Cow::Borrowed(left.0)
    };
    Some(Event::Query { schema, text })
}

/// Kinds 23 to 25 are of the older form, 30 to 32 of the newer: write, update, delete.
fn rows(kind: u8, mut left: Reader<'_>, compressed: bool) -> Option<Event<'_>> {
    let table = left.low(6)?;
    left.take(2)?;
    if kind >= 30 {
        let extra = left.size(2)?.checked_sub(2)?;
        left.take(extra)?;
    }
    let width = left.packed()?;
    let first = left.bits(width)?;
    let (before, after) = match kind {
        23 | 30 => (None, Some(first)),
        24 | 31 => (Some(first), Some(left.bits(width)?)),
        _ => (Some(first), None),
    };
    let data = if compressed {
        Cow::Owned(inflate(left.0)?)
    } else {
        Cow::Borrowed(left.0)
    };
    Some(Event::Rows(Rows {
        table,
        before,
        after,
        width,
        data,
    }))
}

impl Mapped<'_> {
    /// The table's columns. `None` when the event is broken.
    pub(super) fn columns(&self) -> Option<Vec<Logged>> {
        let mut left = self.rest;
        let width = left.packed()?;
        let codes = left.take(width)?;
        let mut metas = Reader(left.counted()?);
        let mut columns = Vec::with_capacity(width);
        for &code in codes {
            let (code, meta) = described(code, &mut metas)?;
            columns.push(Logged {
                code,
                meta,
                name: None,
                unsigned: false,
                labels: Vec::new(),
            });
        }
        left.take(width.div_ceil(8))?;
        while !left.0.is_empty() {
            let kind = left.byte()?;
            let mut value = Reader(left.counted()?);
            match kind {
                1 => signs(&mut columns, value)?,
                4 => {
                    for column in &mut columns {
                        let name = String::from_utf8_lossy(value.counted()?);
                        column.name = Some(name.into_owned());
                    }
                }
                5 => labels(&mut columns, code::SET, value)?,
                6 => labels(&mut columns, code::ENUM, value)?,
                _ => {}
            }
        }
        Some(columns)
    }
}

/// The server's numbers of types.
pub(super) mod code {
    pub(crate) const TINY: u8 = 1;
    pub(crate) const SHORT: u8 = 2;
    pub(crate) const LONG: u8 = 3;
    pub(crate) const FLOAT: u8 = 4;
    pub(crate) const DOUBLE: u8 = 5;
    pub(crate) const NULL: u8 = 6;
    pub(crate) const TIMESTAMP: u8 = 7;
    pub(crate) const LONGLONG: u8 = 8;
    pub(crate) const INT24: u8 = 9;
    pub(crate) const DATE: u8 = 10;
    pub(crate) const TIME: u8 = 11;
    pub(crate) const DATETIME: u8 = 12;
    pub(crate) const YEAR: u8 = 13;
    pub(crate) const NEWDATE: u8 = 14;
    pub(crate) const VARCHAR: u8 = 15;
    pub(crate) const BIT: u8 = 16;
    pub(crate) const TIMESTAMP2: u8 = 17;
    pub(crate) const DATETIME2: u8 = 18;
    pub(crate) const TIME2: u8 = 19;
    pub(crate) const BLOB_COMPRESSED: u8 = 140;
    pub(crate) const VARCHAR_COMPRESSED: u8 = 141;
    pub(crate) const VECTOR: u8 = 242;
    pub(crate) const JSON: u8 = 245;
    pub(crate) const DECIMAL: u8 = 246;
    pub(crate) const ENUM: u8 = 247;
    pub(crate) const SET: u8 = 248;
    pub(crate) const TINY_BLOB: u8 = 249;
    pub(crate) const BLOB: u8 = 252;
    pub(crate) const VAR_STRING: u8 = 253;
    pub(crate) const STRING: u8 = 254;
    pub(crate) const GEOMETRY: u8 = 255;
}

/// A column's real type and what belongs to it: a length, or digits.
fn described(written: u8, metas: &mut Reader<'_>) -> Option<(u8, u16)> {
    let two = |metas: &mut Reader<'_>| u16::try_from(metas.low(2)?).ok();
    Some(match written {
        code::VARCHAR | code::VAR_STRING | code::VARCHAR_COMPRESSED | code::BIT => {
            (written, two(metas)?)
        }
        code::DECIMAL => {
            let (digits, after) = (metas.byte()?, metas.byte()?);
            (written, u16::from_be_bytes([digits, after]))
        }
        code::STRING | code::ENUM | code::SET => {
            // The upper bits of a length beyond 255 are mixed into the type.
            let (real, length) = (metas.byte()?, metas.byte()?);
            if real & 0x30 == 0x30 {
                (real, u16::from(length))
            } else {
                let upper = u16::from((real & 0x30) ^ 0x30) << 4;
                (real | 0x30, u16::from(length) | upper)
            }
        }
        code::BLOB
        | code::TINY_BLOB..=251
        | code::JSON
        | code::GEOMETRY
        | code::VECTOR
        | code::BLOB_COMPRESSED
        | code::FLOAT
        | code::DOUBLE
        | code::TIMESTAMP2
        | code::DATETIME2
        | code::TIME2 => (written, u16::from(metas.byte()?)),
        other => (other, 0),
    })
}

/// One bit a number, the highest first.
fn signs(columns: &mut [Logged], value: Reader<'_>) -> Option<()> {
    let numbers = columns.iter_mut().filter(|column| {
        matches!(
            column.code,
            code::TINY
                | code::SHORT
                | code::INT24
                | code::LONG
                | code::LONGLONG
                | code::DECIMAL
                | code::FLOAT
                | code::DOUBLE
        )
    });
    for (at, column) in numbers.enumerate() {
        column.unsigned = value.0.get(at / 8)? << (at % 8) & 0x80 != 0;
    }
    Some(())
}

fn labels(columns: &mut [Logged], kind: u8, mut value: Reader<'_>) -> Option<()> {
    for column in columns.iter_mut().filter(|column| column.code == kind) {
        let count = value.packed()?;
        for _ in 0..count {
            column.labels.push(value.counted()?.to_vec());
        }
    }
    Some(())
}
