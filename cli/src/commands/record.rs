//! `outgrow shadow record`: requests of live traffic into a file, for `outgrow replay`.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Context;
use crate::answers::typed;
use crate::client::escape;
use crate::config::scalar;
use crate::figures::count;

/// Between two visits: what a kill can lose.
const VISIT: Duration = Duration::from_secs(1);

/// Record mirrored requests of a slice into a file, for `outgrow replay`
#[derive(Debug, Args)]
#[command(after_help = "\
Records what the slice's shadow samples, from the stage `shadow` on. Credentials, cookies and
secrets are replaced by tokens. Ctrl-C ends it; what is in the file stays.

Examples:
  outgrow shadow record catalog --for 1h --to monday.rec")]
pub(crate) struct RecordArgs {
    /// Its name in the config
    slice: String,
    /// How long
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = scalar::duration)]
    during: Duration,
    /// The file to write; it must not be there yet
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Stop at this size
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = scalar::size)]
    limit: u64,
}

#[derive(Deserialize)]
struct Fetched {
    lines: Vec<String>,
    lost: u64,
}

pub(crate) async fn run(context: &Context, args: &RecordArgs) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let path = format!("/v1/shadow/{}/record", escape(&args.slice));
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nonce = now.unwrap_or_default().as_nanos();
    let body = json!({"recorder": format!("{}-{nonce}", std::process::id())});
    // Before the file is made: a slice that is not there leaves none.
    let first = client.post(&path, body.clone()).await?;
    typed::<Fetched>(&first)?;
    let shown = args.to.display();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&args.to)
        .with_context(|| format!("cannot make {shown}; a file that is there is not overwritten"))?;
    let head = outgrow_shadow::head(&format!("slice {}", args.slice));
    writeln!(file, "{head}").with_context(|| format!("cannot write {shown}"))?;
    let (mut requests, mut bytes, mut lost) = (0u64, head.len() as u64 + 1, 0u64);
    let end = Instant::now() + args.during;
    let mut why = "the time is over";
    // At least once: what came in while the file was made belongs to it.
    loop {
        let interrupted = tokio::select! {
            () = sleep(VISIT.min(end.saturating_duration_since(Instant::now()))) => false,
            _ = tokio::signal::ctrl_c() => true,
        };
        let fetched: Fetched = typed(&client.post(&path, body.clone()).await?)?;
        lost += fetched.lost;
        let mut block = String::new();
        for line in &fetched.lines {
            if bytes + line.len() as u64 + 1 > args.limit {
                why = "the file is as large as it may be";
                break;
            }
            block.push_str(line);
            block.push('\n');
            bytes += line.len() as u64 + 1;
            requests += 1;
        }
        // One write: a kill leaves whole lines, but for the last.
        file.write_all(block.as_bytes())
            .with_context(|| format!("cannot write {shown}"))?;
        if interrupted {
            why = "interrupted";
        }
        if why != "the time is over" || Instant::now() >= end {
            break;
        }
    }
    file.sync_all()
        .with_context(|| format!("cannot write {shown}"))?;
    let said =
        json!({"file": args.to, "requests": requests, "bytes": bytes, "lost": lost, "ended": why});
    context.out.answer(&said, || {
        format!(
            "{shown}: {} requests, {}, {} lost for want of room; {why}\n",
            count(requests),
            scalar::show_size(bytes),
            count(lost)
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
