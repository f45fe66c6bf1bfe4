//! Compares: mirrors answered reads to the other side and says what differs.

mod tap;

pub use tap::{CapturedRequest, CapturedResponse, Exchange, SHADOW_MARK, Tap, Ticket};
