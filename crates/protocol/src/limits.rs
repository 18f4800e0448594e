//! Limits of a message, checked while it is parsed.

/// Limits on one message. A message over one of them is refused.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes; `[hostagent] max_message_size`.
    pub max_size: usize,
    /// Levels of nested arrays and objects.
    pub max_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_size: 1 << 20,
            max_depth: 64,
        }
    }
}

/// Longest `id` of a message, in bytes.
pub const MAX_ID_LEN: usize = 256;
