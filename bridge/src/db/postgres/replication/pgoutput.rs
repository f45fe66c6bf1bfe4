//! Decodes the messages of the `pgoutput` plugin, protocols 1 and 2 (PostgreSQL manual, "Logical
//! Replication Message Formats"). Pure; whatever comes in, it answers or says what is wrong.

/// One message.
#[derive(Debug, PartialEq)]
pub(super) enum Message<'a> {
    /// A transaction begins: all of it follows, as it was committed at this time.
    Begin {
        xid: u32,
        micros: i64,
    },
    /// It has ended, and the log goes on behind this place.
    Commit {
        end: u64,
    },
    /// Some of a transaction that runs still follows, up to [`Self::Stop`].
    Start {
        xid: u32,
    },
    Stop,
    /// One that was told of while it ran has ended, as [`Self::Begin`] and [`Self::Commit`] say it.
    Committed {
        xid: u32,
        end: u64,
        micros: i64,
    },
    /// Such a one, or a part of it, is none any more.
    RolledBack {
        xid: u32,
        part: u32,
    },
    /// Said by `pg_logical_emit_message`, in a transaction.
    Said {
        prefix: &'a str,
        text: &'a [u8],
    },
    /// What the columns of a relation's rows are, until it is said again.
    Relation(Relation),
    Row(Row<'a>),
    /// Types, origins, truncations.
    Other,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Relation {
    pub(super) id: u32,
    pub(super) columns: Vec<String>,
    /// Type and modifier of each.
    pub(super) types: Vec<(u32, u32)>,
    /// Its number among all that have come.
    pub(super) came: u64,
}

impl Relation {
    /// Whether the columns that both have are of the same types.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        let columns = self.columns.iter().zip(&self.types);
        columns.into_iter().all(|(name, kind)| {
            let at = other.columns.iter().position(|column| column == name);
            at.and_then(|at| other.types.get(at))
                .is_none_or(|other| other == kind)
        })
    }
}

#[derive(Debug, PartialEq)]
pub(super) struct Row<'a> {
    pub(super) relation: u32,
    /// Whether it was inserted.
    pub(super) fresh: bool,
    /// The row before: whole, or its replica identity. Absent where that did not change.
    pub(super) old: Option<Tuple<'a>>,
    /// Whether that is all of it.
    pub(super) old_whole: bool,
    pub(super) new: Option<Tuple<'a>>,
    /// The bytes of the latter.
    pub(super) told: &'a [u8],
}

