//! Downloads from a real server that misbehaves: FAULTS.md rows 26 to 28 and 30, and the cache.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::http::{File, HttpServer, Page};
use host::download::Downloader;
use host::{Cancel, Download, Downloads, HostError};
use hostagent::settings::{Settings, Sources};
use protocol::Category;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A sandbox whose cache the downloader uses.
struct Sandbox {
    dir: tempfile::TempDir,
}

impl Sandbox {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// A downloader as a freshly started agent has it.
    fn downloader(&self, overrides: &[&str]) -> Arc<Downloader> {
        let mut all = vec![format!("hostagent.root={}", self.dir.path().display())];
        all.extend(overrides.iter().map(|text| (*text).to_owned()));
        let sources = Sources {
            overrides: all,
            ..Sources::default()
        };
        let options = Settings::load(&sources).unwrap().settings.host_options();
        Arc::new(Downloader::new(
            &options.root,
            options.cache_dir,
            options.download,
            "",
        ))
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("var/cache/pf9apps")
    }

    fn cached_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cache()).into_iter().flatten();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

async fn fetch(downloader: &Downloader, url: &str, sha256: Option<&str>) -> Result<PathBuf, HostError> {
    let download = Download {
        url: url.to_owned(),
        sha256: sha256.map(str::to_owned),
    };
    let cancel = Cancel::default();
    let fetched = downloader.fetch(&download, &cancel);
    tokio::time::timeout(Duration::from_secs(30), fetched)
        .await
        .expect("a download must come to an end")
}

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * index / 7) as u8).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn ranges(server: &HttpServer, path: &str) -> Vec<Option<String>> {
    let requests = server.requests(path).into_iter();
    requests
        .map(|request| request.headers.get("range").cloned())
        .collect()
}

#[tokio::test]
async fn a_package_arrives_whole_under_a_name_with_its_extension() {
    let server = HttpServer::start().await.unwrap();
    let content = body(300_000);
    let url = server.put_file("/pool/app_1.0_amd64.deb", content.clone());
    let sandbox = Sandbox::new();
    let path = fetch(&sandbox.downloader(&[]), &url, Some(&sha256(&content)))
        .await
        .unwrap();
    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(path.parent(), Some(sandbox.cache().as_path()));
    assert!(path.to_str().unwrap().ends_with("-app_1.0_amd64.deb"));
}

// Row 26.

#[tokio::test]
async fn a_body_that_breaks_off_is_resumed_where_it_broke() {
    let server = HttpServer::start().await.unwrap();
    let content = body(250_000);
    for (path, digest) in [("/with", Some(sha256(&content))), ("/without", None)] {
        server.put(path, File::new(content.clone()).cut_after(100_000));
        let sandbox = Sandbox::new();
        let fetched = fetch(&sandbox.downloader(&[]), &server.url(path), digest.as_deref()).await;
        assert_eq!(fs::read(fetched.unwrap()).unwrap(), content);
        let expected = [
            None,
            Some("bytes=100000-".to_owned()),
            Some("bytes=200000-".to_owned()),
        ];
        assert_eq!(ranges(&server, path), expected);
    }
}

#[tokio::test]
async fn a_body_that_always_breaks_off_is_a_network_error_and_no_file() {
    let server = HttpServer::start().await.unwrap();
    server.put("/a.deb", File::new(body(1000)).without_ranges().cut_after(10));
    let sandbox = Sandbox::new();
    let error = fetch(&sandbox.downloader(&[]), &server.url("/a.deb"), None)
        .await
        .unwrap_err();
    assert_eq!(error.category, Category::Network);
    assert!(error.message.contains("ended after 10 of 1000 bytes"), "{error}");
    assert!(
        sandbox
            .cached_files()
            .iter()
            .all(|file| file.to_str().unwrap().contains(".part"))
    );
}

