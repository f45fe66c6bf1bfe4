//! What the tests of every crate share: scripted upstreams, clients, databases, certificates,
//! processes, and waiting for a value.
//!
//! Only ever a dev-dependency. Helpers panic with a sentence rather than return errors, because
//! a test that cannot set itself up has failed. Nothing here knows a crate of the toolkit, so
//! that any of them can use it.

pub mod certificates;
pub mod client;
pub mod collector;
pub mod database;
pub mod disk;
pub mod dns;
pub mod local;
pub mod mariadb;
pub mod mutations;
pub mod mysql;
pub mod nats;
pub mod postgres;
pub mod process;
pub mod relay;
pub mod rotel;
mod servers;
pub mod upstream;
mod waiting;

pub use certificates::Authority;
pub use client::Answer;
pub use database::TempDatabase;
pub use disk::Disk;
pub use dns::{DnsServer, Trouble};
pub use local::LocalSocket;
pub use mariadb::Mariadb;
pub use mutations::{around, around_seeds};
pub use mysql::is_mysql;
pub use nats::Nats;
pub use postgres::Postgres;
pub use process::Process;
pub use relay::Relay;
pub use rotel::Rotel;
pub use servers::{bridge_user, kill_server, least};
pub use upstream::{Seen, Upstream};
pub use waiting::eventually;
