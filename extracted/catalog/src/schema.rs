//! The catalog's tables.
//!
//! Owns their names and indexes. Refuses migrations: a file whose tables differ is refused at start.

use extracted_kit::database::Schema;

/// Tables, indexes for each sort order, and the columns that must be there.
pub const SCHEMA: Schema = Schema {
    create: &[
        "CREATE TABLE IF NOT EXISTS category (
            id INTEGER PRIMARY KEY,
            label TEXT NOT NULL,
            parent_id INTEGER REFERENCES category(id),
            sort_order INTEGER NOT NULL
        )",
        "CREATE TABLE IF NOT EXISTS product (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            sku TEXT NOT NULL UNIQUE,
            title TEXT NOT NULL,
            description TEXT,
            category_id INTEGER NOT NULL REFERENCES category(id),
            state TEXT NOT NULL CHECK (state IN ('active','discontinued','seasonal')),
            is_featured INTEGER NOT NULL,
            labels TEXT NOT NULL,
            weight_g INTEGER,
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL
        )",
        "CREATE TABLE IF NOT EXISTS product_price (
            product_id INTEGER PRIMARY KEY REFERENCES product(id),
            amount_cents INTEGER NOT NULL,
            currency TEXT NOT NULL
        )",
        "CREATE TABLE IF NOT EXISTS price_change (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            product_id INTEGER NOT NULL REFERENCES product(id),
            old_cents INTEGER NOT NULL,
            new_cents INTEGER NOT NULL,
            staff_id INTEGER NOT NULL,
            ref TEXT NOT NULL,
            changed_at TEXT NOT NULL
        )",
        "CREATE INDEX IF NOT EXISTS product_by_category ON product (category_id, id)",
        "CREATE INDEX IF NOT EXISTS product_by_title ON product (title, id)",
        "CREATE INDEX IF NOT EXISTS product_by_age ON product (created_at DESC, id)",
        "CREATE INDEX IF NOT EXISTS product_price_by_amount
            ON product_price (amount_cents, product_id)",
        "CREATE INDEX IF NOT EXISTS price_change_by_product
            ON price_change (product_id, changed_at DESC, id DESC)",
    ],
    probe: &[
        "SELECT id, label, parent_id, sort_order FROM category LIMIT 0",
        "SELECT id, sku, title, description, category_id, state, is_featured, labels, weight_g,
            created_at, updated_at FROM product LIMIT 0",
        "SELECT product_id, amount_cents, currency FROM product_price LIMIT 0",
        "SELECT id, product_id, old_cents, new_cents, staff_id, ref, changed_at
            FROM price_change LIMIT 0",
    ],
};
