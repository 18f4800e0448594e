//! Digests that are stored. They depend on nothing but what they are made of: neither on the
//! version of the compiler nor on the machine.

use sha2::{Digest, Sha256};

/// Takes values one by one; each is marked with its kind and, if it has one, its length.
#[derive(Default)]
pub(super) struct StableDigest(Sha256);

impl StableDigest {
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.0.update(b"t");
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text);
        self
    }

    pub fn text_or_none(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(text),
            None => self.none(),
        }
    }

    pub fn number(&mut self, number: i64) -> &mut Self {
        self.0.update(b"n");
        self.0.update(number.to_be_bytes());
        self
    }

    pub fn number_or_none(&mut self, number: Option<i64>) -> &mut Self {
        match number {
            Some(number) => self.number(number),
            None => self.none(),
        }
    }

    pub fn flag(&mut self, flag: bool) -> &mut Self {
        self.0.update(if flag { b"y" } else { b"f" });
        self
    }

    fn none(&mut self) -> &mut Self {
        self.0.update(b"0");
        self
    }

    /// The first 8 bytes of the SHA-256, big-endian.
    pub fn finish(self) -> i64 {
        let digest = self.0.finalize();
        let (first, _) = digest.split_at(8);
        i64::from_be_bytes(first.try_into().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These values are in databases: a change of them rewrites every host once.
    #[test]
    fn a_digest_is_always_the_same() {
        assert_eq!(StableDigest::default().finish(), -2_039_914_840_885_289_964);
        let mut digest = StableDigest::default();
        digest
            .text("app_foo")
            .text_or_none(None)
            .number(7)
            .number_or_none(None)
            .flag(true);
        assert_eq!(digest.finish(), -4_561_831_366_216_467_117);
    }

    #[test]
    fn neighbours_are_kept_apart() {
        let of = |texts: [&str; 2]| {
            let mut digest = StableDigest::default();
            digest.text(texts[0]).text(texts[1]);
            digest.finish()
        };
        assert_ne!(of(["ab", "c"]), of(["a", "bc"]));
        assert_ne!(of(["", "a"]), of(["a", ""]));
    }
}
