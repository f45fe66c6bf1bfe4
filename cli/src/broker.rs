//! Change events of links and the broker that they go to.
//!
//! The bridge knows a broker as something that takes events; which one it is, is said here. A
//! build without the feature `nats` has none, and its config says so.

#[cfg(feature = "nats")]
mod nats;

use outgrow_bridge::events::Events;

use crate::commands::check::Finding;
use crate::config::Slice;

/// What a link is told of the events of its slice.
pub(crate) fn events(slice: &Slice) -> Option<Events> {
    let wanted = slice.events.as_ref()?;
    made(slice, wanted)
}

#[cfg(feature = "nats")]
#[allow(clippy::unnecessary_wraps)] // Without the feature there is none.
fn made(slice: &Slice, wanted: &crate::config::Events) -> Option<Events> {
    Some(Events {
        sink: std::sync::Arc::new(nats::JetStream::new(slice.id.clone(), wanted.clone())),
        keep: wanted.keep,
        before: wanted.before,
    })
}

#[cfg(not(feature = "nats"))]
fn made(_: &Slice, _: &crate::config::Events) -> Option<Events> {
    None
}

/// Whether the broker of a slice can be used.
#[cfg(feature = "nats")]
pub(crate) async fn check(slice: &Slice) -> Option<Finding> {
    let wanted = slice.events.as_ref()?;
    let seen = nats::look(&slice.id, wanted).await;
    Some(Finding {
        what: format!("events of `{}` to {}", slice.id, wanted.server),
        ok: seen.is_ok(),
        detail: seen.unwrap_or_else(|why| why),
    })
}

#[cfg(not(feature = "nats"))]
#[allow(clippy::unused_async)] // With the feature it connects.
pub(crate) async fn check(_: &Slice) -> Option<Finding> {
    None
}
