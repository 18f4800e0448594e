//! A plan over the wire, and a `set_config` that is bound to it.

use super::*;

for_both_families![a_plan_changes_nothing_and_binds_what_follows];

async fn a_plan_changes_nothing_and_binds_what_follows(family: Family) {
    let mut world = World::new(family).await;
    world.with_app_at_1().await;
    let runs = world.packages.runs();
    let before = world.database_bytes();
    let apps = json!({"app": world.desired(&example_app("app", "2.0"), "new")});
    let plan = world.plan(apps.clone()).await;
    let actions: Vec<(&str, bool)> = plan
        .steps
        .iter()
        .map(|step| (&*step.action, step.undo.possible))
        .collect();
    assert!(actions.contains(&("install", true)), "{actions:?}");
    assert_eq!(
        plan,
        PlanAnswer {
            reply_to: plan.reply_to.clone(),
            ..world.plan(apps.clone()).await
        }
    );
    assert_eq!(world.packages.runs(), runs);
    assert!(world.database_bytes() == before);

    let id = world.ask_if(apps.clone(), Some("0123456789ab".into())).await;
    let refused = world.outcome(&id).await;
    assert_eq!(refused.status, State::Errors, "{refused:?}");
    assert_eq!(refused.errors[0].phase, Phase::Check, "{refused:?}");
    assert!(refused.errors[0].message.contains(&plan.hash), "{refused:?}");
    assert_eq!(world.packages.runs(), runs);
    world.assert_at_1().await;

    let id = world.ask_if(apps.clone(), Some(plan.hash.clone())).await;
    let status = world.outcome(&id).await;
    assert_eq!(status.status, State::Ok, "{status:?}");
    assert_eq!(world.database(), ["app 2.0-1"]);
    // By now there is nothing to do: another plan, another hash.
    let after = world.plan(apps).await;
    assert!(after.steps.is_empty() && after.hash != plan.hash, "{after:?}");
}
