//! A minimal HTTP client for tests: one connection per request.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Sends requests to one master.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    token: Option<String>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        match self.body.is_empty() {
            true => Value::Null,
            false => self.json(),
        }
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, token: None }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, &[], Some(body.to_string().as_bytes()))
            .await
    }

    /// `None`: no master answered, or it stopped before it did.
    pub async fn try_put(&self, path: &str, body: &Value) -> Option<Answer> {
        let body = body.to_string();
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        let head = self.head("PUT", path, &[], Some(body.as_bytes()));
        stream.write_all(head.as_bytes()).await.ok()?;
        stream.write_all(body.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        if !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            return None;
        }
        let mut rest = BufReader::new(answer.as_slice());
        let (status, headers) = read_head(&mut rest).await;
        let mut body = Vec::new();
        rest.read_to_end(&mut body).await.ok()?;
        Some(Answer {
            status,
            headers,
            body,
        })
    }

    pub async fn post(&self, path: &str) -> Answer {
        self.send("POST", path, &[], None).await
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Answer {
        let mut stream = BufReader::new(self.open(method, path, headers, body).await);
        let (status, headers) = read_head(&mut stream).await;
        let mut body = Vec::new();
        stream.read_to_end(&mut body).await.unwrap();
        Answer {
            status,
            headers,
            body,
        }
    }

    fn head(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> String {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head.push_str("Host: localhost\r\n");
        }
        if let Some(token) = &self.token {
            head.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            if !headers.iter().any(|(name, _)| *name == "Content-Type") {
                head.push_str("Content-Type: application/json\r\n");
            }
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        head
    }

    async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> TcpStream {
        let head = self.head(method, path, headers, body);
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        // The master may refuse and close before all of a large body is sent.
        let _ = stream.write_all(body.unwrap_or_default()).await;
        stream
    }

    /// Streams events. `None`: there is no master.
    pub async fn try_events(&self, path: &str) -> Option<Events> {
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        let head = self.head("GET", path, &[("Accept", "text/event-stream")], None);
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = String::new();
            match stream.read_line(&mut line).await {
                Ok(0) | Err(_) => return None,
                Ok(_) if line.trim_end().is_empty() => return Some(Events { stream }),
                Ok(_) => {}
            }
        }
    }

    /// Streams events.
    pub async fn events(&self, path: &str) -> Events {
        let accept = [("Accept", "text/event-stream")];
        let mut stream = BufReader::new(self.open("GET", path, &accept, None).await);
        let (status, _) = read_head(&mut stream).await;
        assert_eq!(status, 200);
        Events { stream }
    }
}

/// A stream of server-sent events.
pub struct Events {
    stream: BufReader<TcpStream>,
}

impl Events {
    /// The next event. Chunk sizes and comments are skipped.
    pub async fn next(&mut self) -> Value {
        self.try_next().await.expect("the stream of events ended")
    }

    /// `None`: the stream has ended or broken. An incomplete event is not returned.
    pub async fn try_next(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            let read = self.stream.read_line(&mut line).await.ok()?;
            if read == 0 || !line.ends_with('\n') {
                return None;
            }
            if let Some(data) = line.strip_prefix("data:") {
                return Some(serde_json::from_str(data).unwrap());
            }
        }
    }
}

async fn read_head(stream: &mut (impl AsyncBufRead + Unpin)) -> (u16, Vec<(String, String)>) {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    (status, headers)
}
