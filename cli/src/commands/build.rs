//! `outgrow build`: which build of a service answers.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use outgrow_control::{BuildStatus, BuildsStatus};
use outgrow_rollout::{BuildName, TakenBack, Weight};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Context;
use super::change::Said;
use crate::answers::typed;
use crate::client::{ApiError, Client, Code, escape};
use crate::config::scalar;
use crate::figures::{count, micros, millis, share};
use crate::output::table;

/// Between two looks at what is under way.
const LOOK: Duration = Duration::from_millis(200);

/// See and move which build of a service answers (blue/green)
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  outgrow build list
  outgrow build weight catalog green 5 --reason 'release 7'
  outgrow build switch catalog green --reason 'release 7'
  outgrow build drain catalog blue
  outgrow build back catalog --reason 'wrong prices'")]
pub(crate) enum BuildCommand {
    List(ListArgs),
    Switch(SwitchArgs),
    Weight(WeightArgs),
    Drain(DrainArgs),
    Back(BackArgs),
}

/// List the builds of all services, or of one, with what they get and how they are
#[derive(Debug, Args)]
#[command(after_help = "\
Requests, failures and times are those of clients since the builds were last changed, or since the process\nbegan or read its config.\n\nExamples:\n  outgrow build list\n  outgrow build list catalog -o json")]
pub(crate) struct ListArgs {
    /// Its name in the config
    service: Option<String>,
}

/// What the journal says of a move to a build that may be ill.
#[derive(Debug, Args)]
struct Forced {
    #[command(flatten)]
    said: Said,
    /// Also where nobody of the build is well; goes into the journal
    #[arg(long, requires = "reason")]
    force: bool,
}

impl Forced {
    fn body(&self, build: &BuildName) -> Map<String, Value> {
        let mut body = named(&self.said, build);
        if self.force {
            body.insert("force".to_owned(), true.into());
        }
        body
    }
}

/// Send all requests to a build
#[derive(Debug, Args)]
#[command(after_help = "\
In force at once, kept over a restart; what is under way ends where it is. Where nobody of the build is
well it is refused.

Examples:
  outgrow build switch catalog green --reason 'release 7'")]
pub(crate) struct SwitchArgs {
    /// Its name in the config
    service: String,
    #[arg(value_parser = name)]
    build: BuildName,
    #[command(flatten)]
    said: Forced,
}

/// Send a share of the clients to a build beside the active one
#[derive(Debug, Args)]
#[command(after_help = "\
A client stays at its build while the share grows. 0 takes the share back.

Examples:
  outgrow build weight catalog green 5 --reason 'release 7'")]
pub(crate) struct WeightArgs {
    /// Its name in the config
    service: String,
    /// Not the active one
    #[arg(value_parser = name)]
    build: BuildName,
    /// Percent of the clients
    #[arg(value_name = "PERCENT", value_parser = percent)]
    weight: Weight,
    #[command(flatten)]
    said: Forced,
}

/// Send nothing new to a build, and wait until nothing is under way there
#[derive(Debug, Args)]
#[command(after_help = "\
After this the build can be stopped. The active one is switched away from first. Exit code 6: requests
are left when the time is over; nothing new comes, ask again.

Examples:
  outgrow build drain catalog blue --timeout 5m")]
pub(crate) struct DrainArgs {
    /// Its name in the config
    service: String,
    #[arg(value_parser = name)]
    build: BuildName,
    #[command(flatten)]
    said: Said,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = scalar::duration)]
    timeout: Duration,
}

/// Take back what the last trial or switch has moved, at once
#[derive(Debug, Args)]
#[command(after_help = "\
Ends a trial; where there is none, goes back to the build that was active before the last switch. Works
with the store down.

Examples:
  outgrow build back catalog --reason 'wrong prices'")]
pub(crate) struct BackArgs {
    /// Its name in the config
    service: String,
    #[command(flatten)]
    said: Said,
}

#[derive(Debug, Deserialize)]
struct All {
    services: Vec<BuildsStatus>,
}

pub(crate) async fn run(context: &Context, command: BuildCommand) -> anyhow::Result<ExitCode> {
    match command {
        BuildCommand::List(args) => list(context, args.service.as_deref()).await,
        BuildCommand::Switch(args) => {
            let body = args.said.body(&args.build);
            told(context, &args.service, "switch", body).await
        }
        BuildCommand::Weight(args) => {
            let mut body = args.said.body(&args.build);
            body.insert("weight".to_owned(), args.weight.to_string().into());
            told(context, &args.service, "weight", body).await
        }
        BuildCommand::Drain(args) => drain(context, &args).await,
        BuildCommand::Back(args) => told(context, &args.service, "back", args.said.body()).await,
    }
}

fn named(said: &Said, build: &BuildName) -> Map<String, Value> {
    let mut body = said.body();
    body.insert("build".to_owned(), build.as_str().into());
    body
}

