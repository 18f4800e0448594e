//! Schemathesis, a standard tester of OpenAPI documents, against the running master: it generates
//! valid and invalid requests from the document and compares the answers with the document.

use std::path::Path;

use harness::skip::skipped;
use serde_json::json;
use tokio::process::Command;

use crate::agent::{Agent, Script};
use crate::fleet::{Fleet, until};

/// The stream of events does not end.
const ENDLESS: &str = "^/v1/events$";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemathesis_finds_no_mismatch_and_no_server_error() {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/schemathesis/bin/schemathesis");
    if !program.exists() {
        skipped(
            "the OpenAPI document against a stock tester",
            "no schemathesis here (scripts/install-test-tools installs it where there are python3 and the network)",
        );
        return;
    }
    let fleet = Fleet::sqlite();
    let (_master, client) = fleet.master().await;
    let _agent = Agent::start(&fleet.broker, "h1", Script::Converges);
    until(&client, "/v1/hosts", |page| page["total"] == 1).await;
    client
        .put("/v1/hosts/h1/apps", &json!({"foo": {"version": "1"}}))
        .await
        .expect(200);
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(program)
        .arg("run")
        .arg(format!("http://{}/openapi.json", client.address()))
        .args(["--exclude-path-regex", ENDLESS])
        .args([
            "--max-examples",
            "15",
            "--seed",
            "1",
            "--generation-database",
            "none",
        ])
        .args(["--continue-on-failure", "--no-color", "--warnings", "off"])
        .current_dir(folder.path())
        .env("HOME", folder.path())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // The number of test cases, which it prints at its end.
    let counts = said.lines().rev().take(12).collect::<Vec<_>>();
    println!("{}", counts.into_iter().rev().collect::<Vec<_>>().join("\n"));
}
