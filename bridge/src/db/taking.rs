//! Taking from a database's log, which may fail or be given up anywhere.

use std::ops::{Deref, DerefMut};

use tokio::sync::MutexGuard;

/// What reads a log.
pub(super) trait Leaves {
    /// Leaves the stream: what was read and not committed comes again.
    fn lose_stream(&mut self);
}

/// In the hands of somebody who takes from the stream. If that fails or is given up half-way, the stream is
/// left: nobody else has what was read of it.
pub(super) struct Taking<'a, R: Leaves> {
    reader: MutexGuard<'a, R>,
    keeps: bool,
}

impl<'a, R: Leaves> Taking<'a, R> {
    pub(super) fn of(reader: MutexGuard<'a, R>) -> Self {
        Self {
            reader,
            keeps: false,
        }
    }

    /// What was read is committed, or in the hands of whoever asked for it.
    pub(super) fn keep_stream(mut self) {
        self.keeps = true;
    }
}

impl<R: Leaves> Drop for Taking<'_, R> {
    fn drop(&mut self) {
        if !self.keeps {
            self.reader.lose_stream();
        }
    }
}

impl<R: Leaves> Deref for Taking<'_, R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.reader
    }
}

impl<R: Leaves> DerefMut for Taking<'_, R> {
    fn deref_mut(&mut self) -> &mut R {
        &mut self.reader
    }
}
