//! The words of `--help`, and completions.

use crate::harness::run_in;

/// Every command that has a help text of its own.
const COMMANDS: &[&str] = &[
    "",
    "demo",
    "serve",
    "reload",
    "upgrade",
    "check",
    "init",
    "status",
    "top",
    "route",
    "route list",
    "route explain",
    "route flip",
    "route rollback",
    "route freeze",
    "route unfreeze",
    "route maintenance",
    "route history",
    "build",
    "build list",
    "build switch",
    "build weight",
    "build drain",
    "build back",
    "shadow",
    "shadow status",
    "shadow report",
    "shadow show",
    "shadow ignore",
    "shadow ignore add",
    "shadow ignore list",
    "shadow ignore check",
    "shadow what-if",
    "shadow pause",
    "shadow resume",
    "shadow reset",
    "shadow record",
    "sync",
    "sync start",
    "sync status",
    "sync verify",
    "sync repair",
    "sync events",
    "sync pause",
    "sync resume",
    "sync conflicts",
    "sync settle",
    "sync reverse",
    "sync close",
    "sync preflight",
    "runbook",
    "runbook show",
    "runbook plan",
    "runbook next",
    "runbook run",
    "runbook approve",
    "runbook abort",
    "runbook export",
    "replay",
    "journal",
    "journal list",
    "journal verify",
    "completions",
];

async fn help(command: &str) -> String {
    let mut args: Vec<&str> = command.split_whitespace().collect();
    args.push("--help");
    let dir = tempfile::tempdir().expect("a folder");
    let ended = run_in(dir.path(), &args).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{command}");
    ended.stdout
}

#[tokio::test]
async fn every_help_has_examples() {
    for command in COMMANDS {
        let text = help(command).await;
        assert!(text.contains("Examples:\n  outgrow "), "{command}:\n{text}");
    }
}

#[tokio::test]
async fn the_list_of_commands_is_whole() {
    for group in [
        "",
        "route",
        "shadow",
        "shadow ignore",
        "sync",
        "runbook",
        "journal",
    ] {
        let text = help(group).await;
        let listed = text
            .split("Commands:\n")
            .nth(1)
            .and_then(|rest| rest.split("\n\n").next())
            .expect("a list of commands");
        let names = listed
            .lines()
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        for name in names.filter_map(|line| line.split_whitespace().next()) {
            let full = format!("{group} {name}");
            let known = COMMANDS.contains(&full.trim()) || name == "help";
            assert!(known, "`{full}` is not in the list of these tests");
        }
    }
}

#[tokio::test]
async fn golden_help() {
    for command in [
        "",
        "route flip",
        "runbook run",
        "sync reverse",
        "sync settle",
        "status",
        "init",
    ] {
        let name = format!("help_{}", command.replace(' ', "_"));
        insta::assert_snapshot!(name, help(command).await);
    }
}

#[tokio::test]
async fn completions_are_generated() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = run_in(dir.path(), &["completions", shell]).await;
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        for word in ["rollback", "runbook", "--if-revision"] {
            let word = if shell == "fish" {
                word.trim_start_matches('-')
            } else {
                word
            };
            assert!(ended.stdout.contains(word), "{shell} knows `{word}`");
        }
    }
}
