//! From the checked config to what each part wants to be told.

use std::num::NonZeroUsize;

use anyhow::Context as _;
use outgrow_bridge::{
    AlsoSpec, Cell, ColumnSpec, DatabaseUrl, Limits as LinkLimits, LinkSpec, RowFilter, TableSpec,
    ZeroDates,
};
use outgrow_proxy::{
    Address, CohortKey, IdentitySettings, LegacyClients, Limits as ProxyLimits, RouteSettings,
    Secret, ServiceSettings, Settings, SliceSettings,
};
use outgrow_shadow::{Limits as ShadowLimits, Places, ShadowSettings, SliceShadow};

use super::{cookie_key, descriptors};
use crate::config::{Also, Cohort, Config, Database, LEGACY, Rows, Slice, Source, Table};

/// Beside the store: the proxy's memory of its last good state.
const STATE_FILE: &str = "proxy-state.json";

fn service<'a>(config: &'a Config, slice: &Slice) -> anyhow::Result<&'a crate::config::Service> {
    let missing = || format!("slice `{}` has no service `{}`", slice.id, slice.service);
    config.service_of(slice).with_context(missing)
}

/// How many cores the proxy has.
pub(super) fn workers(config: &Config) -> NonZeroUsize {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let wanted = config.proxy.workers.and_then(NonZeroUsize::new);
    wanted.unwrap_or_else(cores)
}

fn secret(secret: &crate::config::Secret) -> Secret {
    Secret::new(secret.bytes())
}

fn cookie_keys(config: &Config) -> anyhow::Result<Vec<Secret>> {
    Ok(match &config.proxy.cookie_keys[..] {
        [] => {
            let beside = match &config.control.store {
                Database::Sqlite(path) => path,
                Database::Server(_) => &config.control.token_file,
            };
            vec![secret(&cookie_key::beside(beside)?)]
        }
        keys => keys.iter().map(secret).collect(),
    })
}

/// The proxy's settings.
pub(super) fn proxy(config: &Config) -> anyhow::Result<Settings> {
    let workers = workers(config);
    let slices = config.slices.iter().map(proxy_slice);
    let services = config.services.iter().flat_map(|(name, service)| {
        // All builds': the shadow asks those of the active one.
        let places = Places::default();
        service.parts().map(move |(build, urls)| ServiceSettings {
            name: name.clone(),
            build: build.cloned(),
            upstreams: urls.clone(),
            rules: service.rules.clone(),
            places: places.clone(),
        })
    });
    let places = Places::default();
    let parts = config.legacy.parts().into_iter();
    let mut legacy = parts.map(|(build, urls)| ServiceSettings {
        name: LEGACY.to_owned(),
        build: build.cloned(),
        upstreams: urls.clone(),
        rules: config.legacy.rules.clone(),
        places: places.clone(),
    });
    let first = legacy.next().context("[legacy] has no upstreams")?;
    let keys = config.legacy.cohort.iter().map(cohort_key);
    Ok(Settings {
        listen: config.proxy.listen.clone(),
        tls: config.proxy.tls.clone(),
        workers,
        legacy: first,
        legacy_clients: LegacyClients {
            cohort: keys.collect::<anyhow::Result<_>>()?,
            guard: config.legacy.guard.clone(),
        },
        services: legacy.chain(services).collect(),
        slices: slices.collect::<anyhow::Result<_>>()?,
        limits: limits(config),
        dns: config.proxy.dns.clone(),
        trust: config.proxy.trust.clone(),
        limit: config.proxy.limit.clone(),
        cache: config.proxy.cache.clone(),
        filters: config.proxy.filters.clone(),
        auth: config.proxy.auth.clone(),
        error_pages: config.proxy.error_pages.clone(),
        identity: config
            .proxy
            .identity
            .as_ref()
            .map(|identity| IdentitySettings {
                cookie: identity.cookie.clone(),
                whoami: identity.whoami.clone(),
                secret: secret(&identity.secret),
                ttl: identity.ttl,
            }),
        cookie_keys: cookie_keys(config)?,
        overrides: config.proxy.overrides,
        override_secret: config.proxy.override_secret.as_ref().map(secret),
        trace: config.proxy.trace,
        spans: config.proxy.spans.clone(),
        access_log: config.proxy.access_log.clone(),
        state_file: match &config.control.store {
            Database::Sqlite(path) => path.parent().map(|folder| folder.join(STATE_FILE)),
            Database::Server(_) => None,
        },
    })
}

