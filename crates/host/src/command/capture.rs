//! The output of a child.

use tokio::io::{AsyncRead, AsyncReadExt};

use super::Overflow;
use super::ended::End;

/// One stream of a child, up to a cap.
pub(super) struct Capture {
    bytes: Vec<u8>,
    cap: usize,
    overflow: Overflow,
}

impl Capture {
    pub fn new(cap: usize, overflow: Overflow) -> Self {
        Self {
            bytes: Vec::new(),
            cap,
            overflow,
        }
    }

    /// Reads to the end. Cancel-safe: what was read stays.
    pub async fn read(&mut self, pipe: Option<impl AsyncRead + Unpin>) -> Result<(), End> {
        let Some(mut pipe) = pipe else { return Ok(()) };
        let mut chunk = [0; 8192];
        loop {
            match pipe.read(&mut chunk).await.map_err(End::Lost)? {
                0 => return Ok(()),
                read => self.bytes.extend_from_slice(&chunk[..read]),
            }
            match self.overflow {
                Overflow::Kill if self.bytes.len() > self.cap => return Err(End::Overflow),
                // Not at each read: that would move the whole tail each time.
                Overflow::KeepTail if self.bytes.len() > 2 * self.cap => self.cut(),
                Overflow::Kill | Overflow::KeepTail => {}
            }
        }
    }

    fn cut(&mut self) {
        let excess = self.bytes.len().saturating_sub(self.cap);
        self.bytes.drain(..excess);
    }

    pub fn into_bytes(mut self) -> Vec<u8> {
        self.cut();
        self.bytes
    }
}
