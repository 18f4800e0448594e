//! What comes back because no master is bound: when it is sent again, and that no answer is lost.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_comes_back_unroutable_goes_with_the_next_status() {
    let mut driver = started().await;
    driver.send_on(HOST, json!({"opcode": "ping", "id": "p1"})).await;
    assert_eq!(driver.comes_back().await, "ok p1");
    driver.send_on(HOST, json!({"opcode": "ping", "id": "p2"})).await;
    assert_eq!(driver.said(2).await, ["ok p1", "ok p2"]);
    driver.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_unroutable_is_sent_again_after_longer_and_longer_pauses() {
    let mut driver = started().await;
    driver.send_on(HOST, json!({"opcode": "ping", "id": "p1"})).await;
    assert_eq!(driver.comes_back().await, "ok p1");
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        let returned = Instant::now();
        assert_eq!(driver.comes_back().await, "ok p1");
        assert_eq!(returned.elapsed().as_secs_f64().round() as u64, seconds);
    }
    driver.send_on(HOST, json!({"opcode": "ping", "id": "p2"})).await;
    assert_eq!(driver.said(2).await, ["ok p1", "ok p2"]);
    driver.quiet().await;
    // A master was there: it may be back soon.
    driver.send_on(HOST, json!({"opcode": "ping", "id": "p3"})).await;
    assert_eq!(driver.comes_back().await, "ok p3");
    let returned = Instant::now();
    assert_eq!(driver.said(1).await, ["ok p3"]);
    assert_eq!(returned.elapsed().as_secs_f64().round() as u64, 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_came_back_outlasts_later_statuses_that_come_back_and_a_lost_connection() {
    let mut driver = started().await;
    driver.send_on(HOST, json!({"opcode": "ping", "id": "p1"})).await;
    assert_eq!(driver.comes_back().await, "ok p1");
    // Answers nobody, as a heartbeat.
    driver.send_on(HOST, json!({"opcode": "ping"})).await;
    assert_eq!(driver.comes_back().await, "ok p1");
    assert_eq!(driver.comes_back().await, "ok -");
    let reason = "the broker went away".to_owned();
    driver.link.send_replace(LinkState::Down { reason });
    tokio::time::sleep(Duration::from_secs(5)).await;
    driver.link.send_replace(LinkState::Up { epoch: 2 });
    assert_eq!(driver.said(1).await, ["ok p1"]);
    driver.quiet().await;
}

/// Else the master would take the older for the newer.
#[tokio::test(start_paused = true)]
async fn what_is_sent_again_is_no_newer_than_what_has_arrived_meanwhile() {
    let mut driver = started().await;
    // Neither answers anybody, so the newer says all that the older did.
    for _ in 0..2 {
        driver.send_on(HOST, json!({"opcode": "ping"})).await;
    }
    assert_eq!(driver.comes_back().await, "ok -");
    assert_eq!(driver.said(1).await, ["ok -"]);
    driver.quiet().await;
    // Somebody waits for an answer, late as it is.
    for id in ["p1", "p2"] {
        driver.send_on(HOST, json!({"opcode": "ping", "id": id})).await;
    }
    assert_eq!(driver.comes_back().await, "ok p1");
    let newer = driver.status().await;
    let late = driver.status().await;
    assert_eq!(
        (newer["reply_to"].as_str(), late["reply_to"].as_str()),
        (Some("p2"), Some("p1"))
    );
    assert!(late["seq"].as_u64() < newer["seq"].as_u64(), "{late} {newer}");
}
