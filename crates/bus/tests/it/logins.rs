//! FAULTS.md row 7: refused logins.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus::LinkState;
use bus::amqp::{self, AmqpSettings, Login, Secret};
use harness::proxy::Proxy;
use harness::rabbitmq::RabbitMq;
use tokio::time::{Instant, sleep};

use crate::support::{PATIENCE, agent, assert_consuming, settings, wait_for, wait_until_up};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Collects what this thread, which runs the link, logs at level WARN and above.
    fn of_this_thread() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::WARN)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines_of_the_bus(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .filter(|line| line.contains(" bus::"))
            .map(str::to_owned)
            .collect()
    }
}

/// Waits for some attempts whose reason contains `expected`. Checks that only one line was logged.
async fn assert_refused_quietly(
    link: &mut bus::Link,
    proxy: &Proxy,
    log: &Log,
    lines: usize,
    expected: &str,
) {
    let reason = wait_for(link, |state| format!("{state:?}").contains(expected)).await;
    assert!(matches!(reason, LinkState::Down { .. }));
    let (tries, until) = (proxy.accepted() + 3, Instant::now() + PATIENCE);
    while proxy.accepted() < tries {
        assert!(Instant::now() < until, "no more tries were made");
        sleep(Duration::from_millis(20)).await;
    }
    let logged = log.lines_of_the_bus();
    assert_eq!(logged.len(), lines, "{logged:#?}");
    assert!(logged[lines - 1].contains(expected));
}

#[tokio::test]
async fn a_refused_login_is_retried_and_logged_once_per_reason() {
    let node = RabbitMq::shared().await.unwrap();
    let proxy = Proxy::start(node.port()).unwrap();
    let vhost = format!("missing-{}", std::process::id());
    let user = format!("late-{}", std::process::id());
    let (log, _guard) = Log::of_this_thread();
    let login = Login {
        username: user.clone(),
        password: Secret::new("s3cret-word"),
    };
    let settings = AmqpSettings {
        port: proxy.port,
        login: Some(login),
        retry_period: Duration::from_millis(100),
        retry_max: Duration::from_millis(200),
        ..settings(&node, &vhost)
    };
    assert!(!format!("{settings:?}").contains("s3cret-word"));
    let mut link = amqp::connect(settings, agent("host-a"));

    assert_refused_quietly(
        &mut link,
        &proxy,
        &log,
        1,
        &format!("refused the login of user {user}"),
    )
    .await;

    node.ctl(&["add_user", &user, "s3cret-word"]).await.unwrap();
    assert_refused_quietly(&mut link, &proxy, &log, 2, "has no virtual host").await;

    node.ctl(&["add_vhost", &vhost]).await.unwrap();
    assert_refused_quietly(
        &mut link,
        &proxy,
        &log,
        3,
        &format!("refused the login of user {user}"),
    )
    .await;

    node.ctl(&["set_permissions", "-p", &vhost, &user, ".*", ".*", ".*"])
        .await
        .unwrap();
    wait_until_up(&mut link).await;
    assert_consuming(&mut link, "host-a").await;
    assert!(!log.lines_of_the_bus().concat().contains("s3cret-word"));
}

#[tokio::test]
async fn without_password_and_certificate_the_reason_says_what_to_set() {
    let node = RabbitMq::shared().await.unwrap();
    let vhost = node.add_vhost().await.unwrap();
    let settings = AmqpSettings {
        login: None,
        ..settings(&node, &vhost)
    };
    let mut link = amqp::connect(settings, agent("host-a"));
    let said = "set [amqp] username and password_file";
    let state = wait_for(&mut link, |state| format!("{state:?}").contains(said)).await;
    assert!(matches!(state, LinkState::Down { .. }), "{state:?}");
}
