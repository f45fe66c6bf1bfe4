//! Named points at which a test may end the process, to prove that dying there loses nothing.

use std::fmt;
use std::sync::Arc;

/// Called with the name of each point that is passed; what it does is the caller's business.
#[derive(Clone)]
pub struct FaultHook(Arc<dyn Fn(&'static str) + Send + Sync>);

impl FaultHook {
    pub fn new(hook: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    pub(crate) fn pass(hook: Option<&Self>, point: &'static str) {
        if let Some(Self(hook)) = hook {
            hook(point);
        }
    }
}

impl fmt::Debug for FaultHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultHook")
    }
}