pub(super) type Tuple<'a> = Vec<Value<'a>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    /// A large value that an update did not touch, and that is not sent for that reason.
    Unchanged,
    Text(&'a str),
    /// In the form of its type's `send` function, where the stream was asked for that.
    Binary(&'a [u8]),
}

/// What was wrong with a message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the replication stream has {0}")]
pub(super) struct Malformed(&'static str);

/// Decodes one message.
///
/// # Errors
/// When it is cut short, or not of this protocol.
pub(super) fn decode(data: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut from = Reader(data);
    match from.byte()? {
        b'B' => {
            let _end = from.u64()?;
            let (micros, xid) = (from.i64()?, from.u32()?);
            Ok(Message::Begin { xid, micros })
        }
        b'C' => {
            let (_flags, _place) = (from.byte()?, from.u64()?);
            let (end, _micros) = (from.u64()?, from.i64()?);
            Ok(Message::Commit { end })
        }
        b'S' => {
            let (xid, _first) = (from.u32()?, from.byte()?);
            Ok(Message::Start { xid })
        }
        b'E' => Ok(Message::Stop),
        b'c' => {
            let (xid, _flags, _place) = (from.u32()?, from.byte()?, from.u64()?);
            let (end, micros) = (from.u64()?, from.i64()?);
            Ok(Message::Committed { xid, end, micros })
        }
        b'A' => {
            let (xid, part) = (from.u32()?, from.u32()?);
            Ok(Message::RolledBack { xid, part })
        }
        b'M' => {
            let (flags, _place) = (from.byte()?, from.u64()?);
            let (prefix, text) = (from.text()?, sized(&mut from)?);
            // What is said outside of a transaction is said by nobody here.
            Ok(match flags & 1 {
                1 => Message::Said { prefix, text },
                _ => Message::Other,
            })
        }
        b'R' => relation(&mut from).map(Message::Relation),
        b'I' => {
            let relation = from.u32()?;
            from.tag(b'N')?;
            let (new, told) = last(&mut from)?;
            Ok(Message::Row(Row {
                relation,
                fresh: true,
                old: None,
                old_whole: false,
                new,
                told,
            }))
        }
        b'U' => update(&mut from).map(Message::Row),
        b'D' => {
            let relation = from.u32()?;
            let identity = from.byte()?;
            if !matches!(identity, b'K' | b'O') {
                return Err(Malformed("a delete without its key"));
            }
            let old = Some(tuple(&mut from)?);
            Ok(Message::Row(Row {
                relation,
                fresh: false,
                old,
                old_whole: identity == b'O',
                new: None,
                told: &[],
            }))
        }
        b'Y' | b'O' | b'T' => Ok(Message::Other),
        _ => Err(UNKNOWN),
    }
}

const UNKNOWN: Malformed = Malformed("a message of an unknown kind");

/// A message of a transaction that runs.
#[derive(Debug, PartialEq)]
pub(super) struct Inside<'a> {
    /// The part of the transaction, which may be rolled back by itself.
    pub(super) xid: u32,
    /// The message as it would be without that.
    pub(super) kind: u8,
    pub(super) rest: &'a [u8],
    /// The table that it describes.
    pub(super) relation: Option<u32>,
}

/// Takes a message of a transaction that runs apart; `None` where it says nothing that is needed.
///
/// # Errors
/// When it is cut short, or not of this protocol.
pub(super) fn inside(data: &[u8]) -> Result<Option<Inside<'_>>, Malformed> {
    let mut from = Reader(data);
    let kind = from.byte()?;
    match kind {
        b'R' | b'I' | b'U' | b'D' | b'M' => {}
        // The origin says whose it is before all.
        b'Y' | b'T' | b'O' => return Ok(None),
        _ => return Err(UNKNOWN),
    }
    let xid = from.u32()?;
    let rest = from.0;
    let relation = match kind {
        b'R' => Some(from.u32()?),
        _ => None,
    };
    Ok(Some(Inside {
        xid,
        kind,
        rest,
        relation,
    }))
}

/// Whether it ends what is told of a transaction that runs.
pub(super) fn stops(data: &[u8]) -> bool {
    data.first() == Some(&b'E')
}

/// See [`crate::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(data: &[u8]) {
    let _ = decode(data);
    if let Ok(Some(Inside { kind, rest, .. })) = inside(data) {
        let _ = decode(&[&[kind], rest].concat());
    }
}

fn relation(from: &mut Reader<'_>) -> Result<Relation, Malformed> {
    let id = from.u32()?;
    let (_schema, _name) = (from.text()?, from.text()?);
    let _identity = from.byte()?;
    let count = from.u16()?;
    let (mut columns, mut types) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let _flags = from.byte()?;
        columns.push(from.text()?.to_owned());
        types.push((from.u32()?, from.u32()?));
    }
    Ok(Relation {
        id,
        columns,
        types,
        came: 0,
    })
}

fn update<'a>(from: &mut Reader<'a>) -> Result<Row<'a>, Malformed> {
    let relation = from.u32()?;
    let mut old = None;
    let identity = from.byte()?;
    match identity {
        b'K' | b'O' => {
            old = Some(tuple(from)?);
            from.tag(b'N')?;
        }
        b'N' => {}
        _ => return Err(Malformed("an update without its row")),
    }
    let (new, told) = last(from)?;
    Ok(Row {
        relation,
        fresh: false,
        old,
        old_whole: identity == b'O',
        new,
        told,
    })
}

/// The tuple at the end of a message, and its bytes.
fn last<'a>(from: &mut Reader<'a>) -> Result<(Option<Tuple<'a>>, &'a [u8]), Malformed> {
    let bytes = from.0;
    let tuple = tuple(from)?;
    Ok((Some(tuple), &bytes[..bytes.len() - from.0.len()]))
}

