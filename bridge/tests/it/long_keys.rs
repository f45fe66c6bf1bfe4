//! Keys as long as MariaDB takes them: its own writes go on, and so does the link.

use outgrow_bridge::{Link, LinkSpec};
use outgrow_rollout::{DataPhase, Side};

use crate::mapping::{entry, following, parked, reasons, same, says, spec, verified};
use crate::postgres::Db;
use crate::turning::cut_over;

const LEGACY: &str = "CREATE TABLE word (id varchar(700) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PRIMARY KEY, n integer NOT NULL); \
    CREATE TABLE print (id varbinary(1500) PRIMARY KEY, n integer NOT NULL);";
const EXTRACTED_SQLITE: &str = "CREATE TABLE word (id text PRIMARY KEY, n integer NOT NULL CHECK (n < 100)); \
    CREATE TABLE print (id blob PRIMARY KEY, n integer NOT NULL);";
const EXTRACTED_PG: &str = "CREATE TABLE word (id text PRIMARY KEY, n integer NOT NULL CHECK (n < 100)); \
    CREATE TABLE print (id bytea PRIMARY KEY, n integer NOT NULL);";
const EXTRACTED_MY: &str = "CREATE TABLE word (id varchar(700) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PRIMARY KEY, n integer NOT NULL CHECK (n < 100)); \
    CREATE TABLE print (id varbinary(1500) PRIMARY KEY, n integer NOT NULL);";

fn mapped(legacy: &Db, extracted: &Db) -> LinkSpec {
    let one = |name| entry(name, name, vec![("id", same("id")), ("n", same("n"))]);
    spec(legacy, extracted, vec![one("word"), one("print")])
}

/// Two keys each, which differ in their last letter only.
async fn write(legacy: &Db, n: u32) {
    for end in ['a', 'b'] {
        legacy
            .execute(&format!(
                "INSERT INTO word VALUES (concat(repeat('é', 690), '{n}{end}'), {n}); \
                 INSERT INTO print VALUES (concat(repeat(x'ff', 1490), '{n}{end}'), {n});"
            ))
            .await;
    }
}

async fn long(legacy: Db, extracted: Db) {
    write(&legacy, 1).await;
    let link = following(mapped(&legacy, &extracted)).await;
    write(&legacy, 2).await;
    legacy
        .execute("UPDATE word SET n = 20 WHERE n = 2; DELETE FROM print WHERE n = 1;")
        .await;
    says(&extracted, "SELECT count(*) FROM word WHERE n = 20", 2).await;
    says(&extracted, "SELECT count(*) FROM print", 2).await;
    verified(&link).await;
    // What the other side refuses is kept, each row by itself.
    legacy.execute("UPDATE word SET n = 100 WHERE n = 20").await;
    parked(&link, 2).await;
    assert!(reasons(&link).await.contains("2b"));
    legacy
        .execute("UPDATE word SET n = 30 WHERE id LIKE '%2a'")
        .await;
    parked(&link, 1).await;
    legacy.execute("UPDATE word SET n = 31 WHERE n = 100").await;
    parked(&link, 0).await;
    cut_over(&link, Side::Extracted).await;
    extracted.execute("DELETE FROM word WHERE n = 30").await;
    says(&legacy, "SELECT count(*) FROM word", 3).await;
    verified(&link).await;
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_keys_from_mariadb_to_sqlite() {
    long(Db::my(LEGACY).await, Db::lite(EXTRACTED_SQLITE).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_keys_from_mariadb_to_postgres() {
    long(Db::my(LEGACY).await, Db::pg(EXTRACTED_PG).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_keys_between_mariadbs() {
    long(Db::my(LEGACY).await, Db::my(EXTRACTED_MY).await).await;
}

/// Tables of the version before had room for 512 characters only; and keys grow.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_of_a_version_before_goes_on() {
    let legacy = Db::my(&LEGACY.replace("700", "60").replace("1500", "60")).await;
    let extracted = Db::my(EXTRACTED_MY).await;
    legacy.execute("INSERT INTO word VALUES ('a', 1)").await;
    let link = following(mapped(&legacy, &extracted)).await;
    link.shutdown().await;
    let narrow: Vec<String> = (0..6)
        .map(|at| format!("MODIFY k{at} VARCHAR(512)"))
        .collect();
    for (side, what) in [
        (&legacy, "noted"),
        (&legacy, "changes"),
        (&extracted, "copy"),
        (&extracted, "parked"),
    ] {
        let text = format!("ALTER TABLE `_outgrow_mapped_{what}` {}", narrow.join(", "));
        side.execute(&text).await;
    }
    legacy.execute("INSERT INTO word VALUES ('b', 1)").await;
    legacy
        .execute("ALTER TABLE word MODIFY id varchar(700) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin; ALTER TABLE print MODIFY id varbinary(1500)")
        .await;
    let link = Link::open(mapped(&legacy, &extracted)).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    write(&legacy, 5).await;
    says(&extracted, "SELECT count(*) FROM word", 4).await;
    says(&extracted, "SELECT count(*) FROM print", 2).await;
    legacy.execute("UPDATE word SET n = 100 WHERE n = 5").await;
    parked(&link, 2).await;
    legacy.execute("DELETE FROM word WHERE n = 100").await;
    parked(&link, 0).await;
    verified(&link).await;
    link.shutdown().await;
}