#[tokio::test]
async fn a_wrong_digest_is_refused_and_nothing_is_left() {
    let server = HttpServer::start().await.unwrap();
    let url = server.put_file("/a.deb", b"evil".to_vec());
    let sandbox = Sandbox::new();
    let wanted = sha256(b"good");
    let error = fetch(&sandbox.downloader(&[]), &url, Some(&wanted))
        .await
        .unwrap_err();
    assert_eq!(error.category, Category::Verification);
    let found = sha256(b"evil");
    assert_eq!(
        error.message,
        format!("cannot download {url}: its sha256 is {found}, expected {wanted}; the file was deleted")
    );
    assert!(sandbox.cached_files().is_empty());
    assert_eq!(
        server.count("/a.deb"),
        1,
        "a permanent failure is not tried again"
    );
}

#[tokio::test]
async fn a_part_of_another_file_is_dropped_and_fetched_anew() {
    let server = HttpServer::start().await.unwrap();
    let (old, new) = (vec![1; 200_000], vec![2; 200_000]);
    for (path, digest) in [("/with", Some(sha256(&new))), ("/without", None)] {
        let sandbox = Sandbox::new();
        server.put(
            path,
            File::new(old.clone())
                .cut_after(50_000)
                .paced(25_000, Duration::from_millis(200)),
        );
        interrupt(&sandbox, &server, path, digest.as_deref()).await;
        server.put(path, File::new(new.clone()));
        let fetched = fetch(&sandbox.downloader(&[]), &server.url(path), digest.as_deref()).await;
        assert_eq!(fs::read(fetched.unwrap()).unwrap(), new, "{path}");
    }
    // A server that ignores If-Range: the digest finds out, and the whole is fetched again.
    let sandbox = Sandbox::new();
    server.put(
        "/sloppy",
        File::new(old)
            .without_etag()
            .paced(25_000, Duration::from_millis(200)),
    );
    interrupt(&sandbox, &server, "/sloppy", Some(&sha256(&new))).await;
    server.put("/sloppy", File::new(new.clone()).without_etag());
    let fetched = fetch(
        &sandbox.downloader(&[]),
        &server.url("/sloppy"),
        Some(&sha256(&new)),
    )
    .await;
    assert_eq!(fs::read(fetched.unwrap()).unwrap(), new);
}

/// Starts a fetch and cancels it when the first bytes are there.
async fn interrupt(sandbox: &Sandbox, server: &HttpServer, path: &str, sha256: Option<&str>) {
    let download = Download {
        url: server.url(path),
        sha256: sha256.map(str::to_owned),
    };
    let (downloader, cancel) = (sandbox.downloader(&[]), Cancel::default());
    let fetching = {
        let cancel = cancel.clone();
        tokio::spawn(async move { downloader.fetch(&download, &cancel).await })
    };
    let has_bytes = |file: &PathBuf| {
        file.extension().is_some_and(|extension| extension == "part") && fs::metadata(file).unwrap().len() > 0
    };
    wait_until(|| sandbox.cached_files().iter().any(has_bytes)).await;
    cancel.set();
    assert!(fetching.await.unwrap().is_err());
}

async fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not come true");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_restarted_agent_goes_on_where_it_was() {
    let server = HttpServer::start().await.unwrap();
    let content = body(100_000);
    for (path, digest) in [("/with", Some(sha256(&content))), ("/without", None)] {
        let sandbox = Sandbox::new();
        server.put(
            path,
            File::new(content.clone()).paced(10_000, Duration::from_millis(100)),
        );
        interrupt(&sandbox, &server, path, digest.as_deref()).await;
        server.put(path, File::new(content.clone()));
        let fetched = fetch(&sandbox.downloader(&[]), &server.url(path), digest.as_deref()).await;
        assert_eq!(fs::read(fetched.unwrap()).unwrap(), content);
        let ranges = ranges(&server, path);
        assert!(ranges.last().unwrap().is_some(), "{ranges:?}");
    }
}

#[tokio::test]
async fn a_part_that_is_already_whole_is_taken() {
    let server = HttpServer::start().await.unwrap();
    let content = body(10_000);
    let url = server.put_file("/a.deb", content.clone());
    let sandbox = Sandbox::new();
    let path = fetch(&sandbox.downloader(&[]), &url, Some(&sha256(&content)))
        .await
        .unwrap();
    fs::rename(&path, format!("{}.part", path.display())).unwrap();
    let again = fetch(&sandbox.downloader(&[]), &url, Some(&sha256(&content)))
        .await
        .unwrap();
    assert_eq!(fs::read(again).unwrap(), content);
    assert_eq!(ranges(&server, "/a.deb"), [None, Some("bytes=10000-".to_owned())]);
}

