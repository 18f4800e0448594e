//! An optional time to wait for.

use tokio::time::{Instant, sleep_until};

/// Returns at `time`; pending if there is none. Cancel-safe.
pub async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