/// The values of a tuple's bytes as they come, without a place for all of them.
pub(super) fn each(tuple: &[u8]) -> impl Iterator<Item = Value<'_>> {
    let mut from = Reader(tuple);
    let count = from.u16().unwrap_or(0);
    (0..count).map_while(move |_| value(&mut from).ok())
}

fn tuple<'a>(from: &mut Reader<'a>) -> Result<Tuple<'a>, Malformed> {
    let count = from.u16()?;
    // No more than what is there: each value has a byte at the least.
    let mut values = Vec::with_capacity(usize::from(count).min(from.0.len()));
    for _ in 0..count {
        values.push(value(from)?);
    }
    Ok(values)
}

fn value<'a>(from: &mut Reader<'a>) -> Result<Value<'a>, Malformed> {
    Ok(match from.byte()? {
        b'n' => Value::Null,
        b'u' => Value::Unchanged,
        b't' => Value::Text(std::str::from_utf8(sized(from)?).map_err(|_| NOT_TEXT)?),
        b'b' => Value::Binary(sized(from)?),
        _ => return Err(Malformed("a value of an unknown kind")),
    })
}

/// Bytes behind their length.
fn sized<'a>(from: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let length = from.u32()?;
    from.take(usize::try_from(length).unwrap_or(usize::MAX))
}