// Row 27.

#[tokio::test]
async fn an_oversized_package_is_refused_before_its_body() {
    let server = HttpServer::start().await.unwrap();
    server.put("/a.deb", File::new(body(10)).claiming_length(5_000_000));
    let sandbox = Sandbox::new();
    let url = server.url("/a.deb");
    let error = fetch(&sandbox.downloader(&["download.max_size=1MiB"]), &url, None)
        .await
        .unwrap_err();
    assert_eq!(error.category, Category::Invalid);
    assert_eq!(
        error.message,
        format!(
            "cannot download {url}: it is 5000000 bytes, larger than max_size in [download] allows (1048576 bytes)"
        )
    );
    assert!(sandbox.cached_files().is_empty());
}

#[tokio::test]
async fn an_endless_body_ends_at_the_cap_with_memory_flat() {
    let server = HttpServer::start().await.unwrap();
    server.put("/warm-up", Page::Endless);
    server.put("/a.deb", Page::Endless);
    let sandbox = Sandbox::new();
    let warm_up = sandbox.downloader(&["download.max_size=256KiB"]);
    fetch(&warm_up, &server.url("/warm-up"), None).await.unwrap_err();
    let before = peak_rss_kib();
    let downloader = sandbox.downloader(&["download.max_size=64MiB"]);
    let error = fetch(&downloader, &server.url("/a.deb"), None).await.unwrap_err();
    assert_eq!(error.category, Category::Invalid);
    assert!(error.message.contains("max_size"), "{error}");
    assert!(sandbox.cached_files().is_empty());
    let grown = peak_rss_kib() - before;
    assert!(grown < 2048, "memory grew by {grown} KiB over 64 MiB of body");
}

fn peak_rss_kib() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn silence_and_a_byte_now_and_then_end_at_the_stall_limit() {
    let server = HttpServer::start().await.unwrap();
    server.put("/mute", Page::Mute);
    server.put(
        "/slow",
        File::new(body(1000)).paced(1, Duration::from_millis(100)),
    );
    let sandbox = Sandbox::new();
    let downloader = sandbox.downloader(&["download.stall_timeout=1"]);
    for path in ["/mute", "/slow"] {
        let started = Instant::now();
        let url = server.url(path);
        let error = fetch(&downloader, &url, None).await.unwrap_err();
        assert_eq!(error.category, Category::Network);
        assert_eq!(
            error.message,
            format!(
                "cannot download {url}: it stalled (less than 1024 bytes a second for 1 s); it will be resumed"
            )
        );
        assert!(
            started.elapsed() < Duration::from_secs(4),
            "{path}: {:?}",
            started.elapsed()
        );
    }
}

#[tokio::test]
async fn slow_but_steady_is_no_stall() {
    let server = HttpServer::start().await.unwrap();
    let content = body(20_000);
    server.put(
        "/a.deb",
        File::new(content.clone()).paced(1000, Duration::from_millis(100)),
    );
    let sandbox = Sandbox::new();
    let downloader = sandbox.downloader(&["download.stall_timeout=1"]);
    let path = fetch(&downloader, &server.url("/a.deb"), None).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
}

#[tokio::test]
async fn redirects_are_followed_up_to_the_limit() {
    let server = HttpServer::start().await.unwrap();
    let elsewhere = HttpServer::start().await.unwrap();
    let url = elsewhere.put_file("/a.deb", b"package".to_vec());
    for hop in 0..5 {
        let to = match hop {
            0 => url.clone(),
            hop => format!("{}", hop - 1),
        };
        server.put(&format!("/{hop}"), Page::Redirect(to));
    }
    server.put("/5", Page::Redirect("/4".to_owned()));
    server.put("/loop", Page::Redirect("/loop".to_owned()));
    let sandbox = Sandbox::new();
    let downloader = sandbox.downloader(&[]);
    let path = fetch(&downloader, &server.url("/4"), None).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), b"package");
    for path in ["/5", "/loop"] {
        let error = fetch(&downloader, &server.url(path), None).await.unwrap_err();
        assert_eq!(error.category, Category::Network);
        assert!(
            error.message.ends_with("over 5 redirects (max_redirects)"),
            "{error}"
        );
    }
    assert_eq!(server.count("/loop"), 6);
}

