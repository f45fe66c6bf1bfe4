//! Controllers on a store of their own, beside a [`World`].

use std::collections::BTreeMap;
use std::time::Duration;

use outgrow_control::{Controller, Identity, Note, ServiceSpec, SliceSpec, Specs, Store};
use outgrow_rollout::{Plan, SliceId, Weight};
use outgrow_testkit::eventually;
use tempfile::TempDir;

use super::World;

/// A plan without waiting.
fn quick_plan() -> Plan {
    Plan {
        canary: vec![weight("5"), Weight::FULL],
        hold: Duration::ZERO,
        min_requests: 0,
        shadow_min: Duration::ZERO,
        soak: Duration::ZERO,
        quiet: Duration::ZERO,
        cutover_timeout: Duration::from_secs(2),
        ..Plan::default()
    }
}

pub(crate) fn weight(percent: &str) -> Weight {
    Weight::from_percent(percent).unwrap()
}

pub(crate) fn catalog() -> SliceId {
    SliceId::new("catalog").unwrap()
}

/// `catalog` with tables, `quotes` without.
fn specs(plan: &Plan) -> Specs {
    let spec = |has_tables| SliceSpec {
        plan: plan.clone(),
        has_tables,
    };
    let slices = BTreeMap::from([
        (catalog(), spec(true)),
        (SliceId::new("quotes").unwrap(), spec(false)),
    ]);
    let services = BTreeMap::new();
    Specs { slices, services }
}

/// A store in a directory of its own, and the controllers on it.
pub(crate) struct Home {
    pub dir: TempDir,
    pub world: World,
    pub plan: Plan,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            world: World::healthy(),
            plan: quick_plan(),
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("sqlite:{}", self.dir.path().join("store.db").display())
    }

    pub(crate) async fn store(&self) -> Store {
        Store::open(&self.address()).await.unwrap()
    }

    pub(crate) async fn start(&self) -> Controller {
        self.try_start().await.unwrap()
    }

    pub(crate) async fn try_start(&self) -> Result<Controller, outgrow_control::ControlError> {
        let identity = Identity {
            holder: "test".to_owned(),
            version: "0.0.0".to_owned(),
        };
        let store = self.store().await;
        let mut specs = specs(&self.plan);
        let builds = self.world.see().builds.clone();
        if !builds.is_empty() {
            let spec = ServiceSpec {
                builds: builds.into_iter().map(|one| one.build).collect(),
                slices: vec![catalog()],
            };
            specs.services.insert("catalog".to_owned(), spec);
        }
        Controller::start(store, self.world.ports(), specs, identity).await
    }

    /// Takes steps, with traffic between them, until `step` is the next one.
    pub(crate) async fn walk(&self, controller: &Controller, slice: &str, step: &str) {
        eventually(step, Duration::from_secs(10), || async {
            let next = controller.slice_status(slice).unwrap().next;
            if next.is_some_and(|next| next.id == step) {
                return Some(());
            }
            self.world.serve(10);
            // A gate that lacks evidence has it soon.
            let _ = controller
                .runbook_next(slice, false, Note::new(Some("ana"), None))
                .await;
            None
        })
        .await;
    }

    /// SQL past the store, as a meddler would.
    pub(crate) async fn sql(&self, statements: &'static str) -> Result<(), sqlx::Error> {
        let pool = outgrow_testkit::database::open(&self.dir.path().join("store.db")).await;
        let done = sqlx::raw_sql(statements).execute(&pool).await.map(drop);
        pool.close().await;
        done
    }

    /// As after a kill: the lease of the dead process would lapse within seconds.
    pub(crate) async fn lapse_lease(&self) {
        self.sql("UPDATE leases SET until = 0").await.unwrap();
    }
}

/// The actions of the journal, oldest first.
pub(crate) async fn actions(controller: &Controller, slice: &str) -> Vec<String> {
    let entries = controller.journal(Some(slice), None, None).await.unwrap();
    entries.into_iter().map(|entry| entry.action).collect()
}
