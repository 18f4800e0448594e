//! The applications of a status as bytes, good for as long as nothing that was observed or desired changes.

use protocol::Apps;
use serde::Serialize;
use tokio::time::Instant;

use super::{age_s, app_status, managed};
use crate::engine::observe::{Observed, ReadAt};

/// The object `apps` of a status, but for what changes with time alone: the age of each config.
#[derive(Debug, Default)]
pub struct EncodedApps {
    bytes: Vec<u8>,
    /// Where the age of a config belongs, and when that was read.
    ages: Vec<(usize, Option<ReadAt>)>,
}

/// What a status of a healthy host says behind its applications, in bytes: room for it at once, since making room later copies
/// all that is there.
const REST: usize = 1024;

impl EncodedApps {
    pub fn new(desired: &Apps, observed: Option<&Observed>) -> Self {
        let (mut bytes, mut ages) = (vec![b'{'], Vec::new());
        for (app, there) in observed.into_iter().flat_map(managed) {
            let mut status = app_status(desired.get(app), there);
            status.config_age_s = None;
            if bytes.len() > 1 {
                bytes.push(b',');
            }
            write_json(&mut bytes, app.as_str());
            bytes.push(b':');
            write_json(&mut bytes, &status);
            // It is the last member.
            bytes.pop();
            bytes.extend_from_slice(br#","config_age_s":"#);
            ages.push((bytes.len(), there.config_read_at.clone()));
            bytes.push(b'}');
        }
        bytes.push(b'}');
        bytes.shrink_to_fit();
        ages.shrink_to_fit();
        Self { bytes, ages }
    }

    /// The object as it is `now`.
    pub fn write(&self, now: Instant, bytes: &mut Vec<u8>) {
        bytes.reserve(self.bytes.len() + 4 * self.ages.len() + REST);
        let mut written = 0;
        for (at, read_at) in &self.ages {
            bytes.extend_from_slice(self.bytes.get(written..*at).unwrap_or_default());
            write_json(bytes, &age_s(read_at.as_ref(), now));
            written = *at;
        }
        bytes.extend_from_slice(self.bytes.get(written..).unwrap_or_default());
    }
}

fn write_json<T: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T) {
    // Maps with string keys, into memory: this cannot fail.
    let _ = serde_json::to_writer(bytes, value);
}

#[cfg(test)]
mod tests;
