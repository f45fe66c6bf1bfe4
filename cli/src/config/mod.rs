//! The config file: reading, checking, and the checked result.
//!
//! [`Config::load`] reads a whole file and reports everything that is wrong with it at once.
//! [`AdminEndpoint::load`] reads only what a command needs to reach a running Outgrow, so that a
//! slip elsewhere in the file never keeps an operator from rolling back. Nothing here connects
//! anywhere or writes anything.

mod access_log;
mod auth;
mod builds;
mod columns;
mod comparing;
mod cookies;
mod events;
mod filters;
mod introspection;
mod kubernetes;
mod limits;
mod mirroring;
mod model;
mod otlp;
mod pages;
mod plan;
mod problem;
mod process;
mod rewriting;
mod routes;
pub(crate) mod scalar;
pub(crate) mod secret;
mod section;
mod slices;
mod sources;
mod sync;
mod tables;
#[cfg(test)]
mod tests;
mod tls;
mod trace;
mod transport;
mod upstreams;
mod writes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use toml::de::DeTable;

pub(crate) use events::Events;
#[allow(unused_imports)] // Names of the checked config, for whoever wires it.
pub(crate) use model::{
    Also, Cohort, Column, Config, Control, Database, HttpUrl, Identity, LEGACY, Legacy, Proxy,
    Route, Rows, Service, Shadow, Slice, SliceShadow, Source, Table, ZeroDates,
};
pub(crate) use problem::{ConfigErrors, nearest};
pub(crate) use secret::Secret;

use problem::{Findings, Place};
use section::Section;

/// A config that a person writes is smaller than this; a larger file is a mistake.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What reading depends on besides the text.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// The config file's folder, from which relative paths are taken.
    pub(crate) dir: &'a Path,
    pub(crate) env: &'a dyn Fn(&str) -> Option<String>,
    /// For rules that have expired.
    pub(crate) today: time::Date,
}

impl Config {
    /// Reads and checks a file, with the secrets that it names.
    ///
    /// # Errors
    /// Fails when the file cannot be read, and with [`ConfigErrors`] when anything in it is
    /// wrong.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = read_file(path)?;
        let env = |name: &str| std::env::var(name).ok();
        let around = Surroundings {
            dir: path.parent().unwrap_or(Path::new("")),
            env: &env,
            today: time::OffsetDateTime::now_utc().date(),
        };
        Ok(Self::parse(&text, path, around)?)
    }

    /// Checks the text of a config file.
    ///
    /// # Errors
    /// Returns every problem, in the order of the file.
    pub(crate) fn parse(
        text: &str,
        file: &Path,
        around: Surroundings<'_>,
    ) -> Result<Self, ConfigErrors> {
        let refused = |problems| ConfigErrors {
            file: file.to_owned(),
            problems,
        };
        let mut findings = Findings::new(text);
        let (document, broken) = DeTable::parse_recoverable(text);
        let mut lines = std::collections::BTreeSet::new();
        for error in &broken {
            let place = Place {
                key: String::new(),
                span: error.span().unwrap_or(0..0),
            };
            // One slip breaks what comes after it, so the first of a line says enough.
            let (line, _) = findings.position(place.span.start);
            if !lines.insert(line) {
                continue;
            }
            findings.lack(&place, format!("not TOML: {}", error.message()), "");
        }
        // What was recovered of a broken file would only give problems that are not there.
        if !broken.is_empty() {
            return Err(refused(findings.finish().0));
        }
        let draft = read(Section::root(&document), &mut findings, around);
        let clean = findings.clean();
        let (errors, warnings) = findings.finish();
        match draft {
            Some(mut config) if clean => {
                config.file = file.to_owned();
                config.warnings = warnings;
                Ok(config)
            }
            _ => Err(refused(errors)),
        }
    }
}

