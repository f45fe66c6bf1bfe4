//! `outgrow shadow ignore`: differences that are known and accepted for a while.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use outgrow_shadow::{Accept, Known};
use serde_json::Value;

use super::super::Context;
use crate::client::escape;
use crate::config::scalar;
use crate::output::generic;

#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  outgrow shadow ignore list catalog
  outgrow shadow ignore check catalog")]
pub(crate) enum IgnoreCommand {
    Add(Box<AddArgs>),
    /// List the rules of a slice
    #[command(after_help = "Examples:\n  outgrow shadow ignore list catalog")]
    List {
        /// Its name in the config
        slice: String,
    },
    /// Exit with 1 when a rule has expired; names those that hide nothing
    #[command(after_help = "Examples:\n  outgrow shadow ignore check catalog")]
    Check {
        /// Its name in the config
        slice: String,
    },
}

/// Accept differences at a path, any or within a limit; drops the evidence gathered without it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outgrow shadow ignore add catalog '$.products[*].rank' --reason 'ranks are redone nightly' \\
      --until 2027-01-31
  outgrow shadow ignore add catalog '$..price' --tolerance 0.01 --owner ada \\
      --reason 'the monolith adds floats' --until 2027-01-31")]
pub(crate) struct AddArgs {
    /// Its name in the config
    slice: String,
    /// `$.a.b`, `$.list[*].c`, `header:NAME`, `css:SELECTOR`
    path: String,
    /// Why it may differ
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The day on which the rule expires, e.g. 2027-01-31
    #[arg(long, value_name = "DAY", value_parser = day)]
    until: String,
    /// Whom to ask about it
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    #[command(flatten)]
    within: Within,
    /// Who, for the journal
    #[arg(
        long,
        value_name = "NAME",
        env = "USER",
        default_value = "cli",
        hide_env_values = true
    )]
    by: String,
}

