//! The way in, as seen from a client's path: counts only. It is the one lock of the shadow that a
//! client's request takes, so each hold is a few additions; the record takes the counts over
//! whenever somebody looks at it.

use std::collections::BTreeMap;

/// What came in since the record last looked.
#[derive(Debug, Default)]
pub(crate) struct Door {
    pub(crate) eligible: u64,
    pub(crate) sampled_out: u64,
    pub(crate) shed: BTreeMap<&'static str, u64>,
    pub(crate) ineligible: BTreeMap<&'static str, u64>,
    pub(crate) admitted: u64,
    pub(crate) abandoned: u64,
    /// Admitted and not yet settled, in all.
    open: u64,
}

impl Door {
    pub(crate) fn ineligible(&mut self, reason: &'static str) {
        *self.ineligible.entry(reason).or_default() += 1;
    }

    pub(crate) fn shed(&mut self, reason: &'static str) {
        *self.shed.entry(reason).or_default() += 1;
    }

    /// Lets one in if fewer than `most` are inside, else counts it as shed.
    pub(crate) fn admit(&mut self, most: usize) -> bool {
        if self.open >= most as u64 {
            self.shed("busy");
            return false;
        }
        self.open += 1;
        self.admitted += 1;
        true
    }

    /// A ticket was dropped before its pair was judged.
    pub(crate) fn abandon(&mut self) {
        self.leave();
        self.abandoned += 1;
    }

    /// A pair was judged.
    pub(crate) fn leave(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// The counts since the last call.
    pub(crate) fn take(&mut self) -> Self {
        let open = self.open;
        std::mem::replace(
            self,
            Self {
                open,
                ..Self::default()
            },
        )
    }
}