/// Reads the whole document. `None` only together with a finding.
fn read(
    mut root: Section<'_>,
    findings: &mut Findings<'_>,
    around: Surroundings<'_>,
) -> Option<Config> {
    let proxy = process::proxy(&mut root, findings, around);
    let legacy = process::legacy(&mut root, findings, around);
    let control = process::control(&mut root, findings, around);
    let shadow = process::shadow(&mut root, findings);
    let services = process::services(&mut root, findings, around);
    if let Some((place, _)) = services.get(LEGACY)
        && legacy
            .as_ref()
            .is_some_and(|legacy| !legacy.builds.is_empty())
    {
        let rule = "the builds of [legacy] go by this name";
        findings.refuse(place, rule, "call the service by another one");
    }
    let slices = slices::read(&mut root, findings, around);
    let routes = slices.iter().flat_map(slices::Draft::routes);
    let rest = slices::Rest {
        asked: auth::asked(proxy.as_ref(), routes),
        legacy_database: legacy
            .as_ref()
            .is_none_or(|legacy| legacy.database.is_some()),
        legacy: legacy.as_ref(),
        services: &services,
        hold_timeout: proxy.as_ref().map(|proxy| proxy.hold_timeout),
    };
    slices::cross_check(&slices, &rest, findings);
    if let Some(proxy) = &proxy {
        let routes = slices.iter().flat_map(slices::Draft::routes);
        auth::check(proxy, &services, routes, findings);
        auth::check_asked(&proxy.auth, &services, &root.at("proxy"), findings);
        let rule = proxy
            .filters
            .as_ref()
            .and_then(|filters| filters.auth.as_ref());
        for (rule, fix) in
            rule.map_or_else(Vec::new, |rule| auth::missing(&rule.way, proxy, &services))
        {
            findings.lack(&root.at("proxy"), rule, fix);
        }
        let routes = slices.iter().flat_map(slices::Draft::routes);
        filters::check(proxy, &root.at("proxy"), routes, findings);
    }
    root.finish(findings);
    let mut kept = BTreeMap::new();
    for (name, (_, service)) in services {
        kept.insert(name, service?);
    }
    Some(Config {
        file: PathBuf::new(),
        proxy: proxy?,
        legacy: legacy?,
        control: control?,
        shadow,
        services: kept,
        slices: slices
            .into_iter()
            .map(slices::Draft::finish)
            .collect::<Option<_>>()?,
        warnings: Vec::new(),
    })
}

/// Where the admin API of a config is.
#[derive(Debug)]
pub(crate) struct AdminEndpoint {
    pub(crate) listen: std::net::SocketAddr,
    pub(crate) token_file: PathBuf,
}

impl AdminEndpoint {
    /// Reads `[control]` alone.
    ///
    /// # Errors
    /// Fails when the file cannot be read or `[control]` is wrong.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = read_file(path)?;
        let (document, _) = DeTable::parse_recoverable(&text);
        let mut findings = Findings::new(&text);
        let env = |_: &str| None;
        let around = Surroundings {
            dir: path.parent().unwrap_or(Path::new("")),
            env: &env,
            today: time::Date::MIN,
        };
        let mut root = Section::root(&document);
        let control = process::control(&mut root, &mut findings, around);
        match control {
            Some(control) => Ok(Self {
                listen: control.listen,
                token_file: control.token_file,
            }),
            None => Err(ConfigErrors {
                file: path.to_owned(),
                problems: findings.finish().0,
            }
            .into()),
        }
    }
}

fn read_file(path: &Path) -> anyhow::Result<String> {
    use std::io::Read;

    let cannot = || format!("cannot read the config file {}", path.display());
    let file = std::fs::File::open(path).with_context(cannot)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .with_context(cannot)?;
    anyhow::ensure!(
        text.len() as u64 <= FILE_BYTES_MAX,
        "{} is longer than {FILE_BYTES_MAX} bytes, so it is hardly a config file",
        path.display()
    );
    Ok(text)
}
