//! `outgrow replay`: a recording against any two builds, for people and for CI.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use http::{HeaderMap, HeaderName, HeaderValue};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use outgrow_rollout::{Side, SliceId};
use outgrow_shadow::{
    AcceptedDifference, Flow, Format, Limits, Pace, Place, Places, Progress, Recording,
    ReplaySettings, Replayed, SliceShadow, render, replay,
};

use super::Context;
use super::shadow::deliver;
use crate::client::Code;
use crate::config::{HttpUrl, scalar};
use crate::figures::count;
use crate::output;

/// Play a recording against two builds and compare their answers
#[derive(Debug, Args)]
#[command(after_help = "\
FILE is from `outgrow shadow record`, or a HAR 1.2 file, which browsers save. Requests that may
write are left out unless --writes says otherwise. Exit codes: 0 no difference, 1 differences,
4 nothing could be compared.

Examples:
  outgrow replay monday.rec --against http://127.0.0.1:9000 --and http://127.0.0.1:9100
  outgrow replay shop.har --against http://127.0.0.1:9000 --and http://127.0.0.1:9100 \\
      --login login.har --slice catalog --accepted known.json --format junit --out replay.xml")]
pub(crate) struct ReplayArgs {
    /// A recording or a HAR file
    file: PathBuf,
    /// The build whose answers are right
    #[arg(long, value_name = "URL", value_parser = scalar::http_url)]
    against: HttpUrl,
    /// The build that is compared with it
    #[arg(long, value_name = "URL", value_parser = scalar::http_url)]
    and: HttpUrl,
    /// Compare by the rules of this slice of the config
    #[arg(long, value_name = "NAME")]
    slice: Option<String>,
    /// Of a HAR file, the requests to this origin [default: the first request's]
    #[arg(long, value_name = "URL")]
    origin: Option<String>,
    /// 1 as it was recorded, 10 ten times as fast, max as fast as both answer
    #[arg(long, value_name = "TIMES", default_value = "max", value_parser = pace)]
    speed: Pace,
    /// Requests at the same time, at the most
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=512))]
    jobs: u16,
    /// Send requests that may write, too: both builds do what they ask
    #[arg(long)]
    writes: bool,
    /// Play this first on both: the cookies that it is given go with every request
    #[arg(long, value_name = "FILE")]
    login: Option<PathBuf>,
    /// Send this header to the build of --against
    #[arg(long, value_name = "NAME: VALUE", value_parser = field)]
    against_header: Vec<(HeaderName, HeaderValue)>,
    /// Send this header to the build of --and
    #[arg(long, value_name = "NAME: VALUE", value_parser = field)]
    and_header: Vec<(HeaderName, HeaderValue)>,
    /// The build of --against knows the paths of this side, where the proxy rewrites them
    #[arg(long, value_enum, value_name = "SIDE")]
    against_side: Option<PathsOf>,
    /// The build of --and knows the paths of this side
    #[arg(long, value_enum, value_name = "SIDE")]
    and_side: Option<PathsOf>,
    /// Differences that are accepted, each with its reason
    #[arg(long, value_name = "FILE")]
    accepted: Option<PathBuf>,
    /// Write a file that accepts all that differs now
    #[arg(long, value_name = "FILE", requires = "reason")]
    write_accepted: Option<PathBuf>,
    /// Why that is accepted
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// junit is for CI, html is a page that needs nothing else
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    format: ReportFormat,
    /// Write the report to this file instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    Table,
    Html,
    Md,
    Json,
    Junit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PathsOf {
    Legacy,
    Extracted,
}

impl From<PathsOf> for Side {
    fn from(side: PathsOf) -> Self {
        match side {
            PathsOf::Legacy => Self::Legacy,
            PathsOf::Extracted => Self::Extracted,
        }
    }
}

/// `10`, `0.5` or `max`.
fn pace(text: &str) -> Result<Pace, String> {
    if text == "max" {
        return Ok(Pace::Max);
    }
    match text.trim_end_matches('x').parse::<f64>() {
        Ok(times) if (0.001..=100_000.0).contains(&times) => Ok(Pace::Times(times)),
        _ => Err("write how many times as fast, e.g. 1 or 10, or `max`".to_owned()),
    }
}

/// `name: value`.
fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let rule = || "write it as `name: value`".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(rule)?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| rule())?;
    let mut value = HeaderValue::from_str(value.trim()).map_err(|_| rule())?;
    value.set_sensitive(true);
    Ok((name, value))
}

