//! The shop's two slices on both sides, their mapping, a writer of random changes for either
//! side, and a differ in plain SQL.

use std::time::{Duration, SystemTime};

use outgrow_bridge::{Cell, ColumnSpec, Limits, Link, LinkSpec, Source, TableSpec};
use outgrow_rollout::{DataPhase, Side, SliceId};
use outgrow_testkit::{TempDatabase, eventually};
use sqlx::{AssertSqlSafe, SqlitePool};

pub(crate) const WAIT: Duration = Duration::from_secs(30);

const LEGACY: &str = "
create table categories(id integer primary key, name text not null, parent_id integer references categories(id), position integer not null);
create table products(id integer primary key autoincrement, sku text not null unique, name text not null, description text, price text not null, currency text not null, category_id integer not null references categories(id), status text not null, featured text not null, tags text not null, weight_g integer, created_at text not null, updated_at text not null);
create table price_changes(id integer primary key autoincrement, product_id integer not null references products(id), old_price text not null, new_price text not null, changed_by integer not null, ref text not null, changed_at text not null);
create table reviews(id integer primary key autoincrement, product_id integer not null, user_id integer not null, author text not null, rating integer not null, title text not null, body text not null, status text not null, helpful integer not null default 0, reply text, created_at text not null);
";

const CATALOG: &str = "
create table category(id integer primary key, label text not null, parent_id integer references category(id), sort_order integer not null);
create table product(id integer primary key autoincrement, sku text not null unique, title text not null, description text, category_id integer not null references category(id), state text not null check (state in ('active','discontinued','seasonal')), is_featured integer not null, labels text not null, weight_g integer, created_at text not null, updated_at text not null);
create table product_price(product_id integer primary key references product(id), amount_cents integer not null, currency text not null);
create table price_change(id integer primary key autoincrement, product_id integer not null references product(id), old_cents integer not null, new_cents integer not null, staff_id integer not null, ref text not null, changed_at text not null);
";

const REVIEWS: &str = "
create table review(id integer primary key autoincrement, product_id integer not null, author_id integer not null, author_name text not null, stars integer not null, state text not null check (state in ('pending','approved','rejected')), helpful_count integer not null default 0, posted_at text not null);
create table review_text(review_id integer primary key references review(id), headline text not null, content text not null, staff_reply text);
";

/// Both sides of the shop.
#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) legacy: TempDatabase,
    pub(crate) catalog: TempDatabase,
    pub(crate) reviews: TempDatabase,
}

impl Shop {
    /// A shop with this many products, each with a price change and a review.
    pub(crate) async fn with(products: u32) -> Self {
        let shop = Self {
            legacy: TempDatabase::with(LEGACY).await,
            catalog: TempDatabase::with(CATALOG).await,
            reviews: TempDatabase::with(REVIEWS).await,
        };
        shop.legacy.execute(&seed(products)).await;
        shop
    }

    pub(crate) fn catalog_spec(&self) -> LinkSpec {
        LinkSpec {
            slice: SliceId::new("catalog").unwrap(),
            legacy: self.legacy.url().parse().unwrap(),
            extracted: self.catalog.url().parse().unwrap(),
            tables: catalog_tables(),
            writes: outgrow_bridge::Writes::One,
            limits: quick(),
        }
    }

    pub(crate) fn reviews_spec(&self) -> LinkSpec {
        LinkSpec {
            slice: SliceId::new("reviews").unwrap(),
            legacy: self.legacy.url().parse().unwrap(),
            extracted: self.reviews.url().parse().unwrap(),
            tables: review_tables(),
            writes: outgrow_bridge::Writes::One,
            limits: quick(),
        }
    }

    /// A catalog link that has copied everything and follows.
    pub(crate) async fn following(&self) -> Link {
        let link = Link::open(self.catalog_spec()).await.unwrap();
        link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
        copied(&link).await;
        link
    }

    /// Rows of the catalog that are not on both sides. Zero means that the sides are equal.
    pub(crate) async fn catalog_differences(&self) -> i64 {
        differences(
            self.legacy.pool(),
            &self.catalog,
            &[
                (
                    "select id, name, parent_id, position from main.categories",
                    "select id, label, parent_id, sort_order from other.category",
                ),
                (
                    "select id, sku, name, description, cast(replace(price, '.', '') as integer), currency, category_id,
                     case status when 'A' then 'active' when 'D' then 'discontinued' when 'S' then 'seasonal' end,
                     featured = 'Y', tags, weight_g, strftime('%Y-%m-%dT%H:%M:%SZ', created_at, '-1 hour'),
                     strftime('%Y-%m-%dT%H:%M:%SZ', updated_at, '-1 hour') from main.products",
                    "select id, sku, title, description, amount_cents, currency, category_id, state, is_featured,
                     labels, weight_g, created_at, updated_at from other.product left join other.product_price on product_id = id",
                ),
                (
                    "select id, product_id, cast(replace(old_price, '.', '') as integer), cast(replace(new_price, '.', '') as integer),
                     changed_by, ref, strftime('%Y-%m-%dT%H:%M:%SZ', changed_at, '-1 hour') from main.price_changes",
                    "select id, product_id, old_cents, new_cents, staff_id, ref, changed_at from other.price_change",
                ),
            ],
        )
        .await
    }

