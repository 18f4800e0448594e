//! Reads server-sent events (WHATWG HTML, section 9.2).

use std::io::{self, BufRead, BufReader, Read};

use protocol::rest::Event;

/// A stream of a master's events.
pub struct EventStream<R> {
    reader: BufReader<R>,
    data: String,
}

/// Longest line in bytes. An event has a few kilobytes.
const LONGEST: u64 = 8 << 20;

impl<R: Read> EventStream<R> {
    pub fn new(reader: BufReader<R>) -> Self {
        Self {
            reader,
            data: String::new(),
        }
    }

    /// The next event; `None` at the end of the stream. Comments, and kinds of events that only a
    /// later master has, are skipped.
    fn read(&mut self) -> io::Result<Option<Event>> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.reader).take(LONGEST).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(None);
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if let Some(data) = line.strip_prefix("data:") {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            } else if line.is_empty() {
                // An event that was cut off by the end of the connection does not get here. The
                // master sends it again.
                let data = std::mem::take(&mut self.data);
                if let Ok(event) = serde_json::from_str(&data) {
                    return Ok(Some(event));
                }
            }
        }
    }
}

impl<R: Read> Iterator for EventStream<R> {
    type Item = io::Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64) -> String {
        format!(r#"{{"id": {id}, "at": "2026-01-01T00:00:00Z", "kind": "host_deleted", "message": "gone"}}"#)
    }

    #[test]
    fn comments_unknown_kinds_and_incomplete_events_are_skipped() {
        let text = format!(
            ": keep-alive\n\nid: 1\nevent: host_deleted\ndata: {}\n\ndata: {{\"id\": 2,\"kind\": \"of_tomorrow\"}}\n\n\
             id: 3\r\ndata:{}\r\n\r\nid: 4\ndata: {}\n",
            event(1),
            event(3),
            event(4)
        );
        let stream = EventStream::new(BufReader::new(text.as_bytes()));
        let ids: Vec<u64> = stream.map(|event| event.unwrap().id).collect();
        assert_eq!(ids, [1, 3]);
    }
}
