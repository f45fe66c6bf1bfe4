//! The binary as a person or a script meets it: its help, its exit codes, what it prints on
//! which stream. The server is a scripted one, so that every answer can be had.

mod activated;
mod answers;
mod builds;
mod bypass;
mod certified;
mod clocks;
mod collector;
mod dry_run;
#[cfg(feature = "nats")]
mod events;
mod files;
mod gate;
mod harness;
mod help;
mod ids;
mod kill;
mod kill_shop;
mod limits;
mod mariadb;
mod overriding;
mod own_monolith;
mod postgres;
mod prometheus;
mod refusals;
mod reloading;
mod replay;
mod runbook;
mod safe;
mod site;
mod soak;
mod soak_shop;
mod starting;
mod tokens;
mod topping;
mod tracing;
mod tripwire;
mod upgrading;
mod upgrading_streams;
mod what_if;