fn cohort_key(cohort: &Cohort) -> anyhow::Result<CohortKey> {
    Ok(match cohort {
        Cohort::Cookie(name) => CohortKey::Cookie(name.clone()),
        Cohort::Header(name) => {
            let header = name.parse();
            CohortKey::Header(header.with_context(|| format!("`{name}` is no header"))?)
        }
    })
}

fn proxy_slice(slice: &Slice) -> anyhow::Result<SliceSettings> {
    let route = |route: &crate::config::Route| RouteSettings {
        method: route.method.clone(),
        host: route.host.clone(),
        template: route.path.clone(),
        filters: route.filters.clone(),
    };
    Ok(SliceSettings {
        id: slice.id.clone(),
        service: slice.service.clone(),
        routes: slice.routes.iter().map(route).collect(),
        cohort: slice
            .cohort
            .iter()
            .map(cohort_key)
            .collect::<anyhow::Result<_>>()?,
        salt: slice.id.to_string(),
        guard: slice.guard.clone(),
        fallback: slice.fallback,
    })
}

/// The shadow's settings.
pub(super) fn shadow(config: &Config, carried: &Settings) -> anyhow::Result<ShadowSettings> {
    let header = &config.shadow.build_header;
    let slices = config
        .slices
        .iter()
        .map(|slice| shadow_slice(carried, slice));
    Ok(ShadowSettings {
        slices: slices.collect::<anyhow::Result<_>>()?,
        build_header: header
            .parse()
            .with_context(|| format!("`{header}` is no header"))?,
        limits: ShadowLimits::default(),
    })
}

/// The same for what is played again: the builds of a command line take the places of upstreams.
pub(crate) fn replayed(config: &Config) -> anyhow::Result<ShadowSettings> {
    shadow(config, &proxy(config)?)
}

fn shadow_slice(carried: &Settings, slice: &Slice) -> anyhow::Result<SliceShadow> {
    // The proxy tells it who the upstreams are, and how that changes.
    let mut services = carried.services.iter();
    let service = services.find(|service| service.name == slice.service);
    let extracted = service.map(|service| service.places.clone());
    let extracted = extracted.with_context(|| format!("slice `{}` has no service", slice.id))?;
    Ok(SliceShadow {
        id: slice.id.clone(),
        legacy: carried.legacy.places.clone(),
        extracted,
        sandbox: slice
            .shadow
            .sandbox
            .iter()
            .filter_map(Address::place)
            .collect(),
        rewrites: slice.shadow.rewrites.clone(),
        sample: slice.shadow.sample,
        flow: slice.shadow.flow.clone(),
        noise_sample: slice.shadow.noise_sample,
        rules: slice.shadow.rules.clone(),
        arrays: slice.shadow.arrays.clone(),
        headers: slice.shadow.headers.clone(),
        redact: slice.shadow.redact.clone(),
        keep: slice.shadow.keep,
        mismatch_max: slice.plan.mismatch_max,
    })
}

/// The link of a slice; `None` for one without tables.
pub(super) fn link(config: &Config, slice: &Slice) -> anyhow::Result<Option<LinkSpec>> {
    if slice.tables.is_empty() {
        return Ok(None);
    }
    let url = |database: &Option<Database>, whose: &str| match database {
        Some(Database::Sqlite(path)) => Ok(DatabaseUrl::Sqlite(path.clone())),
        Some(Database::Server(url)) => Ok(url.clone()),
        None => anyhow::bail!(
            "slice `{}` has tables, but {whose} has no database",
            slice.id
        ),
    };
    Ok(Some(LinkSpec {
        slice: slice.id.clone(),
        legacy: url(&config.legacy.database, "[legacy]")?,
        extracted: url(&service(config, slice)?.database, "its service")?,
        tables: slice
            .tables
            .iter()
            .map(table)
            .collect::<anyhow::Result<_>>()?,
        writes: slice.sync.writes.clone(),
        limits: LinkLimits {
            copy_rate: slice.sync.copy_rate,
            copy_parallel: slice.sync.copy_parallel,
            copy_lag: slice.sync.copy_lag,
            max_running: slice.sync.max_running,
            log_bytes: slice.sync.log_limit,
            repair_rows: slice.sync.repair_limit,
            transactions: slice.sync.transactions,
            noted_bytes: slice.sync.noted_limit,
            watch: slice.sync.verify,
            ..LinkLimits::default()
        },
    }))
}

