//! A time to wait for that may not be set.

use tokio::time::{Instant, sleep_until};

/// Pending while there is none. Cancel-safe.
pub async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
