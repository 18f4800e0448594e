//! Field report R02: an init script that cannot tell whether its service runs is its own application's trouble, and
//! nobody else's.

use std::os::unix::fs::PermissionsExt;

use protocol::encode_ping;

use super::*;

for_both_families![a_script_that_cannot_tell_hides_no_other_application_and_can_be_removed];

async fn a_script_that_cannot_tell_hides_no_other_application_and_can_be_removed(family: Family) {
    let mut world = World::new(family).await;
    let web = world.desired(&example_app("web", "1.0"), "old");
    let odd = world.desired(&example_app("odd", "1.0"), "old");
    world.reach(json!({"web": web, "odd": odd})).await;
    let script = world.sandbox.join("/etc/init.d/odd");
    let whole = std::fs::read(&script).unwrap();
    // LSB: unknown.
    std::fs::write(&script, "#!/bin/sh\nexit 4\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();

    world.master.publish(encode_ping(Some("look"))).await;
    let in_trouble = |all: &[Status]| all.iter().find(|status| status.status == State::Errors).cloned();
    let status = world.master.wait("the odd script's error", in_trouble).await;
    let error = only_error(&status);
    assert_eq!(error.app.as_ref().unwrap().as_str(), "odd", "{error:?}");
    assert_eq!(error.phase, Phase::Service, "{error:?}");
    assert!(
        error.message.contains("cannot tell whether service odd"),
        "{error:?}"
    );
    assert!(app(&status, "web").running);

    // What is wrong with one holds up no change of another, and it can be removed.
    std::fs::write(&script, whole).unwrap();
    world.reach(json!({"web": web, "odd": odd})).await;
    std::fs::write(&script, "#!/bin/sh\n[ \"$1\" = stop ] || exit 4\n").unwrap();
    let two = world.desired(&example_app("web", "2.0"), "new");
    world.reach(json!({"web": two})).await;
    assert_eq!(world.database(), ["web 2.0-1"]);
}
