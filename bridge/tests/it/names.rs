//! Names that engines would cut: of slices and of tables.

use outgrow_bridge::{Capture, Link, TableSpec};
use outgrow_rollout::{DataPhase, Side};

use crate::mapping::{entry, following, same, says, spec};
use crate::postgres::Db;
use crate::turning::cut_over;

/// Two names that are alike in all that an engine would keep of `SLICE_note_NAME`.
fn names() -> [String; 2] {
    ["a", "b"].map(|end| format!("{}{end}", "stock_of_the_warehouse_".repeat(3)).split_off(10))
}

fn tables() -> String {
    let create = |name: &String| format!("CREATE TABLE {name} (id integer PRIMARY KEY, n bigint)");
    names().iter().map(create).collect::<Vec<_>>().join("; ")
}

fn mapped() -> Vec<TableSpec> {
    let one = |name: &String| entry(name, name, vec![("id", same("id")), ("n", same("n"))]);
    names().iter().map(one).collect()
}

/// The whole way, with two slices whose names are alike, too.
async fn long_names(legacy: Db, extracted: Db, capture: Capture, ours: &str) {
    let slice = "a-slice-whose-name-is-as-long-as-a-name-of-a-slice-may-ever-b";
    let mut spec = spec(&legacy, &extracted, mapped());
    spec.slice = format!("{slice}e").parse().unwrap();
    spec.legacy = spec.legacy.capturing(capture).unwrap();
    let [a, b] = names();
    legacy
        .execute(&format!("INSERT INTO {a} VALUES (1, 1)"))
        .await;
    legacy
        .execute(&format!("INSERT INTO {b} VALUES (1, 1)"))
        .await;
    let link = following(spec.clone()).await;
    legacy
        .execute(&format!("INSERT INTO {a} VALUES (2, 20)"))
        .await;
    legacy
        .execute(&format!("UPDATE {b} SET n = 10 WHERE id = 1"))
        .await;
    says(
        &extracted,
        &format!("SELECT coalesce(max(n), 0) FROM {a} WHERE id = 2"),
        20,
    )
    .await;
    says(
        &extracted,
        &format!("SELECT coalesce(max(n), 0) FROM {b} WHERE id = 1"),
        10,
    )
    .await;
    cut_over(&link, Side::Extracted).await;
    extracted
        .execute(&format!("DELETE FROM {a} WHERE id = 1"))
        .await;
    extracted
        .execute(&format!("INSERT INTO {b} VALUES (3, 30)"))
        .await;
    says(&legacy, &format!("SELECT count(*) FROM {a}"), 1).await;
    says(
        &legacy,
        &format!("SELECT coalesce(max(n), 0) FROM {b} WHERE id = 3"),
        30,
    )
    .await;
    cut_over(&link, Side::Legacy).await;
    assert_eq!(link.verify().await.unwrap().different, 0);
    // A neighbour whose name begins alike takes nothing of it along when it goes.
    let mut neighbour = spec.clone();
    neighbour.slice = format!("{slice}y").parse().unwrap();
    let neighbour = Link::open(neighbour).await.unwrap();
    neighbour
        .ensure(DataPhase::Copying, Side::Legacy)
        .await
        .unwrap();
    neighbour.close().await.unwrap();
    legacy
        .execute(&format!("UPDATE {a} SET n = 7 WHERE id = 2"))
        .await;
    says(
        &extracted,
        &format!("SELECT coalesce(max(n), 0) FROM {a} WHERE id = 2"),
        7,
    )
    .await;
    link.close().await.unwrap();
    assert_eq!(legacy.number(ours).await, 0, "something is left");
}

const LEFT_PG: &str = "SELECT (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
    WHERE nspname = '_outgrow') + (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'outgrow%') \
    + (SELECT count(*) FROM pg_publication)";
const LEFT_MY: &str = "SELECT (SELECT count(*) FROM information_schema.tables WHERE table_name LIKE '|_outgrow%' ESCAPE '|') \
    + (SELECT count(*) FROM information_schema.triggers WHERE trigger_name LIKE '|_outgrow%' ESCAPE '|')";

#[tokio::test(flavor = "multi_thread")]
async fn long_names_on_postgres_by_triggers() {
    let (legacy, extracted) = (Db::pg(&tables()).await, Db::pg(&tables()).await);
    long_names(legacy, extracted, Capture::Triggers, LEFT_PG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_names_on_postgres_by_replication() {
    let (legacy, extracted) = (Db::pg(&tables()).await, Db::pg(&tables()).await);
    long_names(legacy, extracted, Capture::Replication, LEFT_PG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_names_on_mariadb_by_triggers() {
    let (legacy, extracted) = (Db::my(&tables()).await, Db::lite(&tables()).await);
    long_names(legacy, extracted, Capture::Triggers, LEFT_MY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_names_on_mariadb_by_replication() {
    let (legacy, extracted) = (Db::logged(&tables()).await, Db::my(&tables()).await);
    long_names(legacy, extracted, Capture::Replication, LEFT_MY).await;
}
