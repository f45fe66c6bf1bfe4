//! `kill -9` of a verification: another process goes on where it was, and no row is called different
//! that is not.

use outgrow_bridge::{Link, VerifyOptions};
use outgrow_rollout::{DataPhase, Side};
use outgrow_testkit::eventually;

use crate::crash::{VERIFY, child_between};
use crate::postgres::{Db, EXTRACTED_PG, EXTRACTED_SQLITE, LEGACY_PG, LEGACY_SQLITE, Pair, items};
use crate::shop::{Dice, WAIT};

const ROWS: u32 = 500;
/// Rows that differ: one that is looked at first, one in the midst, one at the end.
const ROTTEN: [&str; 3] = ["3", "250", "499"];

/// How many rows were looked at by the note of the verification under way; zero where there is none.
async fn noted(pair: &Pair) -> i64 {
    let (looked_at, kept) = match &pair.extracted {
        Db::Lite(_) => (
            "json_extract(state, '$.looked_at')",
            "_outgrow_items_verify",
        ),
        Db::Pg(_) | Db::My(_) => (
            "(state::json ->> 'looked_at')::bigint",
            "_outgrow.items_verify",
        ),
    };
    let text = format!("SELECT CAST(coalesce(max({looked_at}), 0) AS bigint) FROM {kept}");
    pair.extracted.number(&text).await
}

/// Changes rows everywhere but for those that differ.
async fn write(pair: &Pair, dice: &mut Dice) {
    let id = 1 + dice.roll(u64::from(ROWS));
    let spared = ROTTEN.join(", ");
    let text = match dice.roll(4) {
        0 => format!("DELETE FROM item WHERE id = {id} AND id NOT IN ({spared})"),
        1 => {
            let new = 2_000 + u32::try_from(id).unwrap();
            format!("{} ON CONFLICT (id) DO NOTHING", items(new, new))
        }
        _ => format!(
            "UPDATE item SET note = 'n{}' WHERE id BETWEEN {id} AND {id} + 5 AND id NOT IN ({spared})",
            dice.roll(1_000)
        ),
    };
    pair.legacy.execute(&text).await;
}

/// Lets processes begin and go on, each of which is killed, beside a writer; then finishes.
async fn killed(pair: Pair, rots: bool) {
    pair.legacy.execute(&items(1, ROWS)).await;
    let mut spec = pair.spec();
    spec.limits.verify_rows = 5;
    let link = Link::open(spec.clone()).await.unwrap();
    link.ensure(DataPhase::Copying, Side::Legacy).await.unwrap();
    crate::shop::copied(&link).await;
    link.shutdown().await;
    if rots {
        let ids = ROTTEN.join(", ");
        let rot = format!(
            "SET session_replication_role = replica; UPDATE article SET note = 'rot' WHERE id IN ({ids}); \
             SET session_replication_role = DEFAULT"
        );
        pair.extracted.execute(&rot).await;
    }
    let (legacy, extracted) = (pair.legacy.url(), pair.extracted.url());
    let mut dice = Dice(31);
    // Each dies when it has noted so often how far it is; one is killed at any moment before that.
    for (after, kill) in [(1, false), (3, false), (4, true), (2, false)] {
        let before = noted(&pair).await;
        let mut process = child_between(&legacy, &extracted, VERIFY, "verify-kept", after);
        let mut died = None;
        while died.is_none() {
            write(&pair, &mut dice).await;
            if kill && noted(&pair).await > before {
                process.kill().await.unwrap();
            }
            died = process.try_wait().unwrap();
        }
        assert!(!died.unwrap().success(), "{after}");
        assert!(noted(&pair).await > before, "{after}");
        // While nobody follows: what was looked at is not what it was.
        write(&pair, &mut dice).await;
    }
    let link = Link::open(spec).await.unwrap();
    link.ensure(DataPhase::Following, Side::Legacy)
        .await
        .unwrap();
    let resume = VerifyOptions {
        resume: true,
        keep: true,
        ..VerifyOptions::default()
    };
    let report = link.verify_with(&resume).await.unwrap();
    // Seven notes, each of eight strides of five rows.
    let resumed = report.resumed.unwrap();
    assert!((280..u64::from(ROWS)).contains(&resumed), "{resumed}");
    assert!(report.looked_at > resumed, "{}", report.looked_at);
    let mut keys: Vec<&str> = report.differences.iter().map(|d| d.key.as_str()).collect();
    keys.sort_by_key(|key| key.parse::<u32>().unwrap());
    let expected: &[&str] = if rots { &ROTTEN } else { &[] };
    assert_eq!(keys, expected, "{:?}", report.differences);
    assert_eq!(report.unsettled, 0);
    assert_eq!(noted(&pair).await, 0, "it is done");
    eventually("all to be applied", WAIT, || async {
        (link.describe()["backlog"] == 0).then_some(())
    })
    .await;
    assert_eq!(
        link.verify().await.unwrap().different,
        expected.len() as u64
    );
    link.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_verification_goes_on_where_it_was() {
    let pair = Pair::of(Db::pg(LEGACY_PG).await, Db::pg(EXTRACTED_PG).await);
    killed(pair, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_verification_by_rows_goes_on_where_it_was() {
    let legacy = Db::lite(LEGACY_SQLITE).await;
    killed(Pair::of(legacy, Db::lite(EXTRACTED_SQLITE).await), false).await;
}
