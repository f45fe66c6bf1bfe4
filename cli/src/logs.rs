//! Log lines on stderr, chosen by `OUTGROW_LOG`.

use anyhow::Context;
use tracing_subscriber::EnvFilter;

/// Lines for people, or one JSON object a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Starts logging for the whole process. `default` holds where `OUTGROW_LOG` is not set.
///
/// # Errors
/// Says what `OUTGROW_LOG` may be.
pub(crate) fn start(format: LogFormat, default: &str) -> anyhow::Result<()> {
    let wanted = std::env::var("OUTGROW_LOG").unwrap_or_else(|_| default.to_owned());
    let filter = EnvFilter::try_new(&wanted).with_context(|| {
        format!("OUTGROW_LOG=`{wanted}` is no log filter; write e.g. `info` or `info,outgrow_proxy=debug`")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(anstream::stderr);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().with_ansi(false).try_init(),
    };
    // It fails only when logging was started before, which nobody here does.
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}
