//! The bridge between real SQLite files, compared by SQL that shares no code with it.

#![allow(clippy::unwrap_used)] // The helpers are tests too.

mod both;
mod both_random;
mod conflicts;
mod copy;
mod crash;
mod drift;
mod events;
mod events_before;
mod events_before_killed;
mod events_before_needs;
mod events_before_values;
mod huge;
mod large;
mod mapping;
mod mapping_also;
mod mapping_keys;
mod mapping_lookup;
mod mapping_rows;
mod mysql;
mod mysql_binlog;
mod mysql_binlog_fail_over;
mod mysql_binlog_keys;
mod mysql_binlog_refused;
mod names;
mod network;
mod postgres;
mod postgres_arrays;
mod postgres_copy;
mod postgres_faults;
mod postgres_replication;
mod postgres_short;
mod postgres_values;
mod preflight;
mod restored;
mod shop;
mod tls;
mod turning;
mod values_between;
mod verify_checksums;
mod verify_killed;
mod verify_ways;
mod verifying;
mod waiting_bytes;
mod zero_dates;