    /// As [`Self::catalog_differences`], of the reviews.
    pub(crate) async fn review_differences(&self) -> i64 {
        differences(
            self.legacy.pool(),
            &self.reviews,
            &[(
                "select id, product_id, user_id, author, rating, title, body,
                 case status when 'A' then 'approved' when 'P' then 'pending' when 'R' then 'rejected' end,
                 helpful, reply, strftime('%Y-%m-%dT%H:%M:%SZ', created_at, '-1 hour') from main.reviews",
                "select id, product_id, author_id, author_name, stars, headline, content, state, helpful_count,
                 staff_reply, posted_at from other.review left join other.review_text on review_id = id",
            )],
        )
        .await
    }

    pub(crate) async fn catalog_equal(&self) {
        eventually("both sides of the catalog to be equal", WAIT, || async {
            (self.catalog_differences().await == 0).then_some(())
        })
        .await;
    }
}

async fn differences(pool: &SqlitePool, other: &TempDatabase, pairs: &[(&str, &str)]) -> i64 {
    let mut connection = pool.acquire().await.unwrap();
    let run = |text: String| sqlx::query(AssertSqlSafe(text));
    let attach = format!("attach '{}' as other", other.path().display());
    run(attach).execute(&mut *connection).await.unwrap();
    let mut found = 0;
    for (legacy, extracted) in pairs {
        let text = format!(
            "select (select count(*) from ({legacy} except {extracted})) + (select count(*) from ({extracted} except {legacy}))"
        );
        let some: i64 = sqlx::query_scalar(AssertSqlSafe(text))
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        found += some;
    }
    run("detach other".to_owned())
        .execute(&mut *connection)
        .await
        .unwrap();
    found
}

/// Categories in a tree whose children may have a lower id than their parents.
pub(crate) fn seed(products: u32) -> String {
    format!(
        "begin;
         insert into categories values (5, 'Root', null, 0), (1, 'Garden', 5, 1), (2, 'House', 5, 2), (3, 'Tools', 1, 3);
         with recursive n(i) as (select 1 union all select i + 1 from n where i < {products})
         insert into products select i, 'SKU-' || i, 'Product ' || i, iif(i % 7 = 0, null, 'text ' || i),
           printf('%d.%02d', i % 900 + 1, i % 100), 'EUR', i % 3 + 1, substr('ADS', i % 3 + 1, 1), iif(i % 2, 'Y', 'N'),
           'a,b', iif(i % 5 = 0, null, i), '2026-01-01 00:30:00', '2026-06-01 12:00:00' from n where i <= {products};
         insert into price_changes select id, id, '1.00', price, 7, 'seed', updated_at from products;
         insert into reviews select id, id, id % 9 + 1, 'Ann', id % 5 + 1, 'Title', 'Body', substr('APR', id % 3 + 1, 1), 0, null, created_at from products;
         commit;"
    )
}

/// Waits quickly, so that tests end promptly.
pub(crate) fn quick() -> Limits {
    Limits {
        poll: Duration::from_millis(5),
        heartbeat: Duration::from_millis(30),
        chunk_rows: 200,
        ..Limits::default()
    }
}

pub(crate) async fn copied(link: &Link) {
    let complete = eventually("the backfill to be complete", 2 * WAIT, || async {
        link.copied().then_some(())
    });
    let in_time = tokio::time::timeout(WAIT, complete).await;
    assert!(in_time.is_ok(), "not complete: {}", link.describe());
}

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// The newest foreign write is told of a moment since this one, as closely as its database tells
/// times.
pub(crate) fn foreign_since(link: &Link, began: i64) {
    /// Half of what a clock may take to be asked, and rounding.
    const APART: i64 = 250;
    let seen = link.evidence().unwrap();
    let (from, to) = seen.foreign_between_ms.unwrap();
    let found = format!("{from} to {to}, since {began}: {seen:?}");
    assert!(from <= now_ms() + APART && to >= began - APART, "{found}");
    assert!([0, 999].contains(&(to - from)), "{found}");
    let age = i64::try_from(seen.foreign_write_age_ms.unwrap()).unwrap();
    assert!(age <= now_ms() - began + 1_000 + APART, "{found}");
}

fn table(legacy: &str, extracted: &str, columns: Vec<(&str, Source)>) -> TableSpec {
    TableSpec {
        legacy: legacy.to_owned(),
        extracted: extracted.to_owned(),
        key: vec!["id".to_owned()],
        columns: columns
            .into_iter()
            .map(|(extracted, source)| ColumnSpec {
                extracted: extracted.to_owned(),
                source,
            })
            .collect(),
        defaults: Vec::new(),
        ..TableSpec::default()
    }
}

fn same(from: &str) -> Source {
    Source::Rename(from.to_owned())
}

fn cents(from: &str) -> Source {
    Source::Cents {
        from: from.to_owned(),
        scale: 2,
    }
}

fn clock(from: &str) -> Source {
    Source::LocalTime {
        from: from.to_owned(),
        offset: 3600,
    }
}