/// With as many clients as there are descriptors for, unless the file says how many.
fn limits(config: &Config) -> ProxyLimits {
    let own = &config.proxy.limits;
    ProxyLimits {
        connect_timeout: config.proxy.connect_timeout,
        request_timeout: config.proxy.request_timeout,
        hold_timeout: config.proxy.hold_timeout,
        clients_max: own.clients_max.or_else(|| Some(descriptors::clients())),
        ..own.clone()
    }
}

fn table(table: &Table) -> anyhow::Result<TableSpec> {
    let column = |column: &crate::config::Column| {
        Ok(ColumnSpec {
            extracted: column.extracted.clone(),
            source: source(&column.source)?,
        })
    };
    let default = |(name, value): &(String, serde_json::Value)| Ok((name.clone(), cell(value)?));
    Ok(TableSpec {
        legacy: table.legacy.clone(),
        extracted: table.extracted.clone(),
        key: table.key.clone(),
        columns: table
            .columns
            .iter()
            .map(column)
            .collect::<anyhow::Result<_>>()?,
        defaults: table
            .defaults
            .iter()
            .map(default)
            .collect::<anyhow::Result<_>>()?,
        rows: table.rows.as_ref().map(rows).transpose()?,
        also: table.also.iter().map(also).collect(),
        zero_dates: match table.zero_dates {
            crate::config::ZeroDates::Keep => ZeroDates::Keep,
            crate::config::ZeroDates::Refuse => ZeroDates::Refuse,
            crate::config::ZeroDates::Null => ZeroDates::Null,
        },
    })
}

fn also(also: &Also) -> AlsoSpec {
    AlsoSpec {
        table: also.table.clone(),
        key: also.key.clone(),
        optional: also.optional,
    }
}

fn rows(rows: &Rows) -> anyhow::Result<RowFilter> {
    Ok(RowFilter {
        column: rows.column.clone(),
        values: rows
            .values
            .iter()
            .map(cell)
            .collect::<anyhow::Result<_>>()?,
        not: rows.not,
    })
}

fn cell(value: &serde_json::Value) -> anyhow::Result<Cell> {
    Cell::from_json(value).with_context(|| format!("`{value}` is no value of a column"))
}

fn source(source: &Source) -> anyhow::Result<outgrow_bridge::Source> {
    use outgrow_bridge::Source as Link;
    Ok(match source {
        Source::Rename(from) => Link::Rename(from.clone()),
        Source::Cents { from, scale } => Link::Cents {
            from: from.clone(),
            scale: *scale,
        },
        Source::Map { from, pairs } => Link::Map {
            from: from.clone(),
            pairs: pairs
                .iter()
                .map(|(legacy, extracted)| Ok((cell(legacy)?, cell(extracted)?)))
                .collect::<anyhow::Result<_>>()?,
        },
        Source::LocalTime { from, offset } => Link::LocalTime {
            from: from.clone(),
            offset: *offset,
        },
        Source::ZonedTime {
            from,
            zone,
            ambiguous,
        } => Link::ZonedTime {
            from: from.clone(),
            zone: zone.clone(),
            ambiguous: *ambiguous,
        },
        Source::Const(value) => Link::Const(cell(value)?),
        Source::Expr {
            from,
            forward,
            reverse,
        } => Link::Expr {
            from: from.clone(),
            forward: forward.clone(),
            reverse: reverse.clone(),
        },
        Source::Lookup {
            from,
            table,
            key,
            value,
        } => Link::Lookup {
            from: from.clone(),
            table: table.clone(),
            key: key.clone(),
            value: value.clone(),
        },
        Source::Join {
            from,
            literals,
            empty_is_null,
        } => Link::Join {
            from: from.clone(),
            literals: literals.clone(),
            empty_is_null: *empty_is_null,
        },
        Source::Part {
            of,
            part,
            at,
            empty_is_null,
        } => Link::Part {
            of: of.clone(),
            part: *part,
            at: at.clone(),
            empty_is_null: *empty_is_null,
        },
    })
}
