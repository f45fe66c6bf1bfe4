//! `outgrow init`: a first config, with everything else in it as a comment.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::Context;
use crate::config::scalar;

/// Write a first outgrow.toml: a pass-through, with a slice to fill in as comments
#[derive(Debug, Args)]
#[command(after_help = "\
Never overwrites a file.

Examples:
  outgrow init --legacy http://127.0.0.1:9000
  outgrow init -c shop/outgrow.toml --listen 0.0.0.0:80 --legacy http://shop.internal:9000")]
pub(crate) struct InitArgs {
    /// Where clients come in
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8080", value_parser = scalar::listen)]
    listen: SocketAddr,
    /// Where the monolith is
    #[arg(long, value_name = "URL", value_parser = scalar::upstream_url)]
    legacy: String,
}

pub(crate) fn run(context: &Context, args: &InitArgs) -> anyhow::Result<ExitCode> {
    let path = context.config_path();
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(starter(args.listen, &args.legacy).as_bytes()));
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            anyhow::bail!(
                "{} is there already and is left as it is; give another name with -c",
                path.display()
            );
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot write {}", path.display()));
        }
    }
    context.out.note(&format!("wrote {}", path.display()));
    context
        .out
        .note("next: `outgrow check`, then `outgrow serve`");
    Ok(ExitCode::SUCCESS)
}

/// A config that passes everything through, and the rest as comments that can be uncommented.
fn starter(listen: SocketAddr, legacy: &str) -> String {
    format!(
        r#"# Outgrow passes everything through to the monolith until a slice says otherwise.
# `outgrow check` checks this file; `outgrow serve` runs it. The state of the slices is kept in
# the store, never here.

[proxy]
listen = ["{listen}"]

[legacy]
urls = ["{legacy}"]
# Needed as soon as a slice has tables:
# database = "sqlite:data/shop.db"

[control]
listen = "127.0.0.1:7070"       # the admin API; on this machine only
store = "sqlite:outgrow-store.db"
token_file = "admin.token"      # made by `outgrow serve` when it is missing

# How the services learn who calls. The proxy asks the monolith and signs the answer.
# [proxy.identity]
# cookie = "sid"
# whoami = "/api/me"
# secret_file = "identity.secret"

# A service that takes something over.
# [services.catalog]
# urls = ["http://127.0.0.1:9101"]
# database = "sqlite:data/catalog.db"

# A slice: routes and tables that move together.
# [slices.catalog]
# service = "catalog"
# routes = ["GET /api/products", "GET /api/products/{{id}}"]
# cohort = ["cookie:sid"]        # a client stays on its side while the share rises
#
# One entry for each extracted table. The mapping must work both ways, because rows flow back
# after the cutover.
# [[slices.catalog.tables]]
# legacy = "products"
# extracted = "product"
# key = ["id"]
# [slices.catalog.tables.columns]
# id = "id"
# title = "name"
# amount_cents = {{ from = "price", cents = 2 }}
# state = {{ from = "status", map = {{ A = "active", D = "discontinued" }} }}
# created_at = {{ from = "created_at", local_time = "Europe/Berlin" }}
#
# [slices.catalog.shadow]
# sample = 1.0
# ignore = [{{ path = "$.request_id", reason = "random per request", until = "2030-01-01" }}]
#
# [slices.catalog.plan]
# canary = [1, 5, 25, 50, 100]   # percent
# hold = "10m"
"#
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Surroundings};

    fn parse(text: &str) -> Config {
        let env = |_: &str| Some("0123456789abcdef0123456789abcdef".to_owned());
        let around = Surroundings {
            dir: Path::new("/srv"),
            env: &env,
            today: time::macros::date!(2026 - 01 - 01),
        };
        match Config::parse(text, Path::new("outgrow.toml"), around) {
            Ok(config) => config,
            Err(errors) => panic!("{errors}\n{text}"),
        }
    }

    fn text() -> String {
        let legacy = scalar::upstream_url("http://127.0.0.1:9000").unwrap();
        starter("127.0.0.1:8080".parse().unwrap(), &legacy)
    }

    #[test]
    fn the_starter_is_a_complete_config() {
        let config = parse(&text());
        assert!(config.slices.is_empty());
        assert!(config.warnings.is_empty());
    }

    /// Whoever removes the `# ` of the commented keys gets a config that holds.
    #[test]
    fn its_comments_are_a_config_too() {
        let bare: String = text()
            .lines()
            .map(|line| {
                let bare = line.strip_prefix("# ").unwrap_or(line);
                let config = bare.starts_with('[') || bare.contains(" = ");
                format!("{}\n", if config { bare } else { line })
            })
            .collect();
        let bare = bare.replace("secret_file = \"identity.secret\"", "secret_env = \"S\"");
        let config = parse(&bare);
        let slice = config.slice("catalog").expect("the slice of the comments");
        assert_eq!(slice.tables[0].columns.len(), 5);
        assert_eq!(slice.routes.len(), 2);
    }
}
