//! Waiting for a value, never for a time.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// Between two looks: short enough that a test ends promptly, long enough that looking costs
/// nothing.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Calls `look` until it gives a value, and returns that.
///
/// # Panics
/// Panics, naming `what`, when `within` has passed without a value.
#[allow(clippy::panic)] // A test that waits in vain has failed; `what` is its message.
pub async fn eventually<T, F, Fut>(what: &str, within: Duration, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = look().await {
            return value;
        }
        if Instant::now() >= deadline {
            panic!("waited {within:?} in vain for: {what}");
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn returns_the_value_when_it_comes() {
        let mut looks = 0;
        let value = eventually("the third look", Duration::from_secs(1), || {
            looks += 1;
            let found = (looks == 3).then_some(looks);
            async move { found }
        })
        .await;
        assert_eq!(value, 3);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "in vain for: a value that never comes")]
    async fn says_what_it_waited_for() {
        eventually(
            "a value that never comes",
            Duration::from_secs(60),
            || async { None::<()> },
        )
        .await;
    }
}