fn codes(from: &str, pairs: &[(&str, &str)]) -> Source {
    Source::Map {
        from: from.to_owned(),
        pairs: pairs
            .iter()
            .map(|(a, b)| (Cell::from(*a), Cell::from(*b)))
            .collect(),
    }
}

pub(crate) fn catalog_tables() -> Vec<TableSpec> {
    let flag = Source::Expr {
        from: "featured".to_owned(),
        forward: "value == 'Y' ? 1 : 0".to_owned(),
        reverse: "value == 1 ? 'Y' : 'N'".to_owned(),
    };
    let states = [("A", "active"), ("D", "discontinued"), ("S", "seasonal")];
    // Children first on purpose: the order must come from the references.
    vec![
        table(
            "price_changes",
            "price_change",
            vec![
                ("id", same("id")),
                ("product_id", same("product_id")),
                ("old_cents", cents("old_price")),
                ("new_cents", cents("new_price")),
                ("staff_id", same("changed_by")),
                ("ref", same("ref")),
                ("changed_at", clock("changed_at")),
            ],
        ),
        table(
            "products",
            "product_price",
            vec![
                ("product_id", same("id")),
                ("amount_cents", cents("price")),
                ("currency", same("currency")),
            ],
        ),
        table(
            "products",
            "product",
            vec![
                ("id", same("id")),
                ("sku", same("sku")),
                ("title", same("name")),
                ("description", same("description")),
                ("category_id", same("category_id")),
                ("state", codes("status", &states)),
                ("is_featured", flag),
                ("labels", same("tags")),
                ("weight_g", same("weight_g")),
                ("created_at", clock("created_at")),
                ("updated_at", clock("updated_at")),
            ],
        ),
        table(
            "categories",
            "category",
            vec![
                ("id", same("id")),
                ("label", same("name")),
                ("parent_id", same("parent_id")),
                ("sort_order", same("position")),
            ],
        ),
    ]
}

fn review_tables() -> Vec<TableSpec> {
    let states = [("P", "pending"), ("A", "approved"), ("R", "rejected")];
    vec![
        table(
            "reviews",
            "review",
            vec![
                ("id", same("id")),
                ("product_id", same("product_id")),
                ("author_id", same("user_id")),
                ("author_name", same("author")),
                ("stars", same("rating")),
                ("state", codes("status", &states)),
                ("helpful_count", same("helpful")),
                ("posted_at", clock("created_at")),
            ],
        ),
        table(
            "reviews",
            "review_text",
            vec![
                ("review_id", same("id")),
                ("headline", same("title")),
                ("content", same("body")),
                ("staff_reply", same("reply")),
            ],
        ),
    ]
}

/// A repeatable source of choices.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// 0 to `below` - 1 (xorshift64*).
    pub(crate) fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % below
    }
}

/// One random transaction of the monolith: inserts, updates, deletes, moved keys, REPLACE, swaps.
pub(crate) fn legacy_change(dice: &mut Dice, range: u64) -> String {
    let id = dice.roll(range) + 1;
    let other = dice.roll(range) + 1;
    let price = format!("{}.{:02}", dice.roll(900) + 1, dice.roll(100));
    let row = |verb: &str, id: u64, sku: &str| {
        format!(
            "{verb} into products values ({id}, '{sku}', 'New {id}', null, '{price}', 'EUR', {}, 'A', 'Y', '', 3, '2026-02-02 00:00:00', '2026-02-02 00:00:00');",
            id % 3 + 1
        )
    };
    let body = match dice.roll(9) {
        0 | 1 => format!("update products set price = '{price}', featured = iif(featured = 'Y', 'N', 'Y') where id = {id};"),
        2 => format!(
            "insert into price_changes (product_id, old_price, new_price, changed_by, ref, changed_at)
             select id, price, '{price}', 3, 'r', '2026-03-03 00:00:00' from products where id = {id};
             update products set price = '{price}' where id = {id};"
        ),
        3 => format!("delete from price_changes where product_id = {id}; delete from products where id = {id};"),
        4 => row("insert or ignore", id, &format!("SKU-{id}")),
        // Takes the sku of another row away, which REPLACE then removes, and with it what refers to it.
        5 => format!(
            "delete from price_changes where product_id = {id} or product_id in (select id from products where sku = 'SKU-{other}'); {}",
            row("insert or replace", id, &format!("SKU-{other}"))
        ),
        6 => format!(
            "update products set sku = 'TMP-{id}' where id = {id}; update or ignore products set sku = 'SKU-' || {id} || '-' || {other} where id = {other};
             update or ignore products set sku = (select 'X' || max(id) || 'Y' || {id} from products) where id = {id};"
        ),
        7 => format!(
            "delete from price_changes where product_id = {id};
             update or ignore products set id = {} where id = {id};",
            range + id
        ),
        _ => format!(
            "insert into categories values ((select max(id) + 1 from categories), 'C', {}, 9);
             update products set category_id = (select max(id) from categories) where id = {id};",
            [1, 2, 3, 5][usize::try_from(other % 4).unwrap()]
        ),
    };
    format!("begin immediate; {body} commit;")
}
