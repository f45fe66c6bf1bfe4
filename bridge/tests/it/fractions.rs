//! Fractions of a second that a column has no room for are told before the copy, and only those.

use outgrow_bridge::Link;

use crate::mapping::{following, says, spec};
use crate::postgres::Db;
use crate::postgres_values::same;

/// What is told of a legacy and an extracted column of these types.
async fn told(legacy: &Db, extracted: &Db) -> Vec<String> {
    let columns = ["id", "at", "day", "hour", "note"];
    let spec = spec(legacy, extracted, vec![same("item", &["id"], &columns)]);
    let link = Link::open(spec).await.unwrap();
    let found = link.preflight().await.unwrap();
    assert!(found.ok(), "{:?}", found.problems);
    link.shutdown().await;
    found.advice.iter().map(ToString::to_string).collect()
}

fn item(at: &str, hour: &str) -> String {
    format!(
        "CREATE TABLE item (id int PRIMARY KEY, at {at}, day date, hour {hour}, note varchar(9))"
    )
}

async fn of(pair: (&str, &str), at: (&str, &str), hour: (&str, &str)) -> Vec<String> {
    let made = async |engine: &str, at: &str, hour: &str| match engine {
        "pg" => Db::pg(&item(at, hour)).await,
        "my" => Db::my(&item(at, hour)).await,
        _ => Db::lite(&item(at, hour)).await,
    };
    let legacy = made(pair.0, at.0, hour.0).await;
    let extracted = made(pair.1, at.1, hour.1).await;
    told(&legacy, &extracted).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_column_of_mysql_would_cut_is_told() {
    for (types, digits, kept) in [
        (("timestamptz", "timestamp NULL"), 6, "no part of one"),
        (("timestamp", "datetime"), 6, "no part of one"),
        (("timestamp(3)", "datetime"), 3, "no part of one"),
        (("timestamp", "datetime(3)"), 6, "3 digits"),
    ] {
        let all = of(("pg", "my"), types, ("time(0)", "time")).await;
        assert_eq!(all.len(), 1, "{all:?}");
        let begin = format!(
            "`item -> item` column `at`: `item.at` has {digits} digits behind the second, and \
             `item.at` keeps {kept}: what is beyond is lost"
        );
        assert!(all[0].starts_with(&begin), "{all:?}");
        assert!(all[0].contains(&format!("`datetime({digits})`")), "{all:?}");
    }
    for types in [
        ("timestamptz", "timestamp(6) NULL"),
        ("timestamp(0)", "datetime"),
        ("timestamp(3)", "datetime(3)"),
        // Texts have as many digits as they have.
        ("timestamp", "varchar(40)"),
    ] {
        let all = of(("pg", "my"), types, ("time(0)", "time")).await;
        assert_eq!(all, Vec::<String>::new(), "{types:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_is_what_would_be_lost_on_its_way_back_and_between_equal_engines() {
    let all = of(
        ("my", "pg"),
        ("datetime(3)", "timestamp"),
        ("time", "time(0)"),
    )
    .await;
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(
        all[0].contains("keeps 3 digits: what is beyond is lost on its way back"),
        "{all:?}"
    );
    let all = of(
        ("my", "my"),
        ("datetime(6)", "datetime(1)"),
        ("time(6)", "time"),
    )
    .await;
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(
        all[0].contains("keeps one digit: what is beyond is lost ("),
        "{all:?}"
    );
    assert!(all[1].contains("column `hour`"), "{all:?}");
    let all = of(
        ("pg", "pg"),
        ("timestamp", "timestamp(3)"),
        ("time", "time"),
    )
    .await;
    assert_eq!(all.len(), 1, "{all:?}");
    let all = of(("lite", "pg"), ("text", "timestamp"), ("text", "time")).await;
    assert_eq!(all, Vec::<String>::new());
}

/// That it is so.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_to_be_lost_is_lost() {
    let legacy = Db::pg(&item("timestamp", "time(0)")).await;
    let extracted = Db::my(&item("datetime(3)", "time")).await;
    let row = "INSERT INTO item (id, at) VALUES (1, '2026-01-02 03:04:05.678987')";
    legacy.execute(row).await;
    let columns = ["id", "at", "day", "hour", "note"];
    let spec = spec(&legacy, &extracted, vec![same("item", &["id"], &columns)]);
    let link = following(spec).await;
    let cut = "SELECT count(*) FROM item WHERE at = '2026-01-02 03:04:05.678'";
    says(&extracted, cut, 1).await;
    link.shutdown().await;
}
