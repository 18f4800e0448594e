//! A small HTTP/1.1 file server that misbehaves on request.
//!
//! Serves byte strings from memory, over plain TCP or TLS, one request per connection. Every fault is a
//! [`Page`] that the test puts under a path; [`HttpServer::requests`] tells what was asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;

/// A running server; stops when dropped.
pub struct HttpServer {
    address: SocketAddr,
    /// What URLs name it by: a TLS certificate is checked against that.
    authority: String,
    scheme: &'static str,
    shared: Arc<Mutex<Shared>>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    pages: BTreeMap<String, Page>,
    requests: Vec<Request>,
    connections: usize,
}

/// One request as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// As it was asked for: a proxy is asked for whole URLs.
    pub target: String,
    /// With the query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
}

/// What stands under a path.
#[derive(Debug, Clone)]
pub enum Page {
    File(File),
    /// A status without a body, such as 404.
    Status(u16),
    /// 429 or 503 with `Retry-After`, the first `times` times; then the file.
    RetryLater {
        status: u16,
        retry_after: String,
        times: usize,
        then: File,
    },
    /// 302 to this `Location`, which may be relative.
    Redirect(String),
    /// A body that never ends.
    Endless,
    /// Takes the request and never answers.
    Mute,
}

/// A file, and how badly it is served.
#[derive(Debug, Clone)]
pub struct File {
    pub body: Arc<[u8]>,
    pub etag: Option<String>,
    /// Whether `Range` is understood; else it is ignored, as RFC 9110 allows.
    pub ranges: bool,
    pub length: Length,
    /// The connection ends after so many bytes of each answer's body.
    pub cut_after: Option<usize>,
    /// Bytes a second, and the size of one piece.
    pub pace: Option<Pace>,
}

/// What the answer says of the body's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    True,
    /// Nothing: the body ends where the connection does.
    Unsaid,
    /// Something else.
    Claimed(u64),
}

/// One piece of `bytes` every `every`.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub bytes: usize,
    pub every: Duration,
}

impl File {
    /// Served well: with length, ranges and an ETag of its content.
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        let body: Vec<u8> = body.into();
        let sum = body.iter().fold(body.len() as u64, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
        });
        Self {
            body: body.into(),
            etag: Some(format!("\"{sum:x}\"")),
            ranges: true,
            length: Length::True,
            cut_after: None,
            pace: None,
        }
    }

    pub fn without_ranges(mut self) -> Self {
        self.ranges = false;
        self
    }

    pub fn without_content_length(mut self) -> Self {
        self.length = Length::Unsaid;
        self
    }

    /// Says that the body has `length` bytes, whatever it has.
    pub fn claiming_length(mut self, length: u64) -> Self {
        self.length = Length::Claimed(length);
        self
    }

    pub fn without_etag(mut self) -> Self {
        self.etag = None;
        self
    }

    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.cut_after = Some(bytes);
        self
    }

    pub fn paced(mut self, bytes: usize, every: Duration) -> Self {
        self.pace = Some(Pace { bytes, every });
        self
    }
}

impl From<File> for Page {
    fn from(file: File) -> Self {
        Self::File(file)
    }
}

impl HttpServer {
    /// On a free port of 127.0.0.1.
    pub async fn start() -> std::io::Result<Self> {
        Self::listen("http", "127.0.0.1", None).await
    }

    /// With TLS; URLs name it `localhost`, which its certificate must be for.
    pub async fn start_tls(config: Arc<rustls::ServerConfig>) -> std::io::Result<Self> {
        Self::listen("https", "localhost", Some(TlsAcceptor::from(config))).await
    }

