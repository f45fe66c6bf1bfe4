//! `outgrow check`: everything that can be known before anything is started.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use outgrow_proxy::{Address, Nobody, ReachError, Source, Transport};
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
            "{}, {}",
            counted(config.slices.len(), "slice"),
            counted(config.services.len(), "service")
        ),
    }];
    if !args.offline {
        found.extend(upstreams(&config).await);
        found.extend(identity(&config).await);
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

fn counted(many: usize, what: &str) -> String {
    format!("{many} {what}{}", if many == 1 { "" } else { "s" })
}

/// Asks every source who the upstreams are, and connects to each of them, all at once.
async fn upstreams(config: &Config) -> Vec<Finding> {
    let services = config.services.iter();
    let services = services.flat_map(|(name, service)| {
        service.parts().map(move |(build, urls)| {
            let title = build.map_or_else(|| name.clone(), |build| format!("{name}/{build}"));
            (title, urls, &service.rules)
        })
    });
    let legacy = config.legacy.parts().into_iter().map(|(build, urls)| {
        let title = build.map_or_else(|| "legacy".to_owned(), |build| format!("legacy/{build}"));
        (title, urls, &config.legacy.rules)
    });
    let all = legacy.chain(services);
    let all = all.flat_map(|(name, urls, rules)| {
        let transport = &rules.transport;
        urls.iter()
            .map(move |source| source_of(config, name.clone(), source, transport))
    });
    let found = futures_util::future::join_all(all).await;
    found.into_iter().flatten().collect()
}

async fn source_of(
    config: &Config,
    name: String,
    source: &Source,
    transport: &Transport,
) -> Vec<Finding> {
    let name = name.as_str();
    let within = config.proxy.connect_timeout;
    match outgrow_proxy::look_up(source, &config.proxy.dns, transport).await {
        Ok(found) => {
            let all = found.iter().map(|to| connect(name, to, transport, within));
            futures_util::future::join_all(all).await
        }
        Err(why) => vec![Finding {
            what: format!("{name} {source}"),
            ok: false,
            detail: why,
        }],
    }
}

/// Whether the monolith knows a session that nobody has, at the first upstream that there is.
async fn identity(config: &Config) -> Option<Finding> {
    let identity = config.proxy.identity.as_ref()?;
    let transport = &config.legacy.rules.transport;
    let parts = config.legacy.parts();
    let source = parts.iter().find_map(|(_, urls)| urls.first())?;
    // Who cannot be found, or does not answer, is told as an upstream.
    let found = outgrow_proxy::look_up(source, &config.proxy.dns, transport).await;
    let to = found.ok()?.into_iter().next()?;
    let within = config.proxy.connect_timeout;
    let reached = tokio::time::timeout(within, outgrow_proxy::reach(&to, transport)).await;
    reached.ok()?.ok()?;
    let asked = (identity.cookie.as_str(), identity.whoami.as_str());
    let patience = config.proxy.request_timeout;
    let answer = outgrow_proxy::who_is_nobody((&to, transport), asked, patience).await;
    let (ok, detail) = match answer {
        Nobody::Told => (true, "a session that does not exist is nobody's".to_owned()),
        Nobody::Unclear(why) => (true, why),
        Nobody::Wrong(why) => (false, why),
    };
    Some(Finding {
        what: format!("legacy GET {}", identity.whoami),
        ok,
        detail,
    })
}

async fn connect(name: &str, to: &Address, transport: &Transport, within: Duration) -> Finding {
    let reached = outgrow_proxy::reach(to, transport);
    let (ok, detail) = match tokio::time::timeout(within, reached).await {
        Ok(Ok(())) => (true, "it accepts connections".to_owned()),
        Ok(Err(ReachError::Away(why))) => (false, format!("{why}; is it running there?")),
        Ok(Err(ReachError::Tls(why))) => (false, why),
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