// Row 28.

#[tokio::test]
async fn other_schemes_are_refused_and_file_unless_allowed() {
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.dir.path().join("srv")).unwrap();
    fs::write(sandbox.dir.path().join("srv/a.deb"), "local").unwrap();
    for (url, reason) in [
        (
            "data:,x",
            "its scheme is data; allowed are http, https and (with allow_file_urls) file",
        ),
        (
            "ftp://h/a.deb",
            "its scheme is ftp; allowed are http, https and (with allow_file_urls) file",
        ),
        (
            "file:///srv/a.deb",
            "file: URLs are not allowed (allow_file_urls in [hostagent])",
        ),
    ] {
        let error = fetch(&sandbox.downloader(&[]), url, None).await.unwrap_err();
        assert_eq!(error.category, Category::Invalid);
        assert_eq!(error.message, format!("refusing to download {url}: {reason}"));
    }
    let allowing = sandbox.downloader(&["hostagent.allow_file_urls=true"]);
    let path = fetch(&allowing, "file:///srv/a.deb", Some(&sha256(b"local")))
        .await
        .unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"local");
    assert!(
        path.starts_with(sandbox.cache()),
        "a copy that nobody else changes"
    );
    let error = fetch(&allowing, "file:///srv/b.deb", None).await.unwrap_err();
    assert_eq!(error.category, Category::NotFound);
}

/// A server certificate for `localhost`, as a PEM file in `folder`.
pub fn certificate(folder: &Path) -> (Arc<rustls::ServerConfig>, String) {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = folder.join("ca.pem");
    fs::write(&pem, issued.cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    (Arc::new(config), format!("download.ca_certs={}", pem.display()))
}

#[tokio::test]
async fn https_is_verified_and_never_leads_to_http() {
    let sandbox = Sandbox::new();
    let (config, trust) = certificate(sandbox.dir.path());
    let secure = HttpServer::start_tls(config).await.unwrap();
    let plain = HttpServer::start().await.unwrap();
    let content = body(200_000);
    secure.put("/a.deb", File::new(content.clone()).cut_after(150_000));
    let to_plain = plain.put_file("/b.deb", b"x".to_vec());
    secure.put("/down", Page::Redirect(to_plain));
    plain.put("/up", Page::Redirect(secure.url("/a.deb")));

    let downloader = sandbox.downloader(&[&trust]);
    for url in [secure.url("/a.deb"), plain.url("/up")] {
        assert_eq!(
            fs::read(fetch(&downloader, &url, None).await.unwrap()).unwrap(),
            content
        );
    }
    let error = fetch(&downloader, &secure.url("/down"), None).await.unwrap_err();
    assert_eq!(error.category, Category::Invalid);
    assert!(
        error.message.ends_with(": https must not redirect to http"),
        "{error}"
    );
    assert_eq!(plain.count("/b.deb"), 0);

    let other_authority = tempfile::tempdir().unwrap();
    let (_, trust) = certificate(other_authority.path());
    let error = fetch(&Sandbox::new().downloader(&[&trust]), &secure.url("/a.deb"), None)
        .await
        .unwrap_err();
    assert_eq!(error.category, Category::Network);
    assert!(error.message.contains("certificate"), "{error}");
}

/// Twenty packages of one server would else be twenty handshakes, each with the host's certificates read for it.
#[tokio::test]
async fn a_connection_is_handed_on_to_what_waits_for_its_turn_and_ends_with_the_last() {
    let sandbox = Sandbox::new();
    let (config, trust) = certificate(sandbox.dir.path());
    let server = HttpServer::start_tls(config).await.unwrap();
    let downloader = sandbox.downloader(&[&trust, "download.max_parallel=2"]);
    let all = |downloader: Arc<Downloader>| {
        let urls = (0..8).map(|number| server.url(&format!("/{number}.deb")));
        futures_util::future::join_all(urls.map(move |url| {
            let downloader = downloader.clone();
            async move { fetch(&downloader, &url, None).await }
        }))
    };
    for number in 0..8 {
        server.put_file(&format!("/{number}.deb"), body(100_000 + number));
    }
    for (number, fetched) in all(downloader.clone()).await.into_iter().enumerate() {
        assert_eq!(fs::read(fetched.unwrap()).unwrap(), body(100_000 + number));
    }
    let before = server.connections();
    assert!((1..=2).contains(&before), "{before}");

    // None was kept for later; and a server that is only asked whether they have changed is asked over few, too.
    for fetched in all(downloader).await {
        fetched.unwrap();
    }
    assert_eq!(server.requests("/0.deb").len(), 2);
    let since = server.connections() - before;
    assert!((1..=2).contains(&since), "{since}");
}

/// It closes what it takes for idle, perhaps at the very moment at which that is used again.
#[tokio::test]
async fn a_connection_that_the_server_closes_instead_of_answering_again_is_replaced() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, mut requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let asked = asked.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(socket);
                for number in 0..2 {
                    let mut line = String::new();
                    while line != "\r\n" {
                        line.clear();
                        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    asked.send(number).unwrap();
                    if number == 0 {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\npackage";
                        stream.write_all(answer).await.unwrap();
                    }
                }
            });
        }
    });
    let sandbox = Sandbox::new();
    let downloader = sandbox.downloader(&["download.max_parallel=1"]);
    let (one, other) = (
        format!("http://{address}/a.deb"),
        format!("http://{address}/b.deb"),
    );
    let (one, other) = tokio::join!(fetch(&downloader, &one, None), fetch(&downloader, &other, None));
    assert_eq!(fs::read(one.unwrap()).unwrap(), b"package");
    assert_eq!(fs::read(other.unwrap()).unwrap(), b"package");
    let asked: Vec<i32> = std::iter::from_fn(|| requests.try_recv().ok()).collect();
    assert_eq!(
        asked,
        [0, 1, 0],
        "the second was asked for again, over a connection of its own"
    );
}