const NOT_TEXT: Malformed = Malformed("text that is not UTF-8");

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(Malformed("a message that is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let taken = self.take(N)?;
        taken
            .try_into()
            .map_err(|_| Malformed("a message that is cut short"))
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    fn tag(&mut self, wanted: u8) -> Result<(), Malformed> {
        if self.byte()? == wanted {
            Ok(())
        } else {
            Err(Malformed("a row without its values"))
        }
    }

    /// Up to a zero byte.
    fn text(&mut self) -> Result<&'a str, Malformed> {
        let end = self.0.iter().position(|b| *b == 0);
        let end = end.ok_or(Malformed("a name without an end"))?;
        let taken = self.take(end + 1)?;
        std::str::from_utf8(&taken[..end]).map_err(|_| NOT_TEXT)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows_are_read_with_what_was_before() {
        let insert = b"I\0\0\0\x07N\0\x02t\0\0\0\x015n";
        let five = vec![Value::Text("5"), Value::Null];
        let row = |old, new, told| {
            Message::Row(Row {
                relation: 7,
                fresh: false,
                old,
                old_whole: false,
                new,
                told,
            })
        };
        let inserted = Message::Row(Row {
            relation: 7,
            fresh: true,
            old: None,
            old_whole: false,
            new: Some(five.clone()),
            told: &insert[6..],
        });
        assert_eq!(decode(insert), Ok(inserted));
        assert_eq!(each(&insert[6..]).collect::<Vec<_>>(), five);
        assert_eq!(
            decode(&insert[..insert.len() - 1]),
            Err(Malformed("a message that is cut short"))
        );
        let update = b"U\0\0\0\x07K\0\x02t\0\0\0\x015nN\0\x02t\0\0\0\x016u";
        let six = vec![Value::Text("6"), Value::Unchanged];
        assert_eq!(
            decode(update),
            Ok(row(Some(five.clone()), Some(six), &update[16..]))
        );
        let update = b"U\0\0\0\x07N\0\x02b\0\0\0\x015n";
        let bytes = vec![Value::Binary(b"5"), Value::Null];
        assert_eq!(decode(update), Ok(row(None, Some(bytes), &update[6..])));
        let delete = b"D\0\0\0\x07K\0\x02t\0\0\0\x015n";
        assert_eq!(decode(delete), Ok(row(Some(five.clone()), None, &[])));
        let whole = b"D\0\0\0\x07O\0\x02t\0\0\0\x015n";
        let Ok(Message::Row(deleted)) = decode(whole) else {
            panic!("it is a row");
        };
        assert_eq!((deleted.old, deleted.old_whole), (Some(five), true));
    }

    #[test]
    fn relations_name_their_columns() {
        let text = b"R\0\0\0\x07public\0item\0d\0\x01\x01id\0\0\0\0\x14\xff\xff\xff\xff";
        let columns = vec!["id".to_owned()];
        let types = vec![(20, u32::MAX)];
        assert_eq!(
            decode(text),
            Ok(Message::Relation(Relation {
                id: 7,
                columns,
                types,
                came: 0,
            }))
        );
        assert_eq!(decode(&text[..12]), Err(Malformed("a name without an end")));
        let relation = |columns: &[&str], types: &[(u32, u32)]| Relation {
            id: 7,
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            types: types.to_vec(),
            came: 0,
        };
        let before = relation(&["id", "n"], &[(20, 0), (25, 0)]);
        assert!(relation(&["n", "more"], &[(25, 0), (16, 0)]).agrees(&before));
        assert!(!relation(&["id", "n"], &[(20, 0), (23, 0)]).agrees(&before));
    }

    #[test]
    fn transactions_have_their_ends_and_what_is_said_in_them() {
        let begin = b"B\0\0\0\0\0\0\0\x09\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\x05";
        let (xid, micros) = (5, -1);
        assert_eq!(decode(begin), Ok(Message::Begin { xid, micros }));
        let commit = [b"C\0", &[0; 8][..], &7u64.to_be_bytes(), &[0; 8]].concat();
        assert_eq!(decode(&commit), Ok(Message::Commit { end: 7 }));
        let said = |flags: u8| {
            let text = [b"outgrow\0", &3u32.to_be_bytes()[..], b"own"].concat();
            [b"M", &[flags][..], &[0; 8], &text].concat()
        };
        let (prefix, text) = ("outgrow", &b"own"[..]);
        assert_eq!(decode(&said(1)), Ok(Message::Said { prefix, text }));
        assert_eq!(decode(&said(0)), Ok(Message::Other));
        let start = b"S\0\0\0\x05\x01";
        assert_eq!(decode(start), Ok(Message::Start { xid: 5 }));
        assert_eq!((decode(b"E"), stops(b"E")), (Ok(Message::Stop), true));
        let abort = b"A\0\0\0\x05\0\0\0\x06";
        let rolled_back = Message::RolledBack { xid: 5, part: 6 };
        assert_eq!(decode(abort), Ok(rolled_back));
        let end = 7;
        let ended = [b"c", &5u32.to_be_bytes()[..], &[0; 9], &7u64.to_be_bytes()].concat();
        let ended = [ended, (-1i64).to_be_bytes().to_vec()].concat();
        let committed = Message::Committed { xid, end, micros };
        assert_eq!(decode(&ended), Ok(committed));
        let cut = Err(Malformed("a message that is cut short"));
        for whole in [&begin[..], &commit, &said(1), start, abort, &ended] {
            assert_eq!(decode(&whole[..whole.len() - 1]), cut);
        }
    }

    #[test]
    fn messages_of_a_transaction_that_runs_say_of_which_part() {
        let within = |kind, rest| Inside {
            xid: 6,
            kind,
            rest,
            relation: None,
        };
        let row = b"D\0\0\0\x06\0\0\0\x07K\0\x01n";
        assert_eq!(inside(row), Ok(Some(within(b'D', &row[5..]))));
        let table = b"R\0\0\0\x06\0\0\0\x07public\0item\0d\0\0";
        let described = Inside {
            relation: Some(7),
            ..within(b'R', &table[5..])
        };
        assert_eq!(inside(table), Ok(Some(described)));
        assert_eq!(inside(b"O\0"), Ok(None));
        assert_eq!(inside(b"B\0\0\0\x06"), Err(UNKNOWN));
        let cut = Err(Malformed("a message that is cut short"));
        assert_eq!(
            (inside(b"I\0\0"), inside(&table[..7])),
            (cut, Err(Malformed("a message that is cut short")))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(kind in prop::sample::select(b"BCSEcARIUDYOTMx".to_vec()), rest: Vec<u8>) {
            let mut data = vec![kind];
            data.extend(rest);
            fuzz(&data);
        }
    }
}
