//! `outgrow shadow what-if`: other rules, asked of the pairs that are stored.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{ArgGroup, Args};
use outgrow_shadow::{Accept, Changed, ClusterField, Comparing, Rule, Score, WhatIf};
use serde_json::Value;

use super::super::Context;
use super::rules::Within;
use crate::answers::typed;
use crate::client::{ApiError, Code, escape};
use crate::config::Config;
use crate::figures::{count, share};
use crate::output::{sheet, table};

/// Exit code where a pair would be judged otherwise, and where none could be judged.
const CHANGES: u8 = 1;
const NOTHING_JUDGED: u8 = 4;

/// Judge the stored pairs by other rules; changes nothing
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("changed").required(true).multiple(true).args(["rules_of", "add", "drop"]),
    after_help = "\
Exit codes: 0 every pair is judged as today, 1 some would not be, 4 none could be judged.

Examples:
  outgrow shadow what-if catalog --add '$..price' --tolerance 0.01
  outgrow shadow what-if catalog --drop '$.generated_at'
  outgrow shadow what-if catalog --rules-of next.toml"
)]
pub(crate) struct WhatIfArgs {
    /// Its name in the config
    slice: String,
    /// The rules of the slice in this config file, in place of those of the config in force
    #[arg(long, value_name = "FILE")]
    rules_of: Option<PathBuf>,
    /// Without the rules for this path; may be given again
    #[arg(long, value_name = "PATH")]
    drop: Vec<String>,
    /// With a rule for this path, which accepts what the flags below say, else anything
    #[arg(long, value_name = "PATH")]
    add: Option<String>,
    #[command(flatten)]
    within: Within,
}

pub(super) async fn run(context: &Context, args: &WhatIfArgs) -> anyhow::Result<ExitCode> {
    let body = serde_json::to_value(changed(context, args)?)?;
    let path = format!("/v1/shadow/{}/what-if", escape(&args.slice));
    let answer = context.client()?.post(&path, body).await?;
    let found: WhatIf = typed(&answer)?;
    context.out.answer(&answer, || shown(&found))?;
    Ok(match found.judged.pairs + found.judged.failed {
        0 => ExitCode::from(NOTHING_JUDGED),
        _ => ExitCode::from(if found.changes() { CHANGES } else { 0 }),
    })
}

fn changed(context: &Context, args: &WhatIfArgs) -> anyhow::Result<Changed> {
    let accept = args.within.accept();
    if args.add.is_none() && accept != Accept::Any {
        return Err(ApiError {
            code: Code::Usage,
            message: "a limit belongs to a rule that is added".to_owned(),
            details: Value::Null,
            hint: "give its path with --add".to_owned(),
        }
        .into());
    }
    let add = args.add.iter().map(|path| Rule {
        path: path.clone(),
        reason: "what if".to_owned(),
        until: None,
        owner: None,
        accept: accept.clone(),
    });
    let config = match &args.rules_of {
        None => None,
        Some(file) => {
            let config = Config::load(file)?;
            for warning in &config.warnings {
                let warning = warning.at(&config.file);
                context.out.note(&format!("warning:{warning}"));
            }
            let mut slices = config.slices.into_iter();
            let slice = slices.find(|slice| slice.id.as_str() == args.slice);
            let slice = slice
                .with_context(|| format!("{} has no slice `{}`", file.display(), args.slice))?;
            Some(Comparing {
                rules: slice.shadow.rules,
                arrays: slice.shadow.arrays,
                headers: slice.shadow.headers,
            })
        }
    };
    Ok(Changed {
        config,
        add: add.collect(),
        drop: args.drop.clone(),
    })
}

fn score(score: Score) -> String {
    match score.faults {
        0 => "no stored answer to seed faults in".to_owned(),
        faults => format!(
            "{} ({} of {} faults in {} answers)",
            share(score.caught, faults),
            count(score.caught),
            count(faults),
            count(score.answers)
        ),
    }
}

fn fields(all: &[ClusterField]) -> String {
    let all = all
        .iter()
        .map(|field| format!("{} {}", field.kind, field.path));
    all.collect::<Vec<_>>().join(", ")
}

fn joined(all: &std::collections::BTreeSet<String>) -> String {
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    all.join(", ")
}

fn shown(found: &WhatIf) -> String {
    let judged = &found.judged;
    let sum = |pairs: &mut dyn Iterator<Item = u64>| count(pairs.sum());
    let mut out = sheet(&[
        ("slice", found.slice.clone()),
        (
            "rules",
            format!("{} today, {} then", found.rules_today, found.rules_then),
        ),
        ("stored pairs judged", count(judged.pairs)),
        ("as today", count(judged.as_today)),
        (
            "would match",
            sum(&mut found.would_match.iter().map(|group| group.pairs)),
        ),
        (
            "would differ",
            sum(&mut found.would_differ.iter().map(|group| group.pairs)),
        ),
        ("candidate failed", count(judged.failed)),
        (
            "cannot be judged",
            sum(&mut judged.unjudged.values().copied()),
        ),
        ("faults caught today", score(found.score_today)),
        ("faults caught then", score(found.score_then)),
    ]);
    for (reason, pairs) in &judged.unjudged {
        out.push_str(&format!(
            "\ncannot be judged: {} ({reason})\n",
            count(*pairs)
        ));
    }
    out.push_str(&would_match(found));
    out.push_str(&would_differ(found));
    for path in &found.idle {
        out.push_str(&format!(
            "\nthe rule for {path} would hide nothing in these pairs\n"
        ));
    }
    for line in &found.unknown {
        out.push_str(&format!("\nnot known: {line}\n"));
    }
    out
}

fn would_match(found: &WhatIf) -> String {
    if found.would_match.is_empty() {
        return String::new();
    }
    let rows = found.would_match.iter().map(|group| {
        vec![
            group.cluster.clone().unwrap_or_else(|| "-".to_owned()),
            group.route.clone(),
            count(group.pairs),
            count(group.of),
            fields(&group.fields),
            joined(&group.rules),
            group.example.clone(),
        ]
    });
    let header = [
        "WOULD MATCH",
        "ROUTE",
        "PAIRS",
        "OF ABOUT",
        "DIFFERENCES",
        "HIDDEN BY",
        "EXAMPLE",
    ];
    format!("\n{}", table(&header, rows.collect()))
}

fn would_differ(found: &WhatIf) -> String {
    if found.would_differ.is_empty() {
        return String::new();
    }
    let rows = found.would_differ.iter().map(|group| {
        vec![
            group.route.clone(),
            count(group.pairs),
            group.of.map_or_else(|| "-".to_owned(), count),
            fields(&group.fields),
            joined(&group.rules),
            group.example.clone(),
        ]
    });
    let header = [
        "WOULD DIFFER",
        "PAIRS",
        "OF ABOUT",
        "DIFFERENCES",
        "HIDDEN TODAY BY",
        "EXAMPLE",
    ];
    format!("\n{}", table(&header, rows.collect()))
}