#[tokio::test]
async fn a_client_certificate_that_does_not_fit_is_an_error_and_no_crash() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (config, trust) = certificate(first.path());
    certificate(second.path());
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(second.path().join("key.pem"), key.serialize_pem()).unwrap();
    let server = HttpServer::start_tls(config).await.unwrap();
    let set = |name: &str, file: &str| format!("download.{name}={}/{file}", second.path().display());
    let overrides = [trust, set("certfile", "ca.pem"), set("keyfile", "key.pem")];
    let downloader = Sandbox::new().downloader(&overrides.each_ref().map(String::as_str));
    let error = fetch(&downloader, &server.url("/a.deb"), None).await.unwrap_err();
    assert!(error.message.contains("key.pem does not belong to"), "{error}");
}

// Row 30.

#[tokio::test]
async fn servers_without_ranges_length_or_etag_will_do() {
    let server = HttpServer::start().await.unwrap();
    let content = body(50_000);
    server.put("/no-length", File::new(content.clone()).without_content_length());
    server.put("/no-etag", File::new(content.clone()).without_etag());
    server.put(
        "/nothing",
        File::new(content.clone())
            .without_ranges()
            .without_content_length()
            .without_etag(),
    );
    for path in ["/no-length", "/no-etag", "/nothing"] {
        for digest in [None, Some(sha256(&content))] {
            let sandbox = Sandbox::new();
            let fetched = fetch(&sandbox.downloader(&[]), &server.url(path), digest.as_deref()).await;
            assert_eq!(fs::read(fetched.unwrap()).unwrap(), content, "{path}");
        }
    }
    // Interrupted, without ranges: all of it comes again, and is taken once.
    let sandbox = Sandbox::new();
    let file = File::new(content.clone()).without_ranges();
    server.put("/again", file.clone().paced(5000, Duration::from_millis(100)));
    interrupt(&sandbox, &server, "/again", Some(&sha256(&content))).await;
    server.put("/again", file);
    let fetched = fetch(
        &sandbox.downloader(&[]),
        &server.url("/again"),
        Some(&sha256(&content)),
    )
    .await;
    assert_eq!(fs::read(fetched.unwrap()).unwrap(), content);
}

