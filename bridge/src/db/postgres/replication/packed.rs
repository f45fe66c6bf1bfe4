//! Rows of the log as they came, for a target whose columns have the very same types: their values
//! go into arrays without anybody looking at them. Pure.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::logged::Layout;
use super::pgoutput::{self, Value};
use crate::db::postgres::binary::Array;
use crate::db::postgres::wire::Native;
use crate::plan::{Row, Table};

/// A row: the bytes of its tuple, and where the table's columns are in it.
#[derive(Clone, PartialEq)]
pub(crate) struct Packed {
    tuple: Bytes,
    layout: Arc<Layout>,
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its values are nobody's business.
        write!(f, "{} bytes", self.tuple.len())
    }
}

impl Packed {
    pub(super) fn new(tuple: Bytes, layout: Arc<Layout>) -> Self {
        Self { tuple, layout }
    }

    pub(crate) fn size(&self) -> usize {
        self.tuple.len()
    }

    /// The row in the form in which it would be read; `None` where that cannot be told.
    pub(crate) fn row(&self, table: &Table) -> Option<Row> {
        let tuple: Vec<Value<'_>> = pgoutput::each(&self.tuple).collect();
        self.layout.values(table, &tuple)
    }
}

/// The columns of rows as arrays of these types. Each column has its place among those of the
/// source's table. `None` where some row does not have a value in that form.
pub(in crate::db) fn columns(
    rows: &[&Packed],
    types: &[Native],
    places: &[usize],
) -> Option<Vec<Array>> {
    let bytes = rows.iter().map(|row| row.size()).sum::<usize>();
    let room = bytes / types.len().max(1);
    let mut arrays: Vec<Array> = types.iter().map(|of| Array::native(*of, room)).collect();
    let mut of: Option<(&Arc<Layout>, Vec<Option<usize>>)> = None;
    for row in rows {
        let known = of
            .take()
            .filter(|(layout, _)| Arc::ptr_eq(layout, &row.layout));
        let (layout, order) = match known {
            Some(known) => known,
            None => (&row.layout, order(&row.layout, places)?),
        };
        let values = pgoutput::each(&row.tuple).zip(&order);
        for (value, at) in values {
            let Some(array) = at.and_then(|at| arrays.get_mut(at)) else {
                continue;
            };
            match value {
                Value::Binary(bytes) => array.push(Some(bytes)),
                Value::Null => array.push(None),
                Value::Text(_) | Value::Unchanged => return None,
            }
        }
        of = Some((layout, order));
    }
    let whole = arrays.iter().all(|array| array.count() == rows.len());
    whole.then_some(arrays)
}

/// Per column of the log the array that it goes into.
fn order(layout: &Layout, places: &[usize]) -> Option<Vec<Option<usize>>> {
    let mut order = Vec::new();
    for (array, place) in places.iter().enumerate() {
        let at = (*layout.places.get(*place)?)?;
        if order.len() <= at {
            order.resize(at + 1, None);
        }
        order[at] = Some(array);
    }
    Some(order)
}
