//! The verification that runs by itself beside a link, again and again.

use tokio_util::sync::CancellationToken;

use crate::link::Link;
use crate::scan::VerifyOptions;
use crate::spec::Watch;

/// Verifies as often and as much as the spec says, until it is told to stop.
pub(crate) async fn watch(link: Link, cancel: CancellationToken) {
    let Some(Watch { every, share }) = link.inner.shared.limits().watch else {
        return;
    };
    let options = VerifyOptions {
        share: (share < 1.0).then_some(share),
        gently: true,
        ..VerifyOptions::default()
    };
    let slice = link.slice();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        if !link.inner.shared.status(|s| s.running && s.copied) {
            continue;
        }
        let verified = tokio::select! {
            () = cancel.cancelled() => return,
            verified = link.verify_with(&options) => verified,
        };
        match verified {
            Ok(report) if report.different > 0 => {
                let (different, looked_at) = (report.different, report.looked_at);
                tracing::warn!(%slice, different, looked_at, "rows differ");
            }
            Ok(report) => tracing::debug!(%slice, looked_at = report.looked_at, "rows are alike"),
            Err(error) => tracing::warn!(%slice, %error, "rows could not be verified"),
        }
    }
}
