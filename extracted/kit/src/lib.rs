//! What every extracted service needs and none should write twice.
//!
//! Owns: the command line, the SQLite file, the caller's identity, idempotent writes, the outbox,
//! health, metrics, planted defects, JSON errors, money and clock texts, start and shutdown.
//! Refuses: any knowledge of a slice's tables or routes, any toolkit crate, and printing; a service
//! written in another language could replace this one without the toolkit noticing.
//!
//! A service is a [`run::ServiceSpec`] (its name, schema and routes) handed to [`run::main`].

pub mod answer;
pub mod call;
pub mod clock;
pub mod database;
pub mod defects;
pub mod dry_run;
pub mod error;
pub mod flags;
pub mod idempotency;
pub mod identity;
pub mod logs;
pub mod metrics;
pub mod money;
pub mod operations;
pub mod outbox;
pub mod run;
pub mod segment;
pub mod service;
pub mod write;