// What of a difference is accepted; without one of these, anything.
#[derive(Debug, Args)]
#[group(required = false, multiple = false)]
pub(super) struct Within {
    /// Numbers (or moments) at most so far apart: 0.01, 1%, 2s
    #[arg(long, value_name = "LIMIT")]
    tolerance: Option<String>,
    /// Numbers that are equal when rounded to so many places
    #[arg(long, value_name = "PLACES")]
    round: Option<u32>,
    /// Both match, as a whole
    #[arg(long, value_name = "REGEX")]
    regex: Option<String>,
    /// Both are among these
    #[arg(long, value_name = "VALUE", value_delimiter = ',')]
    one_of: Vec<String>,
    /// Both begin so
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Both are written so
    #[arg(long, value_enum, value_name = "FORMAT")]
    written: Option<Written>,
    /// The legacy value is the left one, the extracted value the right one
    #[arg(long, value_name = "OLD=NEW", value_delimiter = ',', value_parser = entry)]
    map: Vec<(String, String)>,
    /// Ids that the extracted side gives anew; rules of one name share them, also in URLs
    #[arg(long, value_name = "NAME")]
    renamed: Option<String>,
    /// What is the same although the values differ
    #[arg(long, value_enum, value_name = "WHAT")]
    same: Option<Same>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Same {
    Type,
    Presence,
    Null,
    Instant,
    Renamed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Written {
    Uuid,
    Rfc3339,
    Date,
    Email,
    Url,
    Ip,
    Integer,
    Hex,
}

impl Within {
    pub(super) fn accept(&self) -> Accept {
        let same = self.same.map(|same| match same {
            Same::Type => Accept::Type,
            Same::Presence => Accept::Presence,
            Same::Null => Accept::Null,
            Same::Instant => Accept::Instant,
            Same::Renamed => Accept::Renamed,
        });
        let written = self.written.map(|written| {
            Accept::Format(match written {
                Written::Uuid => Known::Uuid,
                Written::Rfc3339 => Known::Rfc3339,
                Written::Date => Known::Date,
                Written::Email => Known::Email,
                Written::Url => Known::Url,
                Written::Ip => Known::Ip,
                Written::Integer => Known::Integer,
                Written::Hex => Known::Hex,
            })
        });
        // A number is one, other text is text: `--one-of 3,new`.
        let value = |text: &String| match serde_json::from_str(text) {
            Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => value,
            _ => Value::from(text.as_str()),
        };
        let list = (!self.one_of.is_empty())
            .then(|| Accept::OneOf(self.one_of.iter().map(value).collect()));
        let map = (!self.map.is_empty()).then(|| Accept::Map(self.map.iter().cloned().collect()));
        self.tolerance
            .clone()
            .map(Accept::Tolerance)
            .or(self.round.map(Accept::Round))
            .or(self.regex.clone().map(Accept::Regex))
            .or(self.prefix.clone().map(Accept::Prefix))
            .or(self.renamed.clone().map(Accept::RenamedAs))
            .or(list)
            .or(map)
            .or(written)
            .or(same)
            .unwrap_or_default()
    }
}

fn entry(text: &str) -> Result<(String, String), String> {
    let (old, new) = text.split_once('=').ok_or("write OLD=NEW")?;
    Ok((old.to_owned(), new.to_owned()))
}

pub(super) async fn run(context: &Context, command: IgnoreCommand) -> anyhow::Result<ExitCode> {
    match command {
        IgnoreCommand::Add(args) => add(context, &args).await,
        IgnoreCommand::List { slice } => list(context, &slice).await,
        IgnoreCommand::Check { slice } => check(context, &slice).await,
    }
}

fn rules_path(slice: &str) -> String {
    format!("/v1/shadow/{}/rules", escape(slice))
}

async fn add(context: &Context, args: &AddArgs) -> anyhow::Result<ExitCode> {
    let accept = args.within.accept();
    let what = match accept {
        Accept::Any => "ignored",
        _ => "accepted within the limit",
    };
    let body = serde_json::json!({
        "path": args.path,
        "reason": args.reason,
        "until": args.until,
        "owner": args.owner,
        "accept": accept,
        "by": args.by,
    });
    let answer = context
        .client()?
        .post(&rules_path(&args.slice), body)
        .await?;
    context.out.answer(&answer, || {
        format!(
            "{}: differences at {} are {what} until {}; evidence is gathered anew\n",
            args.slice, args.path, args.until
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn list(context: &Context, slice: &str) -> anyhow::Result<ExitCode> {
    let answer = context.client()?.get(&rules_path(slice)).await?;
    context.out.answer(&answer, || generic(&answer))?;
    Ok(ExitCode::SUCCESS)
}

async fn check(context: &Context, slice: &str) -> anyhow::Result<ExitCode> {
    let answer = context.client()?.get(&rules_path(slice)).await?;
    let today = time::OffsetDateTime::now_utc().date();
    let mut all = Vec::new();
    collect_rules(&answer, &mut all);
    let ended = |rule: &Value| {
        let until = rule.get("until").and_then(Value::as_str);
        until.and_then(scalar::date).is_some_and(|day| day <= today)
    };
    let (expired, at_work): (Vec<&Value>, Vec<&Value>) = all.iter().partition(|rule| ended(rule));
    for rule in &at_work {
        if rule.get("state").and_then(Value::as_str) == Some("unused") {
            let word = |key| rule.get(key).and_then(Value::as_str).unwrap_or("nobody");
            context.out.note(&format!(
                "warning: the rule for {} (owner: {}) has hidden nothing since the evidence began",
                word("path"),
                word("owner")
            ));
        }
    }
    let none = expired.is_empty();
    let found = Value::Array(expired.into_iter().cloned().collect());
    context.out.answer(&found, || match none {
        true => format!("{} rules, none has expired\n", all.len()),
        false => format!(
            "expired, so these differences count again:\n{}",
            generic(&found)
        ),
    })?;
    Ok(ExitCode::from(u8::from(!none)))
}

/// Every object with a path, wherever the answer has it.
fn collect_rules<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_rules(item, found)),
        Value::Object(fields) if fields.contains_key("path") => found.push(value),
        Value::Object(fields) => fields.values().for_each(|item| collect_rules(item, found)),
        _ => {}
    }
}

fn day(text: &str) -> Result<String, String> {
    match scalar::date(text) {
        Some(_) => Ok(text.trim().to_owned()),
        None => Err("write a day such as 2027-01-31".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        within: Within,
    }

    #[test]
    fn each_flag_is_a_rule_that_the_shadow_takes() {
        for (flags, expected) in [
            (vec![], r#""any""#),
            (vec!["--tolerance", "1%"], r#"{"tolerance":"1%"}"#),
            (vec!["--round", "2"], r#"{"round":2}"#),
            (vec!["--regex", "h-[0-9]+"], r#"{"regex":"h-[0-9]+"}"#),
            (vec!["--one-of", "new,3"], r#"{"one_of":["new",3]}"#),
            (vec!["--prefix", "/img/"], r#"{"prefix":"/img/"}"#),
            (vec!["--written", "uuid"], r#"{"format":"uuid"}"#),
            (
                vec!["--map", "A=active,I=idle"],
                r#"{"map":{"A":"active","I":"idle"}}"#,
            ),
            (vec!["--renamed", "order"], r#"{"renamed_as":"order"}"#),
            (vec!["--same", "instant"], r#""instant""#),
        ] {
            let all = std::iter::once("test").chain(flags.iter().copied());
            let accept = Alone::try_parse_from(all).unwrap().within.accept();
            assert_eq!(serde_json::to_string(&accept).unwrap(), expected);
            let rule = outgrow_shadow::Rule {
                path: "$.a".to_owned(),
                reason: "a test".to_owned(),
                until: None,
                owner: None,
                accept,
            };
            assert!(rule.check().is_ok(), "{flags:?}");
        }
        for bad in [vec!["--round", "2", "--prefix", "x"], vec!["--map", "A"]] {
            let all = std::iter::once("test").chain(bad.iter().copied());
            assert!(Alone::try_parse_from(all).is_err(), "{bad:?}");
        }
    }
}
