//! Whether a difference is only a change of the passive side that is on its way.

use outgrow_rollout::Side;

use super::books::At;
use crate::db::Tx;
use crate::error::Error;
use crate::plan::Plan;
use crate::shared::Shared;

/// What the source has of the passive side's stream, in this snapshot; `None` where it is not
/// applied at all.
pub(crate) async fn back(shared: &Shared, source: Side, tx: &mut Tx) -> Result<Option<i64>, Error> {
    if shared.spec.writes.both().is_none() {
        return Ok(None);
    }
    let position = shared.on(source).position(tx, source.other()).await?;
    Ok(Some(position.map_or(0, |p| p.seq)))
}

/// Whether the passive side has a change of this row that the source had not, as of
/// [`back`].
pub(crate) async fn on_its_way(
    shared: &Shared,
    plan: &Plan,
    passive: Side,
    (group, key): &At,
    back: Option<i64>,
) -> Result<bool, Error> {
    let Some(back) = back else { return Ok(false) };
    let database = shared.on(passive);
    database.settle_stream().await?;
    let mut tx = database.read().await?;
    let tables = plan.groups[*group].tables(passive);
    database.touched(&mut tx, tables, key, back).await
}
