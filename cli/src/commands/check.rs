//! `outgrow check`: everything that can be known before anything is started.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use outgrow_proxy::{Address, Source};
use serde::Serialize;

use super::Context;
use crate::config::Config;
use crate::output::table;

/// Check the config, and that everything it names is there; changes nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outgrow check
  outgrow check -c staging/outgrow.toml -o json
  outgrow check --offline")]
pub(crate) struct CheckArgs {
    /// Check the file alone: connect to nothing, open no database
    #[arg(long)]
    offline: bool,
}

/// What one check has found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    /// What was checked, e.g. `legacy 127.0.0.1:9000`.
    pub(crate) what: String,
    pub(crate) ok: bool,
    /// What was seen, or what is wrong and how to mend it.
    pub(crate) detail: String,
}

pub(crate) async fn run(context: &Context, args: CheckArgs) -> anyhow::Result<ExitCode> {
    let config = context.config()?;
    let mut found = vec![Finding {
        what: format!("config {}", context.config_path().display()),
        ok: true,
        detail: format!(
            "{} slices, {} services",
            config.slices.len(),
            config.services.len()
        ),
    }];
    if !args.offline {
        found.extend(upstreams(&config).await);
        found.extend(crate::serve::preflight(&config).await);
    }
    let failed = found.iter().filter(|finding| !finding.ok).count();
    let answer = serde_json::to_value(&found)?;
    context.out.answer(&answer, || {
        let rows = found
            .iter()
            .map(|finding| {
                let verdict = if finding.ok { "ok" } else { "FAILED" };
                vec![
                    verdict.to_owned(),
                    finding.what.clone(),
                    finding.detail.clone(),
                ]
            })
            .collect();
        table(&["VERDICT", "WHAT", "SEEN"], rows)
    })?;
    if failed > 0 {
        let plural = if failed == 1 { "check" } else { "checks" };
        anyhow::bail!("{failed} {plural} failed");
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks every source who the upstreams are, and connects to each of them, all at once.
async fn upstreams(config: &Config) -> Vec<Finding> {
    let legacy = config.legacy.urls.iter().map(|url| ("legacy", url));
    let services = config
        .services
        .iter()
        .flat_map(|(name, service)| service.urls.iter().map(move |url| (name.as_str(), url)));
    let all = legacy
        .chain(services)
        .map(|(name, source)| source_of(config, name, source));
    let found = futures_util::future::join_all(all).await;
    found.into_iter().flatten().collect()
}

async fn source_of(config: &Config, name: &str, source: &Source) -> Vec<Finding> {
    let within = config.proxy.connect_timeout;
    match outgrow_proxy::look_up(source, &config.proxy.dns).await {
        Ok(found) => {
            let all = found.iter().map(|to| connect(name, to, within));
            futures_util::future::join_all(all).await
        }
        Err(why) => vec![Finding {
            what: format!("{name} {source}"),
            ok: false,
            detail: why,
        }],
    }
}

async fn connect(name: &str, to: &Address, within: Duration) -> Finding {
    let (ok, detail) = match tokio::time::timeout(within, to.reach()).await {
        Ok(Ok(())) => (true, "it accepts connections".to_owned()),
        Ok(Err(error)) => (false, format!("{error}; is it running there?")),
        Err(_) => (
            false,
            format!("no connection within {within:?} (proxy.connect_timeout)"),
        ),
    };
    Finding {
        what: format!("{name} {to}"),
        ok,
        detail,
    }
}
