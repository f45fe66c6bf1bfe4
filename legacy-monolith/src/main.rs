//! The shop as a program: flags, logs, signals, exit code.

use clap::Parser;
use legacy_monolith::{Database, Options, Scale, Shop, StartError, fill, serve};
use std::error::Error;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// The example monolith: a shop with pages and a JSON API on one SQLite file
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  legacy-monolith --listen 127.0.0.1:9000 --database sqlite:shop.db"
)]
struct Flags {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// The database, created and filled when missing: `sqlite:FILE`
    #[arg(long)]
    database: String,
    /// Which data an empty database is filled with
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What the `x-build-id` header says
    #[arg(long, default_value = "monolith-1")]
    build_id: String,
    /// Seconds between two runs of the recommendations job; 0 runs it only on request
    #[arg(long, default_value_t = 60)]
    recommend_every: u64,
    /// Create and fill the database, then exit
    #[arg(long)]
    fill_only: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,legacy_monolith=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(StartError::Serve)
        .and_then(|runtime| runtime.block_on(run(flags)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not through the log, whose filter could hide it. Nobody is left to tell when
            // standard error is closed.
            let _ = writeln!(std::io::stderr(), "error: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

fn with_causes(error: &StartError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

async fn run(flags: Flags) -> Result<(), StartError> {
    let database = Database::open(&flags.database).await?;
    if fill(&database, flags.seed, &Scale::FULL).await? {
        tracing::info!(seed = flags.seed, "database filled");
    }
    if flags.fill_only {
        database.close().await;
        return Ok(());
    }
    let shop = Shop::new(database, &flags.build_id).await?;
    let options = Options {
        listen: flags.listen,
        recommend_every: (flags.recommend_every > 0)
            .then(|| Duration::from_secs(flags.recommend_every)),
    };
    let stop = stop_signal()?;
    serve(
        shop,
        &options,
        stop,
        |bound| tracing::info!(%bound, "the shop is open"),
    )
    .await
}

/// Resolves on SIGTERM or SIGINT.
fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static, StartError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).map_err(StartError::Serve)?;
    let mut int = signal(SignalKind::interrupt()).map_err(StartError::Serve)?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!("closing the shop");
    })
}
