//! Where everything of one demo lies, and the config that it runs under.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// How many fresh directory names are tried before asking for `--dir`.
const NAMES_TRIED: u32 = 1_000;

/// The demo's directory and its addresses.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
    pub(crate) proxy: SocketAddr,
    pub(crate) control: SocketAddr,
    pub(crate) monolith: SocketAddr,
    pub(crate) catalog: SocketAddr,
    pub(crate) reviews: SocketAddr,
}

impl Layout {
    /// Makes the directory (the first free `outgrow-demo-N` here, unless one is named), takes
    /// free loopback ports and writes the config and the secret that signs identities.
    ///
    /// # Errors
    /// When the directory holds something already or cannot be written.
    pub(crate) fn create(wanted: Option<&Path>, secret: &str) -> anyhow::Result<Self> {
        let dir = match wanted {
            Some(dir) => named(dir)?,
            None => fresh()?,
        };
        for inner in ["data", "logs"] {
            std::fs::create_dir_all(dir.join(inner))
                .with_context(|| format!("cannot write to {}", dir.display()))?;
        }
        let dir = dir
            .canonicalize()
            .with_context(|| format!("cannot open {}", dir.display()))?;
        let [proxy, control, monolith, catalog, reviews] = free_addresses()?;
        let layout = Self {
            dir,
            proxy,
            control,
            monolith,
            catalog,
            reviews,
        };
        std::fs::write(layout.secret(), secret)?;
        std::fs::write(layout.config(), layout.config_text())?;
        Ok(layout)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("outgrow.toml")
    }

    pub(crate) fn secret(&self) -> PathBuf {
        self.dir.join("identity.secret")
    }

    pub(crate) fn token(&self) -> PathBuf {
        self.dir.join("admin.token")
    }

    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{process}.log"))
    }

    /// The database of the shop (`shop`) or of a service.
    pub(crate) fn database(&self, of: &str) -> PathBuf {
        self.dir.join("data").join(format!("{of}.db"))
    }

    pub(crate) fn database_url(&self, of: &str) -> String {
        format!("sqlite:{}", self.database(of).display())
    }

    /// The config, with a plan whose waits fit into two minutes. The comments say what a team
    /// would write there.
    pub(crate) fn config_text(&self) -> String {
        let Self {
            proxy,
            control,
            monolith,
            catalog,
            reviews,
            ..
        } = self;
        format!(
            r#"# The shop's migration, as `outgrow demo` runs it. The waits and numbers of the plans are
# small, so that it fits into two minutes; beside each stands what a team would write.

[proxy]
listen = ["{proxy}"]

[proxy.identity]
cookie = "sid"
whoami = "/api/me"
secret_file = "identity.secret"

[legacy]
urls = ["http://{monolith}"]
database = "sqlite:data/shop.db"

[control]
listen = "{control}"
store = "sqlite:outgrow-store.db"
token_file = "admin.token"

[shadow]
build_header = "x-build-id"

[services.catalog]
urls = ["http://{catalog}"]
database = "sqlite:data/catalog.db"

[services.reviews]
urls = ["http://{reviews}"]
database = "sqlite:data/reviews.db"
{CATALOG}{CATALOG_SHADOW}{plan_catalog}{REVIEWS}{REVIEWS_SHADOW}{plan_reviews}"#,
            plan_catalog = plan("catalog"),
            plan_reviews = plan("reviews"),
        )
    }
}

/// The same plan for both slices.
fn plan(slice: &str) -> String {
    format!(
        r#"
[slices.{slice}.plan]
canary = [10, 25, 50, 100]   # [1, 5, 25, 50, 100]
hold = "1500ms"              # "10m"
min_requests = 40            # 1000
mismatch_max = 0.01          # 0.001
class_min = 5                # 30
shadow_min = "2s"            # "24h"
lag_max = "1s"
soak = "1s"                  # "14d"
quiet = "2s"                 # "7d"
cutover_timeout = "2s"

[slices.{slice}.guard]
alpha = 0.001
"#
    )
}

const CATALOG: &str = r#"
[slices.catalog]
service = "catalog"
routes = [
    "GET /api/products",
    "GET /api/products/{id}",
    "GET /api/products/{id}/prices",
    "GET /api/categories",
    "PUT /api/products/{id}/price",
]
cohort = ["cookie:sid", "header:x-visitor"]

[[slices.catalog.tables]]
legacy = "categories"
extracted = "category"
key = ["id"]
columns = { id = "id", label = "name", parent_id = "parent_id", sort_order = "position" }

[[slices.catalog.tables]]
legacy = "products"
extracted = "product"
key = ["id"]

