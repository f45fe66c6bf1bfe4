//! What is held for the events when the change stream is trimmed, and when it is let go.

use outgrow_rollout::Side;

use super::Desk;
use crate::db::Database;
use crate::error::Error;
use crate::shared::Shared;

#[derive(Debug, PartialEq, Eq)]
enum Trim {
    To(i64),
    /// What is held has become too much.
    LetGo,
}

/// How far a stream may be trimmed that was applied up to a place and told up to `floor`.
fn decide(applied: i64, floor: Option<i64>, keep: u64) -> Trim {
    match floor.filter(|floor| *floor < applied) {
        None => Trim::To(applied),
        Some(floor) if applied.abs_diff(floor) > keep => Trim::LetGo,
        Some(floor) => Trim::To(floor),
    }
}

/// The place up to which both the other side and the events are past.
pub(crate) async fn trim_to(
    shared: &Shared,
    database: &Database,
    applied: i64,
) -> Result<i64, Error> {
    let Some(desk) = &shared.events else {
        return Ok(applied);
    };
    let mut tx = database.read().await?;
    let floor = database.events_floor(&mut tx).await?;
    drop(tx);
    match decide(applied, floor, desk.events.keep) {
        Trim::To(place) => Ok(place),
        Trim::LetGo => {
            park(desk, database).await?;
            Ok(applied)
        }
    }
}

async fn park(desk: &Desk, database: &Database) -> Result<(), Error> {
    let trouble = desk.state(|s| s.trouble.clone());
    let trouble = trouble.unwrap_or_else(|| "the broker is slow".to_owned());
    let (slice, keep) = (&database.slice, desk.events.keep);
    let trouble: String = trouble.chars().take(500).collect();
    let why = format!(
        "more than {keep} changes waited ({trouble}), so they are not kept any more: mend it, then \
         run `outgrow sync events {slice} --resume`; consumers are told of the gap"
    );
    tracing::error!(%slice, side = %database.side, "events are parked: {why}");
    database.park_segments(&why).await?;
    desk.state(|s| s.parked = Some(why));
    Ok(())
}

/// Goes on after a park. Whether there was anything to go on with.
pub(crate) async fn resume(shared: &Shared) -> Result<bool, Error> {
    let mut resumed = 0;
    for side in [Side::Legacy, Side::Extracted] {
        let database = shared.on(side);
        if database.installed().await? {
            resumed += database.resume_segments().await?;
        }
    }
    if let Some(desk) = &shared.events {
        desk.state(|s| s.parked = None);
        desk.resumed.notify_one();
    }
    Ok(resumed > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_told_is_kept_up_to_a_limit() {
        assert_eq!(decide(100, None, 10), Trim::To(100));
        assert_eq!(decide(100, Some(100), 10), Trim::To(100));
        assert_eq!(decide(100, Some(130), 10), Trim::To(100));
        assert_eq!(decide(100, Some(90), 10), Trim::To(90));
        assert_eq!(decide(100, Some(89), 10), Trim::LetGo);
    }
}