#[tokio::test]
async fn retry_after_is_honoured_within_bounds() {
    let server = HttpServer::start().await.unwrap();
    let later = |status, retry_after: &str, times| Page::RetryLater {
        status,
        retry_after: retry_after.to_owned(),
        times,
        then: File::new(b"package".to_vec()),
    };
    let sandbox = Sandbox::new();
    let downloader = sandbox.downloader(&[]);
    for (path, status) in [("/429", 429), ("/503", 503)] {
        server.put(path, later(status, "1", 1));
        let started = Instant::now();
        let fetched = fetch(&downloader, &server.url(path), None).await.unwrap();
        assert_eq!(fs::read(fetched).unwrap(), b"package");
        assert!(
            started.elapsed() >= Duration::from_secs(1),
            "{path} was tried again too early"
        );
        assert_eq!(server.count(path), 2);
    }
    server.put("/long", later(503, "86400", 1));
    let error = fetch(&downloader, &server.url("/long"), None).await.unwrap_err();
    assert_eq!(error.category, Category::Network);
    assert!(
        error
            .message
            .ends_with("the server is busy (503); it asks to wait 86400 s"),
        "{error}"
    );
    assert_eq!(server.count("/long"), 1);
}

#[tokio::test]
async fn statuses_have_their_categories() {
    let server = HttpServer::start().await.unwrap();
    let sandbox = Sandbox::new();
    let downloader = sandbox.downloader(&[]);
    for (status, category) in [
        (404, Category::NotFound),
        (410, Category::NotFound),
        // R41: a presigned URL that has expired.
        (401, Category::NotFound),
        (403, Category::NotFound),
        (500, Category::Network),
        (503, Category::Network),
        (204, Category::Network),
        (206, Category::Network),
        (304, Category::Network),
    ] {
        server.put("/a.deb", Page::Status(status));
        let error = fetch(&downloader, &server.url("/a.deb"), None).await.unwrap_err();
        assert_eq!(error.category, category, "{status}: {error}");
    }
    let refused = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let error = fetch(&downloader, &format!("http://{refused}/a.deb"), None)
        .await
        .unwrap_err();
    assert_eq!(error.category, Category::Network);
}

// The cache.

#[tokio::test]
async fn a_cached_package_is_verified_and_not_asked_for_again() {
    let server = HttpServer::start().await.unwrap();
    let content = body(1000);
    let url = server.put_file("/a.deb", content.clone());
    let sandbox = Sandbox::new();
    let digest = sha256(&content);
    let path = fetch(&sandbox.downloader(&[]), &url, Some(&digest))
        .await
        .unwrap();
    assert_eq!(
        fetch(&sandbox.downloader(&[]), &url, Some(&digest))
            .await
            .unwrap(),
        path
    );
    assert_eq!(server.count("/a.deb"), 1);

    fs::write(&path, "bit rot").unwrap();
    let again = fetch(&sandbox.downloader(&[]), &url, Some(&digest))
        .await
        .unwrap();
    assert_eq!(fs::read(again).unwrap(), content);
    assert_eq!(server.count("/a.deb"), 2);
}

#[tokio::test]
async fn without_a_digest_the_server_is_asked_whether_it_changed() {
    let server = HttpServer::start().await.unwrap();
    let url = server.put_file("/a.deb", b"old".to_vec());
    let sandbox = Sandbox::new();
    let path = fetch(&sandbox.downloader(&[]), &url, None).await.unwrap();
    assert_eq!(fetch(&sandbox.downloader(&[]), &url, None).await.unwrap(), path);
    let requests = server.requests("/a.deb");
    assert!(requests[1].headers.contains_key("if-none-match"));

    server.put_file("/a.deb", b"new".to_vec());
    assert_eq!(fetch(&sandbox.downloader(&[]), &url, None).await.unwrap(), path);
    assert_eq!(fs::read(&path).unwrap(), b"new");

    server.put("/a.deb", File::new(b"newest".to_vec()).without_etag());
    fetch(&sandbox.downloader(&[]), &url, None).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"newest");
    fetch(&sandbox.downloader(&[]), &url, None).await.unwrap();
    let last = server.requests("/a.deb").pop().unwrap();
    assert!(
        !last.headers.contains_key("if-none-match"),
        "an ETag of an older file"
    );
}

