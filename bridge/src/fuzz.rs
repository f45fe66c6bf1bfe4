//! What is fed with bytes from outside, by `scripts/fuzz` and by the tests below: nothing may
//! panic, and nothing may go on for ever.

use crate::db::mysql::binlog::fuzz;
use crate::db::postgres::replication::{frames, pgoutput};

/// A message of PostgreSQL's logical replication.
pub fn pgoutput(data: &[u8]) {
    pgoutput::fuzz(data);
}

/// What has come on a connection that tells PostgreSQL's log.
pub fn frames(data: &[u8]) {
    frames::fuzz(data);
}

/// An event of the binary log: its kind, then its body; of a map of columns also the rows.
pub fn binlog(data: &[u8]) {
    fuzz::events(data);
}

/// A statement that the binary log has as text.
pub fn statement(data: &[u8]) {
    fuzz::statement(&String::from_utf8_lossy(data));
}

/// Names of transactions as a server's settings have them.
pub fn gtids(data: &[u8]) {
    fuzz::gtids(&String::from_utf8_lossy(data));
}

#[cfg(test)]
mod tests {
    use outgrow_testkit::around_seeds;

    #[test]
    fn bytes_near_the_seeds() {
        around_seeds("bridge-pgoutput", super::pgoutput);
        around_seeds("bridge-frames", super::frames);
        around_seeds("bridge-binlog", super::binlog);
        around_seeds("bridge-statement", super::statement);
        around_seeds("bridge-gtids", super::gtids);
    }
}