    async fn listen(scheme: &'static str, host: &str, tls: Option<TlsAcceptor>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let accepting = tokio::spawn(accept(listener, tls, Arc::clone(&shared)));
        Ok(Self {
            address,
            authority: format!("{host}:{}", address.port()),
            scheme,
            shared,
            accepting,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of `path` (which begins with a slash).
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.authority)
    }

    /// Puts `page` under `path`, in the place of what was there. The query of a request does not count.
    pub fn put(&self, path: &str, page: impl Into<Page>) {
        lock(&self.shared).pages.insert(path.to_owned(), page.into());
    }

    /// Serves `body` well under `path`, and returns the URL.
    pub fn put_file(&self, path: &str, body: impl Into<Vec<u8>>) -> String {
        self.put(path, File::new(body));
        self.url(path)
    }

    /// The requests for `path` (without its query) so far, in order.
    pub fn requests(&self, path: &str) -> Vec<Request> {
        let shared = lock(&self.shared);
        let is_for = |request: &&Request| without_query(&request.path) == path;
        shared.requests.iter().filter(is_for).cloned().collect()
    }

    /// How many requests there were for `path`.
    pub fn count(&self, path: &str) -> usize {
        self.requests(path).len()
    }

    /// How many connections have been made so far (over TLS: and are encrypted by now).
    pub fn connections(&self) -> usize {
        lock(&self.shared).connections
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Mutex<Shared>>) {
    // Connections end with the server: the set aborts them when it is dropped.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        let tls = tls.clone();
        let shared = Arc::clone(&shared);
        // An error is the client's going away, which is its good right.
        connections.spawn(async move {
            let _ = serve(socket, tls, &shared).await;
        });
    }
}

async fn serve(socket: TcpStream, tls: Option<TlsAcceptor>, shared: &Mutex<Shared>) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    match tls {
        Some(tls) => answer(tls.accept(socket).await?, shared).await,
        None => answer(socket, shared).await,
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    lock(shared).connections += 1;
    while let Some(request) = read_request(&mut stream).await? {
        if answer_one(stream.get_mut(), &request, shared).await? == After::Close {
            break;
        }
    }
    stream.get_mut().shutdown().await
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// The next request may come.
    Keep,
    Close,
}

async fn answer_one(
    stream: &mut (impl AsyncWrite + Unpin),
    request: &Request,
    shared: &Mutex<Shared>,
) -> std::io::Result<After> {
    let page = {
        let mut shared = lock(shared);
        let path = without_query(&request.path).to_owned();
        let asked = shared
            .requests
            .iter()
            .filter(|earlier| without_query(&earlier.path) == path)
            .count();
        shared.requests.push(request.clone());
        match shared.pages.get(&path) {
            Some(Page::RetryLater { times, then, .. }) if asked >= *times => Page::File(then.clone()),
            Some(page) => page.clone(),
            None => Page::Status(404),
        }
    };
    match page {
        Page::File(file) => return send_file(stream, request, &file).await,
        Page::Status(status) => {
            send_head(stream, &format!("{status} X"), &["content-length: 0".to_owned()]).await?;
        }
        Page::RetryLater {
            status, retry_after, ..
        } => {
            let headers = [
                format!("retry-after: {retry_after}"),
                "content-length: 0".to_owned(),
            ];
            send_head(stream, &format!("{status} Later"), &headers).await?;
        }
        Page::Redirect(to) => {
            let headers = [format!("location: {to}"), "content-length: 0".to_owned()];
            send_head(stream, "302 Found", &headers).await?;
        }
        Page::Endless => {
            send_head(stream, "200 OK", &[]).await?;
            loop {
                stream.write_all(&[b'x'; 16 * 1024]).await?;
            }
        }
        Page::Mute => std::future::pending().await,
    }
    Ok(After::Close)
}

async fn read_request(
    stream: &mut BufReader<impl AsyncRead + AsyncWrite + Unpin>,
) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let Some(target) = line.split(' ').nth(1) else {
        return Ok(None);
    };
    let target = target.to_owned();
    let path = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |start| &rest[start..]),
        None => &target,
    };
    let path = path.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => {
                return Ok(Some(Request {
                    target,
                    path,
                    headers,
                }));
            }
        };
    }
}

async fn send_file(
    stream: &mut (impl AsyncWrite + Unpin),
    request: &Request,
    file: &File,
) -> std::io::Result<After> {
    let after = match (&file.length, file.cut_after) {
        (Length::True, None) => After::Keep,
        _ => After::Close,
    };
    let mut headers: Vec<String> = file.etag.iter().map(|etag| format!("etag: {etag}")).collect();
    if file.etag.is_some() && request.headers.get("if-none-match") == file.etag.as_ref() {
        send_head_and(after, stream, "304 Not Modified", &headers).await?;
        return Ok(after);
    }
    let whole = file.body.len();
    let (status, start) = match wanted_start(request, file) {
        Some(start) if start >= whole => {
            headers.push(format!("content-range: bytes */{whole}"));
            headers.push("content-length: 0".to_owned());
            send_head(stream, "416 Range Not Satisfiable", &headers).await?;
            return Ok(After::Close);
        }
        Some(start) => {
            headers.push(format!("content-range: bytes {start}-{}/{whole}", whole - 1));
            ("206 Partial Content", start)
        }
        None => ("200 OK", 0),
    };
    match file.length {
        Length::True => headers.push(format!("content-length: {}", whole - start)),
        Length::Unsaid => {}
        Length::Claimed(length) => headers.push(format!("content-length: {length}")),
    }
    send_head_and(after, stream, status, &headers).await?;
    let end = file.cut_after.map_or(whole, |bytes| whole.min(start + bytes));
    match file.pace {
        None => stream.write_all(&file.body[start..end]).await?,
        Some(pace) => {
            for piece in file.body[start..end].chunks(pace.bytes) {
                stream.write_all(piece).await?;
                stream.flush().await?;
                tokio::time::sleep(pace.every).await;
            }
        }
    }
    stream.flush().await?;
    Ok(after)
}

/// Where to start, if the request asks for the rest of the very file that is here.
fn wanted_start(request: &Request, file: &File) -> Option<usize> {
    if !file.ranges {
        return None;
    }
    if let Some(condition) = request.headers.get("if-range")
        && Some(condition) != file.etag.as_ref()
    {
        return None;
    }
    let range = request.headers.get("range")?;
    range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

async fn send_head(
    stream: &mut (impl AsyncWrite + Unpin),
    status: &str,
    headers: &[String],
) -> std::io::Result<()> {
    send_head_and(After::Close, stream, status, headers).await
}

async fn send_head_and(
    after: After,
    stream: &mut (impl AsyncWrite + Unpin),
    status: &str,
    headers: &[String],
) -> std::io::Result<()> {
    let connection = match after {
        After::Keep => "keep-alive",
        After::Close => "close",
    };
    let mut head = format!("HTTP/1.1 {status}\r\nconnection: {connection}\r\n");
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await
}

fn without_query(path: &str) -> &str {
    path.split('?').next().unwrap_or(path)
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
