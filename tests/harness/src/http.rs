//! A small HTTP/1.1 file server with faults.
//!
//! It serves byte strings from memory, over plain TCP or TLS. Every fault is a [`Page`] that the
//! test stores under a path. [`HttpServer::requests`] returns the requests so far.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;

/// A running server. It stops when dropped.
pub struct HttpServer {
    address: SocketAddr,
    /// Host and port in URLs. A TLS certificate is checked against this host.
    authority: String,
    scheme: &'static str,
    shared: Arc<Mutex<ServerData>>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct ServerData {
    pages: BTreeMap<String, Page>,
    requests: Vec<Request>,
    connections: usize,
}

/// One received request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The request target. For a proxy it is a whole URL.
    pub target: String,
    /// The path with the query.
    pub path: String,
    /// The headers, with names in lower case.
    pub headers: BTreeMap<String, String>,
}

/// What the server answers for a path.
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
    /// Reads the request and never answers.
    Mute,
}

/// A file and the faults with which it is served.
#[derive(Debug, Clone)]
pub struct File {
    pub body: Arc<[u8]>,
    pub etag: Option<String>,
    /// Whether `Range` is supported. If not, it is ignored, as RFC 9110 allows.
    pub ranges: bool,
    pub length: Length,
    /// The connection ends after this many bytes of each answer's body.
    pub cut_after: Option<usize>,
    /// The speed of the answer.
    pub pace: Option<Pace>,
}

/// The `Content-Length` of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    True,
    /// No `Content-Length`: the body ends with the connection.
    Unsaid,
    /// A wrong length.
    Claimed(u64),
}

/// One piece of `bytes` every `every`.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub bytes: usize,
    pub every: Duration,
}

impl File {
    /// A file without faults: with length, ranges, and an ETag of its content.
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

    /// Sends this `Content-Length`, which may be wrong.
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
    /// Starts a server on a free port of 127.0.0.1.
    pub async fn start() -> std::io::Result<Self> {
        Self::listen("http", "127.0.0.1", None).await
    }

    /// Starts a server with TLS. Its URLs have the host `localhost`, which must be in its
    /// certificate.
    pub async fn start_tls(config: Arc<rustls::ServerConfig>) -> std::io::Result<Self> {
        Self::listen("https", "localhost", Some(TlsAcceptor::from(config))).await
    }

    async fn listen(scheme: &'static str, host: &str, tls: Option<TlsAcceptor>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Mutex::new(ServerData::default()));
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

    /// Stores `page` under `path`, replacing an earlier one. The query of a request is ignored.
    pub fn put(&self, path: &str, page: impl Into<Page>) {
        lock(&self.shared).pages.insert(path.to_owned(), page.into());
    }

    /// Serves `body` without faults under `path`, and returns the URL.
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

    /// Number of requests for `path` so far.
    pub fn count(&self, path: &str) -> usize {
        self.requests(path).len()
    }

    /// Number of connections so far (with TLS: of completed handshakes).
    pub fn connections(&self) -> usize {
        lock(&self.shared).connections
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Mutex<ServerData>>) {
    // Connections end with the server: the set aborts them when it is dropped.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        let tls = tls.clone();
        let shared = Arc::clone(&shared);
        // An error means that the client has closed the connection, which it may do.
        connections.spawn(async move {
            let _ = serve(socket, tls, &shared).await;
        });
    }
}

async fn serve(
    socket: TcpStream,
    tls: Option<TlsAcceptor>,
    shared: &Mutex<ServerData>,
) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    match tls {
        Some(tls) => answer(tls.accept(socket).await?, shared).await,
        None => answer(socket, shared).await,
    }
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    shared: &Mutex<ServerData>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    lock(shared).connections += 1;
    while let Some(request) = read_request(&mut stream).await? {
        if answer_one(stream.get_mut(), &request, shared).await? == After::Close {
            break;
        }
    }
    stream.get_mut().shutdown().await
}

/// What happens to a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// It stays open for the next request.
    Keep,
    Close,
}

async fn answer_one(
    stream: &mut (impl AsyncWrite + Unpin),
    request: &Request,
    shared: &Mutex<ServerData>,
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

/// The first byte to send, if the request is for the rest of this same file.
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

fn lock(shared: &Mutex<ServerData>) -> MutexGuard<'_, ServerData> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
