//! The log of the real program, over RabbitMQ.

use harness::rabbitmq::RabbitMq;
use serde_json::json;

use crate::client::Client;
use crate::fleet::{Database, eventually};
use crate::masters::Logging;

/// The broker returns a message to a host without a queue, with all its content.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_config_value_is_in_the_log_at_any_level() {
    const SECRET: &str = "correct-horse-battery";
    let node = RabbitMq::shared().await.unwrap();
    for level in ["INFO", "DEBUG"] {
        let vhost = node.add_vhost().await.unwrap();
        let database = Database::sqlite();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log");
        let master = Logging::start(&node, &vhost, &database, level, &file).await;
        let apps = json!({"shop": {"version": "1", "config": {"db": {"password": SECRET}}}});
        let put = Client::new(master.address)
            .put("/v1/hosts/absent/apps", &apps)
            .await;
        put.expect(200);
        let log = || std::fs::read_to_string(&file).unwrap();
        eventually("it is said that the host has no queue", || {
            log().contains("the host has no queue; its desired state will be sent when it reports")
        })
        .await;
        master.terminate();
        let log = log();
        assert!(!log.contains(SECRET), "{log}");
        // As bytes: the start of the JSON, and of the secret.
        assert!(!log.contains("[123,") && !log.contains("123, 34"), "{log}");
        assert!(!log.contains("99, 111, 114, 114, 101, 99, 116"), "{log}");
        // A stop in order is not an error. At level DEBUG, lapin's errors may be shown.
        if level == "INFO" {
            assert!(!log.contains("ERROR") && !log.contains("lapin"), "{log}");
        }
    }
}