#[tokio::test]
async fn what_is_discarded_is_fetched_anew() {
    let server = HttpServer::start().await.unwrap();
    let url = server.put_file("/a.deb", b"package".to_vec());
    let sandbox = Sandbox::new();
    let downloader = sandbox.downloader(&[]);
    let path = fetch(&downloader, &url, None).await.unwrap();
    downloader.discard(&path).await;
    assert!(sandbox.cached_files().is_empty());
    fetch(&downloader, &url, None).await.unwrap();
    assert!(!server.requests("/a.deb")[1].headers.contains_key("if-none-match"));
}

#[tokio::test]
async fn parallel_fetches_of_one_url_share_one_download() {
    let server = HttpServer::start().await.unwrap();
    let content = body(30_000);
    server.put(
        "/a.deb",
        File::new(content.clone()).paced(10_000, Duration::from_millis(50)),
    );
    let sandbox = Sandbox::new();
    let downloader = sandbox.downloader(&[]);
    let (url, digest) = (server.url("/a.deb"), sha256(&content));
    let fetch = || {
        let (downloader, url, digest) = (Arc::clone(&downloader), url.clone(), digest.clone());
        tokio::spawn(async move { fetch(&downloader, &url, Some(&digest)).await })
    };
    for fetched in [(); 8].map(|()| fetch()) {
        assert_eq!(fs::read(fetched.await.unwrap().unwrap()).unwrap(), content);
    }
    assert_eq!(server.count("/a.deb"), 1);
}

#[tokio::test]
async fn the_cache_keeps_within_its_limit_and_keeps_what_is_protected() {
    let server = HttpServer::start().await.unwrap();
    let sandbox = Sandbox::new();
    let downloader = sandbox.downloader(&["download.max_cache_size=25000"]);
    let mut fetched = Vec::new();
    for name in ["/pinned", "/old", "/new"] {
        let url = server.put_file(name, body(10_000));
        fetched.push(fetch(&downloader, &url, None).await.unwrap());
        downloader.protect(&BTreeSet::from([fetched[0].clone()]));
        // Ages are file times: each must be later than the one before.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        fetched.iter().map(|path| path.exists()).collect::<Vec<_>>(),
        [true, false, true]
    );
}

#[tokio::test]
async fn a_full_disk_is_named_with_sizes() {
    let server = HttpServer::start().await.unwrap();
    let petabytes = 900 << 40;
    server.put("/a.deb", File::new(body(10)).claiming_length(petabytes));
    let sandbox = Sandbox::new();
    let downloader = sandbox.downloader(&["download.max_size=1TiB"]);
    let error = fetch(&downloader, &server.url("/a.deb"), None).await.unwrap_err();
    assert_eq!(error.category, Category::Invalid);

    let almost = (1 << 40) - 1;
    server.put("/b.deb", File::new(body(10)).claiming_length(almost));
    let error = fetch(&downloader, &server.url("/b.deb"), None).await.unwrap_err();
    assert_eq!(error.category, Category::DiskSpace);
    assert!(
        error.message.contains(&format!("needs {almost} bytes")),
        "{error}"
    );
}

// Cancelling, secrets, proxies.

#[tokio::test]
async fn cancelling_takes_less_than_a_second_however_silent_the_peer() {
    let server = HttpServer::start().await.unwrap();
    server.put("/mute", Page::Mute);
    let slots = ["download.max_parallel=1"];
    let sandbox = Sandbox::new();
    let downloader = sandbox.downloader(&slots);
    let cancel = Cancel::default();
    let fetch = |url| {
        let (downloader, cancel) = (Arc::clone(&downloader), cancel.clone());
        tokio::spawn(async move { downloader.fetch(&Download { url, sha256: None }, &cancel).await })
    };
    let first = fetch(server.url("/mute"));
    wait_until(|| server.count("/mute") == 1).await;
    // One waits for the first one's lock, the other for its slot.
    let fetches = [first, fetch(server.url("/mute")), fetch(server.url("/other"))];
    tokio::task::yield_now().await;
    let started = Instant::now();
    cancel.set();
    for fetched in fetches {
        let error = fetched.await.unwrap().unwrap_err();
        assert!(error.message.ends_with("was cancelled"), "{error}");
        assert!(error.category.is_transient());
    }
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(server.count("/other"), 0);
}

