//! The stanzas of a file in dpkg's own format (deb822(5)), one by one.

use std::io::{self, BufRead};

/// Reads stanza after stanza, and keeps those fields of the current one that are asked for. Buffers
/// are reused for all, so that only what a caller keeps is allocated.
pub struct Stanzas<R> {
    reader: R,
    names: &'static [&'static str],
    /// Of the current stanza, in the order of `names`; empty where it lacks the field.
    values: Vec<Vec<u8>>,
    line: Vec<u8>,
}

impl<R: BufRead> Stanzas<R> {
    pub fn new(reader: R, names: &'static [&'static str]) -> Self {
        Self {
            reader,
            names,
            values: vec![Vec::new(); names.len()],
            line: Vec::with_capacity(1024),
        }
    }

    /// Goes to the next stanza; `false`: there is none. Invalid lines are skipped.
    pub fn advance(&mut self) -> io::Result<bool> {
        self.values.iter_mut().for_each(Vec::clear);
        let mut is_begun = false;
        let mut current = None;
        loop {
            self.line.clear();
            let at_end = self.reader.read_until(b'\n', &mut self.line)? == 0;
            let text = self.line.trim_ascii_end();
            if text.is_empty() {
                if at_end || is_begun {
                    return Ok(is_begun);
                }
                continue;
            }
            is_begun = true;
            if matches!(text[0], b' ' | b'\t') {
                if let Some(value) = current.and_then(|index: usize| self.values.get_mut(index)) {
                    value.extend_from_slice(text);
                }
                continue;
            }
            current = None;
            if let Some(colon) = text.iter().position(|byte| *byte == b':') {
                let (name, value) = (&text[..colon], text[colon + 1..].trim_ascii());
                current = self
                    .names
                    .iter()
                    .position(|wanted| name.eq_ignore_ascii_case(wanted.as_bytes()));
                if let Some(kept) = current.and_then(|index| self.values.get_mut(index)) {
                    kept.clear();
                    kept.extend_from_slice(value);
                }
            }
        }
    }

    /// A field of the current stanza, by its place among the names; empty where it is missing.
    pub fn value(&self, index: usize) -> &[u8] {
        self.values.get(index).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_over_all_lines_of_each_stanza() {
        let text = "\n\nPackage: a\nDescription: Package: x\n Package: y\nProvides: b,\n c\n\n\npackage: d\nno field\n";
        let mut stanzas = Stanzas::new(text.as_bytes(), &["Package", "Provides"]);
        let mut read = Vec::new();
        while stanzas.advance().unwrap() {
            read.push([0, 1].map(|index| String::from_utf8(stanzas.value(index).to_owned()).unwrap()));
        }
        assert_eq!(read, [["a", "b, c"], ["d", ""]]);
        assert!(!stanzas.advance().unwrap());
    }
}
