//! The reviews' tables.
//!
//! Owns their names and indexes. Refuses migrations: a file whose tables differ is refused at start.

use extracted_kit::database::Schema;

/// Tables, the index that pages and averages are read from, and the columns that must be there.
pub const SCHEMA: Schema = Schema {
    create: &[
        "CREATE TABLE IF NOT EXISTS review (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            product_id INTEGER NOT NULL,
            author_id INTEGER NOT NULL,
            author_name TEXT NOT NULL,
            stars INTEGER NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('pending','approved','rejected')),
            helpful_count INTEGER NOT NULL DEFAULT 0,
            posted_at TEXT NOT NULL
        )",
        "CREATE TABLE IF NOT EXISTS review_text (
            review_id INTEGER PRIMARY KEY REFERENCES review(id),
            headline TEXT NOT NULL,
            content TEXT NOT NULL,
            staff_reply TEXT
        )",
        // Ends in the stars, so that the average is read from the index alone.
        "CREATE INDEX IF NOT EXISTS review_by_product
            ON review (product_id, state, posted_at DESC, id DESC, stars)",
    ],
    probe: &[
        "SELECT id, product_id, author_id, author_name, stars, state, helpful_count, posted_at
            FROM review LIMIT 0",
        "SELECT review_id, headline, content, staff_reply FROM review_text LIMIT 0",
    ],
};