#[tokio::test]
async fn credentials_of_a_url_are_sent_and_never_shown() {
    let server = HttpServer::start().await.unwrap();
    let url = server
        .url("/a.deb?X-Signature=hunter3")
        .replace("http://", "http://me:hunter2@");
    let error = fetch(&Sandbox::new().downloader(&[]), &url, None)
        .await
        .unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("hunter") && !shown.contains("me:"), "{shown}");
    let request = &server.requests("/a.deb")[0];
    assert_eq!(request.headers["authorization"], "Basic bWU6aHVudGVyMg==");
    assert_eq!(request.path, "/a.deb?X-Signature=hunter3");
}

/// A proxy that knows CONNECT; returns its address and the heads of the requests that it saw.
async fn connect_proxy() -> (std::net::SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heads, seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let heads = heads.clone();
            tokio::spawn(async move {
                let mut client = BufReader::new(socket);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    client.read_line(&mut head).await.unwrap();
                }
                let target = head.split(' ').nth(1).unwrap().to_owned();
                heads.send(head).unwrap();
                let mut server = TcpStream::connect(target).await.unwrap();
                client
                    .get_mut()
                    .write_all(b"HTTP/1.1 200 OK\r\n\r\n")
                    .await
                    .unwrap();
                let _ = tokio::io::copy_bidirectional(client.get_mut(), &mut server).await;
            });
        }
    });
    (address, seen)
}

#[tokio::test]
async fn https_goes_through_a_tunnel_unless_the_host_is_excepted() {
    let sandbox = Sandbox::new();
    let (config, trust) = certificate(sandbox.dir.path());
    let server = HttpServer::start_tls(config).await.unwrap();
    let url = server.put_file("/a.deb", b"package".to_vec());
    let (proxy, mut seen) = connect_proxy().await;
    let proxy = format!("download.https_proxy=http://me:hunter%402@{proxy}");
    fetch(&Sandbox::new().downloader(&[&trust, &proxy]), &url, None)
        .await
        .unwrap();
    let head = seen.recv().await.unwrap();
    let port = server.address().port();
    assert!(head.starts_with(&format!("CONNECT localhost:{port} ")), "{head}");
    assert!(head.contains("bWU6aHVudGVyQDI="), "me:hunter@2: {head}");

    let except = "download.no_proxy=localhost";
    fetch(&Sandbox::new().downloader(&[&trust, &proxy, except]), &url, None)
        .await
        .unwrap();
    assert!(seen.try_recv().is_err());
}

#[tokio::test]
async fn http_is_asked_of_the_proxy_by_its_whole_url() {
    // Names that only the proxy knows.
    let proxy = HttpServer::start().await.unwrap();
    proxy.put_file("/a.deb", b"package".to_vec());
    proxy.put(
        "/from",
        Page::Redirect("http://second.invalid/a.deb?x=1".to_owned()),
    );
    let setting = format!("download.http_proxy=http://me:hunter%402@{}", proxy.address());
    let downloader = Sandbox::new().downloader(&[&setting]);
    let path = fetch(&downloader, "http://first.invalid:8080/from", None)
        .await
        .unwrap();
    assert_eq!(fs::read(path).unwrap(), b"package");
    let first = &proxy.requests("/from")[0];
    assert_eq!(first.target, "http://first.invalid:8080/from");
    assert_eq!(first.headers["host"], "first.invalid:8080");
    assert_eq!(first.headers["proxy-authorization"], "Basic bWU6aHVudGVyQDI=");
    assert_eq!(
        proxy.requests("/a.deb")[0].target,
        "http://second.invalid:80/a.deb?x=1"
    );

    let except = "download.no_proxy=.invalid";
    let error = fetch(
        &Sandbox::new().downloader(&[&setting, except]),
        "http://first.invalid/a.deb",
        None,
    )
    .await;
    assert_eq!(error.unwrap_err().category, Category::Network);
    assert_eq!(proxy.count("/a.deb"), 1);
}
