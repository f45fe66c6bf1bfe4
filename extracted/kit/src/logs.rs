//! Logs to stderr, so that stdout stays free for data.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Starts logging for this process: level `info` unless `RUST_LOG` says otherwise. A second call
/// changes nothing.
pub fn to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // A failure means that a subscriber is already there, which is what is wanted.
    drop(logs.try_init());
}
