//! The command line: one file for each noun. A command asks the admin API, prints what it
//! answers, and decides nothing itself.

mod build;
pub(crate) mod change;
pub(crate) mod check;
mod completions;
mod conflicts;
pub(crate) mod demo;
mod export;
mod init;
mod journal;
mod record;
mod reload;
mod replay;
mod route;
mod runbook;
mod serve;
mod shadow;
mod status;
mod sync;
mod top;
mod upgrade;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::client::{Client, Endpoint};
use crate::config::Config;
use crate::logs::LogFormat;
use crate::output::{Color, Format, Output};

/// How `--help` of the binary begins and ends.
const AFTER_HELP: &str = "\
Exit codes:
  0 done    1 error    2 usage    3 a gate is not met    4 inconclusive, try again later
  5 the revision moved or the slice is busy    6 timeout

Examples:
  outgrow demo                                  see the whole thing work
  outgrow init --legacy http://127.0.0.1:9000   write a first outgrow.toml
  outgrow serve                                 run what outgrow.toml says
  outgrow status --watch                        see where every slice stands";

/// Moves the routes and tables of a running monolith into new services, one slice at a time.
#[derive(Debug, Parser)]
#[command(name = "outgrow", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The config file
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        env = "OUTGROW_CONFIG",
        default_value = "outgrow.toml",
        hide_env_values = true
    )]
    pub(crate) config: PathBuf,
    /// URL of the admin API, else taken from the config file
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "OUTGROW_ADMIN",
        hide_env_values = true
    )]
    pub(crate) admin: Option<String>,
    /// File with the admin token, else $OUTGROW_TOKEN, else taken from the config file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// How answers are printed: for people, or whole for programs
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
    /// Print answers and errors only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// When to use colour (auto: on a terminal, unless $NO_COLOR is set)
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        value_name = "WHEN"
    )]
    pub(crate) color: Color,
    /// How log lines on stderr look (what is logged: $OUTGROW_LOG)
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(demo::DemoArgs),
    Serve(serve::ServeArgs),
    Reload(reload::ReloadArgs),
    Upgrade(upgrade::UpgradeArgs),
    Check(check::CheckArgs),
    Init(init::InitArgs),
    Status(status::StatusArgs),
    Top(top::TopArgs),
    #[command(subcommand)]
    Route(route::RouteCommand),
    #[command(subcommand)]
    Build(build::BuildCommand),
    #[command(subcommand)]
    Shadow(shadow::ShadowCommand),
    #[command(subcommand)]
    Sync(sync::SyncCommand),
    #[command(subcommand)]
    Runbook(runbook::RunbookCommand),
    Replay(replay::ReplayArgs),
    Journal(journal::JournalArgs),
    Completions(completions::CompletionsArgs),
}

impl Command {
    /// Whether the command is worth several threads: those that only ask one thing are not.
    pub(crate) fn is_long(&self) -> bool {
        matches!(
            self,
            Self::Demo(_) | Self::Serve(_) | Self::Check(_) | Self::Replay(_)
        )
    }

    /// What is logged when `OUTGROW_LOG` says nothing: a command that answers one question
    /// shows warnings, a server also what it does.
    pub(crate) fn log_level(&self) -> &'static str {
        match self {
            Self::Serve(_) => "info",
            _ => "warn",
        }
    }
}

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Context {
    global: Global,
    pub(crate) out: Output,
}

impl Context {
    pub(crate) fn new(global: &Global) -> Self {
        Self {
            out: Output {
                format: global.output,
                quiet: global.quiet,
            },
            global: global.clone(),
        }
    }

    /// The admin API that the flags, the environment or the config name.
    ///
    /// # Errors
    /// Says what is missing.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Client::find(&Endpoint {
            admin: self.global.admin.clone(),
            token: std::env::var("OUTGROW_TOKEN")
                .ok()
                .filter(|token| !token.is_empty()),
            token_file: self.global.token_file.clone(),
            config: self.global.config.clone(),
        })
    }

    /// The checked config; its warnings go to stderr.
    ///
    /// # Errors
    /// Every problem of the file at once.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        let config = Config::load(&self.global.config)?;
        for warning in &config.warnings {
            self.out
                .note(&format!("warning:{}", warning.at(&config.file)));
        }
        Ok(config)
    }

    pub(crate) fn config_path(&self) -> &std::path::Path {
        &self.global.config
    }
}

/// Runs a command to its exit code.
///
/// # Errors
/// Whatever kept it from being done; the caller prints it and picks the exit code.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let context = Context::new(&cli.global);
    match cli.command {
        Command::Demo(args) => Box::pin(crate::demo::run(args)).await,
        Command::Serve(args) => Box::pin(serve::run(&context, args)).await,
        Command::Reload(args) => reload::run(&context, args).await,
        Command::Upgrade(args) => upgrade::run(&context, args).await,
        Command::Check(args) => Box::pin(check::run(&context, args)).await,
        Command::Init(args) => init::run(&context, &args),
        Command::Status(args) => status::run(&context, args).await,
        Command::Top(args) => top::run(&context, args).await,
        Command::Route(command) => route::run(&context, command).await,
        Command::Build(command) => build::run(&context, command).await,
        Command::Shadow(command) => shadow::run(&context, command).await,
        Command::Sync(command) => sync::run(&context, command).await,
        Command::Runbook(command) => runbook::run(&context, command).await,
        Command::Replay(args) => Box::pin(replay::run(&context, args)).await,
        Command::Journal(args) => journal::run(&context, args).await,
        Command::Completions(args) => completions::run(&context, &args),
    }
}
