//! Which products a list shows, and in what order.
//!
//! Owns the query's parameters, their bounds and the statements made of them. Refuses to put any
//! text of a client into a statement: all of it is bound.

use std::collections::BTreeMap;

use extracted_kit::answer::Failure;
use sqlx::{QueryBuilder, Sqlite};

/// Products on a page unless the client asks for another number.
const PER_PAGE_DEFAULT: i64 = 20;

/// Most products on a page.
const PER_PAGE_MAX: i64 = 100;

/// The order of a list. Ties are broken by id, rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// By id.
    Id,
    /// Cheapest first.
    Price,
    /// By name, byte by byte.
    Name,
    /// Latest first.
    Newest,
}

/// A list as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Only this category.
    pub category: Option<i64>,
    /// Only names that contain this text, whatever the case of its ASCII letters.
    pub text: Option<String>,
    /// The order.
    pub sort: Sort,
    /// From 1.
    pub page: i64,
    /// 1 to 100.
    pub per_page: i64,
}

impl Listing {
    /// Reads the parameters of a query; unknown ones mean nothing here.
    ///
    /// # Errors
    /// 400 when a number is none, or a sort order is unknown.
    pub fn parse(query: &BTreeMap<String, String>) -> Result<Listing, Failure> {
        let given = |name: &str| {
            query
                .get(name)
                .map(String::as_str)
                .filter(|text| !text.is_empty())
        };
        let number = |name: &str| {
            given(name)
                .map(|text| {
                    text.parse::<i64>()
                        .map_err(|_| Failure::bad_request(format!("`{name}` must be a number")))
                })
                .transpose()
        };
        let sort = match given("sort") {
            None | Some("id") => Sort::Id,
            Some("price") => Sort::Price,
            Some("name") => Sort::Name,
            Some("newest") => Sort::Newest,
            Some(_) => {
                return Err(Failure::bad_request(
                    "`sort` must be id, price, name or newest",
                ));
            }
        };
        Ok(Listing {
            category: number("category")?,
            text: given("q").map(str::to_owned),
            sort,
            page: number("page")?.unwrap_or(1).max(1),
            per_page: number("per_page")?
                .unwrap_or(PER_PAGE_DEFAULT)
                .clamp(1, PER_PAGE_MAX),
        })
    }

    /// The statement that counts all products of the list.
    #[must_use]
    pub fn count(&self) -> QueryBuilder<Sqlite> {
        let mut sql = QueryBuilder::new("SELECT COUNT(*) FROM product p");
        self.restrict(&mut sql);
        sql
    }

    /// The statement that reads the page. The page's ids are chosen first, from an index alone, so
    /// that skipped rows cost next to nothing; then the rest is joined to those few.
    #[must_use]
    pub fn select(&self, stale: bool) -> QueryBuilder<Sqlite> {
        let order = self.order(stale);
        let mut sql = QueryBuilder::new("SELECT ");
        sql.push(crate::product::COLUMNS);
        sql.push(" FROM (SELECT p.id AS page_id FROM product p");
        if self.sort == Sort::Price {
            sql.push(" JOIN product_price m ON m.product_id = p.id");
        }
        self.restrict(&mut sql);
        sql.push(" ORDER BY ")
            .push(order)
            .push(" LIMIT ")
            .push_bind(self.per_page);
        sql.push(" OFFSET ")
            .push_bind((self.page - 1).saturating_mul(self.per_page));
        sql.push(") JOIN product p ON p.id = page_id ")
            .push(crate::product::JOINS);
        sql.push(" ORDER BY ").push(order);
        sql
    }

    fn restrict(&self, sql: &mut QueryBuilder<Sqlite>) {
        let mut word = " WHERE ";
        if let Some(category) = self.category {
            sql.push(word).push("p.category_id = ").push_bind(category);
            word = " AND ";
        }
        if let Some(text) = &self.text {
            // SQLite's lower() knows ASCII only, which is what the shop's search has always known.
            sql.push(word)
                .push("instr(lower(p.title), ")
                .push_bind(text.to_ascii_lowercase());
            sql.push(") > 0");
        }
    }

    /// The order, or what becomes of it when it is planted wrong: a forgotten order (rows as they
    /// were last touched), amounts compared as text, ties the wrong way round, the wrong date.
    fn order(&self, stale: bool) -> &'static str {
        match (self.sort, stale) {
            (Sort::Id, false) => "p.id",
            (Sort::Price, false) => "m.amount_cents, m.product_id",
            (Sort::Name, false) => "p.title, p.id",
            (Sort::Newest, false) => "p.created_at DESC, p.id",
            (Sort::Id, true) => "p.updated_at, p.id DESC",
            (Sort::Price, true) => "CAST(m.amount_cents AS TEXT), m.product_id DESC",
            (Sort::Name, true) => "substr(p.title, 1, 1), p.id DESC",
            (Sort::Newest, true) => "p.updated_at DESC, p.id DESC",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &[(&str, &str)]) -> Result<Listing, Failure> {
        let query = query
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Listing::parse(&query)
    }

    #[test]
    fn defaults_and_bounds() {
        let listing = parse(&[]).unwrap();
        assert_eq!(
            (listing.sort, listing.page, listing.per_page),
            (Sort::Id, 1, 20)
        );
        let listing = parse(&[("page", "0"), ("per_page", "101"), ("q", "")]).unwrap();
        assert_eq!(
            (listing.page, listing.per_page, listing.text),
            (1, 100, None)
        );
        for bad in [
            ("page", "x"),
            ("per_page", "1.5"),
            ("category", "all"),
            ("sort", "colour"),
        ] {
            assert_eq!(parse(&[bad]).unwrap_err().status(), 400, "{bad:?}");
        }
    }

    #[test]
    fn a_far_page_does_not_overflow() {
        let listing = parse(&[("page", &i64::MAX.to_string()), ("per_page", "100")]).unwrap();
        assert!(listing.select(false).sql().as_str().contains("OFFSET"));
    }
}