async fn list(context: &Context, service: Option<&str>) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let answer = match service {
        Some(service) => client.get(&path(service)).await?,
        None => client.get("/v1/builds").await?,
    };
    let services = match service {
        Some(_) => vec![typed::<BuildsStatus>(&answer)?],
        None => typed::<All>(&answer)?.services,
    };
    context.out.answer(&answer, || match services.is_empty() {
        true => "no service has builds\n".to_owned(),
        false => shown(&services),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn path(service: &str) -> String {
    format!("/v1/builds/{}", escape(service))
}

async fn told(
    context: &Context,
    service: &str,
    verb: &str,
    body: Map<String, Value>,
) -> anyhow::Result<ExitCode> {
    let path = format!("{}/{verb}", path(service));
    let answer = context.client()?.post(&path, Value::Object(body)).await?;
    let status: BuildsStatus = typed(&answer)?;
    context.out.answer(&answer, || shown(&[status]))?;
    Ok(ExitCode::SUCCESS)
}

async fn drain(context: &Context, args: &DrainArgs) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let body = named(&args.said, &args.build);
    let order = format!("{}/drain", path(&args.service));
    client.post(&order, Value::Object(body)).await?;
    let waiting = ended(context, &client, args);
    let answer = tokio::time::timeout(args.timeout, waiting).await;
    let Ok(answer) = answer else {
        let last = client.get(&path(&args.service)).await?;
        let left = left(&typed(&last)?, &args.build);
        return Err(ApiError {
            code: Code::Timeout,
            message: format!(
                "{} requests are under way at build `{}` after {}",
                count(left),
                args.build,
                scalar::show(args.timeout)
            ),
            details: Value::Null,
            hint: "nothing new comes to it; wait with the same command again".to_owned(),
        }
        .into());
    };
    let answer = answer?;
    context.out.answer(&answer, || {
        format!("nothing is under way at build {}\n", args.build)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Waits until nothing is under way; says what is, when that changes.
async fn ended(context: &Context, client: &Client, args: &DrainArgs) -> Result<Value, ApiError> {
    let (mut told, mut none) = (None, false);
    loop {
        let answer = client.get(&path(&args.service)).await?;
        let left = left(&typed(&answer)?, &args.build);
        // Twice: one that was on its way to the build as it got nothing new has come by then.
        if left == 0 && std::mem::replace(&mut none, true) {
            return Ok(answer);
        }
        none = left == 0;
        if left > 0 && told != Some(left) {
            told = Some(left);
            context
                .out
                .note(&format!("{} requests are under way", count(left)));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn left(status: &BuildsStatus, build: &BuildName) -> u64 {
    let of = status.builds.iter().find(|of| of.figures.build == *build);
    of.map_or(0, |of| of.figures.in_flight)
}

fn shown(services: &[BuildsStatus]) -> String {
    let row = |(service, of): (&BuildsStatus, &BuildStatus)| {
        let figures = &of.figures;
        let none = || "-".to_owned();
        vec![
            service.service.clone(),
            figures.build.to_string(),
            if of.active { "active" } else { "-" }.to_owned(),
            of.weight.to_string(),
            format!("{} of {}", figures.well, figures.upstreams),
            count(figures.in_flight),
            count(figures.lately.requests),
            share(figures.lately.errors, figures.lately.requests),
            figures.lately.p50_us.map_or_else(none, time),
            figures.lately.p99_us.map_or_else(none, time),
        ]
    };
    let rows = services.iter().flat_map(|service| {
        let builds = service.builds.iter();
        builds.map(move |build| row((service, build)))
    });
    let header = [
        "SERVICE",
        "BUILD",
        "ACTIVE",
        "CLIENTS",
        "WELL",
        "IN FLIGHT",
        "REQUESTS",
        "FAILED",
        "P50",
        "P99",
    ];
    let mut out = table(&header, rows.collect());
    for service in services {
        if let Some(of) = service.builds.first() {
            let (name, ago) = (&service.service, millis(of.figures.lately_ms));
            out.push_str(&format!("{name}: requests of the last {ago}\n"));
        }
    }
    for service in services {
        if let Some(TakenBack { build, reason }) = &service.taken_back {
            let name = &service.service;
            out.push_str(&format!(
                "{name}: the guard took build {build} back: {reason}\n"
            ));
        }
    }
    for service in services.iter().filter(|service| !service.published) {
        let name = &service.service;
        out.push_str(&format!("{name}: in force, but not stored yet\n"));
    }
    out
}

/// What a person may want of microseconds.
#[expect(clippy::cast_precision_loss, reason = "times stay far below 2^53")]
fn time(us: u64) -> String {
    micros(us as f64)
}

fn name(text: &str) -> Result<BuildName, String> {
    BuildName::new(text).map_err(|error| error.to_string())
}

fn percent(text: &str) -> Result<Weight, String> {
    Weight::from_percent(text).map_err(|error| error.to_string())
}