[slices.catalog.tables.columns]
id = "id"
sku = "sku"
title = "name"
description = "description"
category_id = "category_id"
state = { from = "status", map = { A = "active", D = "discontinued", S = "seasonal" } }
is_featured = { from = "featured", forward = "value == 'Y' ? 1 : 0", reverse = "value == 1 ? 'Y' : 'N'" }
labels = "tags"
weight_g = "weight_g"
created_at = { from = "created_at", local_time = "+01:00" }
updated_at = { from = "updated_at", local_time = "+01:00" }

# The same legacy table again: its price lives in a table of its own on the new side.
[[slices.catalog.tables]]
legacy = "products"
extracted = "product_price"
key = ["id"]
columns = { product_id = "id", amount_cents = { from = "price", cents = 2 }, currency = "currency" }

[[slices.catalog.tables]]
legacy = "price_changes"
extracted = "price_change"
key = ["id"]

[slices.catalog.tables.columns]
id = "id"
product_id = "product_id"
old_cents = { from = "old_price", cents = 2 }
new_cents = { from = "new_price", cents = 2 }
staff_id = "changed_by"
ref = "ref"
changed_at = { from = "changed_at", local_time = "+01:00" }
"#;

const CATALOG_SHADOW: &str = r#"
[slices.catalog.shadow]
sample = 1.0
arrays = [
    { path = "$.tags", as = "set" },
    { path = "$.products[*].tags", as = "set" },
]
ignore = [
    { path = "$.request_id", reason = "random per request", until = "2030-01-01" },
    { path = "$.generated_at", reason = "the clock of whoever answers", until = "2030-01-01" },
]
"#;

const REVIEWS: &str = r#"
[slices.reviews]
service = "reviews"
routes = [
    "GET /api/products/{id}/reviews",
    "GET /api/reviews/{id}",
    "POST /api/products/{id}/reviews",
    "POST /api/reviews/{id}/helpful",
]
cohort = ["cookie:sid", "header:x-visitor"]

[[slices.reviews.tables]]
legacy = "reviews"
extracted = "review"
key = ["id"]

[slices.reviews.tables.columns]
id = "id"
product_id = "product_id"
author_id = "user_id"
author_name = "author"
stars = "rating"
state = { from = "status", map = { P = "pending", A = "approved", R = "rejected" } }
helpful_count = "helpful"
posted_at = { from = "created_at", local_time = "+01:00" }

[[slices.reviews.tables]]
legacy = "reviews"
extracted = "review_text"
key = ["id"]
columns = { review_id = "id", headline = "title", content = "body", staff_reply = "reply" }
"#;

const REVIEWS_SHADOW: &str = r#"
[slices.reviews.shadow]
sample = 1.0
ignore = [
    { path = "$.request_id", reason = "random per request", until = "2030-01-01" },
    { path = "$.generated_at", reason = "the clock of whoever answers", until = "2030-01-01" },
]
"#;

fn named(dir: &Path) -> anyhow::Result<PathBuf> {
    let taken = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if taken {
        bail!(
            "{} is not empty; name another directory by `--dir`",
            dir.display()
        );
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir.to_owned())
}

fn fresh() -> anyhow::Result<PathBuf> {
    for number in 1..=NAMES_TRIED {
        let dir = PathBuf::from(format!("outgrow-demo-{number}"));
        // Creating it is also the check that it is ours alone.
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => {
                return Err(e).context("cannot create a directory here; name one by `--dir`");
            }
        }
    }
    bail!("outgrow-demo-1 to -{NAMES_TRIED} all exist; remove some, or use `--dir`")
}

/// Loopback addresses that nobody listens on. All are held at once, so they differ.
fn free_addresses<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    let mut held = Vec::new();
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).context("no loopback port is free")?;
        *address = listener.local_addr()?;
        held.push(listener);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_use_is_refused_and_an_empty_one_taken() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(Some(dir.path()), "secret").unwrap();
        assert!(layout.config().exists() && layout.secret().exists());
        let error = Layout::create(Some(dir.path()), "secret").unwrap_err();
        assert!(error.to_string().contains("--dir"), "{error}");
    }

    #[test]
    fn the_config_is_one_that_outgrow_takes() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(Some(dir.path()), "a secret that nobody would guess").unwrap();
        let config = crate::config::Config::load(&layout.config()).unwrap();
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        assert_eq!(config.proxy.listen, [layout.proxy]);
        let tables = |slice: &str| config.slice(slice).unwrap().tables.len();
        assert_eq!((tables("catalog"), tables("reviews")), (4, 2));
    }

    #[test]
    fn ports_differ() {
        let addresses: [SocketAddr; 5] = free_addresses().unwrap();
        let distinct: std::collections::BTreeSet<_> = addresses.iter().collect();
        assert_eq!(distinct.len(), 5);
    }
}
