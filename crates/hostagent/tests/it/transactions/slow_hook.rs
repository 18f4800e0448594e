//! A hook that takes its time holds up nobody but whoever waits for what it says.

use protocol::encode_ping;

use super::*;

const HOOK_TAKES: Duration = Duration::from_secs(20);

#[tokio::test]
async fn pings_are_answered_while_a_plan_waits_for_a_hook_of_20_s() {
    let mut world = World::new(Family::Deb).await;
    world.with_app_at_1().await;
    let hook = world.sandbox.join("/opt/pf9/app/config");
    let text = std::fs::read_to_string(&hook).unwrap();
    let (interpreter, rest) = text.split_once('\n').unwrap();
    let slow = format!("{interpreter}\n[ \"$1\" != --get-config ] || sleep {}\n{rest}", HOOK_TAKES.as_secs());
    std::fs::write(&hook, slow).unwrap();

    let began = std::time::Instant::now();
    let apps = json!({"app": world.desired(&example_app("app", "2.0"), "new")});
    let tied = world.ask_if(apps, Some("0123456789ab".into())).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let sent = std::time::Instant::now();
        let id = world.next_id();
        world.master.publish(encode_ping(Some(&id))).await;
        let answers = |all: &[Status]| {
            let answers = |id: &str| all.iter().any(|status| status.reply_to.as_deref() == Some(id));
            assert!(!answers(&tied), "it was decided without the hook");
            answers(&id).then_some(())
        };
        world.master.wait("an answer to a ping", answers).await;
        let took = sent.elapsed();
        assert!(took < Duration::from_secs(2), "a ping was answered after {took:?}");
    }
    let status = world.outcome(&tied).await;
    assert!(began.elapsed() >= HOOK_TAKES, "{:?}", began.elapsed());
    let error = &status.errors[0];
    assert_eq!(error.phase, Phase::Check, "{error:?}");
    assert!(error.message.contains("only_if_plan"), "{error:?}");
    assert_eq!(world.database(), ["app 1.0-1"]);
}