pub(crate) async fn run(context: &Context, args: ReplayArgs) -> anyhow::Result<ExitCode> {
    let recording = read(&args.file, args.origin.as_deref())?;
    let login = args.login.as_deref().map(|path| read(path, None));
    let accepted = args.accepted.as_deref().map(accepted_in).transpose()?;
    for left in &recording.left_out {
        context.out.note(&format!("left out: {left}"));
    }
    let settings = settings(context, &args, login.transpose()?, accepted.clone())?;
    let total = recording.requests.len();
    context.out.note(&format!(
        "{}: {} requests of {}",
        args.file.display(),
        count(total as u64),
        recording.source
    ));
    let bar = bar(context, total as u64);
    let shown = bar.clone();
    let progress: Progress = Arc::new(move |done| shown.set_position(done));
    let found = tokio::select! {
        found = replay(settings, recording, progress) => found,
        _ = tokio::signal::ctrl_c() => bail!("interrupted; nothing more is sent"),
    };
    bar.finish_and_clear();
    let found = found?;
    if let (Some(path), Some(reason)) = (&args.write_accepted, &args.reason) {
        let before = accepted.unwrap_or_default();
        let text = AcceptedDifference::write(&found.report, &before, reason);
        std::fs::write(path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        context.out.note(&format!("wrote {}", path.display()));
    }
    tell(context, &args, &found)
}

/// The report, what else is to be known, and the exit code.
fn tell(context: &Context, args: &ReplayArgs, found: &Replayed) -> anyhow::Result<ExitCode> {
    let json = context.out.format == output::Format::Json;
    let format = match args.format {
        ReportFormat::Table if json => Format::Json,
        ReportFormat::Table => Format::Table,
        ReportFormat::Html => Format::Html,
        ReportFormat::Md => Format::Markdown,
        ReportFormat::Json => Format::Json,
        ReportFormat::Junit => Format::Junit,
    };
    let text = render(&found.report, format)?;
    deliver(context, &text, args.out.as_deref())?;
    if found.accepted > 0 {
        let text = count(found.accepted);
        context.out.note(&format!("differences accepted: {text}"));
    }
    for one in &found.unused {
        context.out.note(&format!(
            "accepted, but nothing differs so: {} {} ({})",
            one.route, one.path, one.kind
        ));
    }
    if found.behind.as_secs() > 0 {
        let behind = scalar::show(found.behind);
        context.out.note(&format!(
            "the pace could not be kept: up to {behind} late; try more --jobs"
        ));
    }
    let evidence = &found.report.evidence;
    Ok(match (evidence.compared(), evidence.against()) {
        (0, _) => ExitCode::from(Code::Inconclusive.exit()),
        (_, 0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn read(path: &Path, origin: Option<&str>) -> anyhow::Result<Recording> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Recording::read(file, origin).with_context(|| format!("cannot replay {}", path.display()))
}

fn accepted_in(path: &Path) -> anyhow::Result<Vec<AcceptedDifference>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    AcceptedDifference::read(&text).with_context(|| format!("in {}", path.display()))
}

fn settings(
    context: &Context,
    args: &ReplayArgs,
    login: Option<Recording>,
    accepted: Option<Vec<AcceptedDifference>>,
) -> anyhow::Result<ReplaySettings> {
    let (legacy, extracted) = (place(&args.against)?, place(&args.and)?);
    let (slice, build_header) = match &args.slice {
        Some(name) => {
            let all = crate::serve::shadow_settings(&context.config()?)?;
            let mut slices = all.slices.into_iter();
            let found = slices.find(|slice| slice.id.as_str() == name);
            let slice = found.with_context(|| {
                format!("{} has no slice `{name}`", context.config_path().display())
            })?;
            (slice, all.build_header)
        }
        None => (plain()?, HeaderName::from_static("x-build-id")),
    };
    let fields = |all: &[(HeaderName, HeaderValue)]| {
        let mut fields = HeaderMap::new();
        for (name, value) in all {
            fields.append(name.clone(), value.clone());
        }
        fields
    };
    Ok(ReplaySettings {
        slice: SliceShadow {
            legacy,
            extracted,
            ..slice
        },
        build_header,
        limits: Limits::default(),
        own: [fields(&args.against_header), fields(&args.and_header)],
        sides: [args.against_side, args.and_side].map(|side| side.map(Side::from)),
        pace: args.speed,
        jobs: usize::from(args.jobs),
        writes: args.writes,
        login,
        accepted: accepted.unwrap_or_default(),
    })
}

/// Without a config, nothing may differ.
fn plain() -> anyhow::Result<SliceShadow> {
    Ok(SliceShadow {
        id: SliceId::new("replay")?,
        legacy: Places::default(),
        extracted: Places::default(),
        sandbox: Places::default(),
        rewrites: outgrow_shadow::Rewrites::default(),
        sample: 1.0,
        flow: Flow::default(),
        noise_sample: 0.0,
        rules: Vec::new(),
        arrays: Vec::new(),
        headers: None,
        redact: Vec::new(),
        keep: Duration::MAX,
        mismatch_max: outgrow_rollout::Plan::default().mismatch_max,
    })
}

fn place(url: &HttpUrl) -> anyhow::Result<Places> {
    let text = url.authority();
    let authority = text.parse();
    let authority = authority.with_context(|| format!("`{text}` is no host and port"))?;
    Ok(Places::from_iter([Place::Tcp(authority)]))
}

fn bar(context: &Context, total: u64) -> ProgressBar {
    let target = match context.out.quiet {
        true => ProgressDrawTarget::hidden(),
        // Draws nothing where nobody looks.
        false => ProgressDrawTarget::stderr(),
    };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    let style = "{bar:30} {human_pos} of {human_len}, {per_sec}, {eta} left";
    // A template that cannot be read leaves the usual look.
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}
