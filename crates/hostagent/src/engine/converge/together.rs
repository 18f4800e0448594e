//! Applications that stand or fall together.

use std::collections::BTreeSet;

use protocol::{AppName, Apps};

/// All that `app` is tied to by `requires`, whichever names which, directly or over others; itself left out.
pub fn with(apps: &Apps, app: &AppName) -> BTreeSet<AppName> {
    let mut reached = BTreeSet::from([app.clone()]);
    let mut news = vec![app.clone()];
    while let Some(next) = news.pop() {
        let required = apps.get(&next).into_iter().flat_map(|spec| &spec.requires);
        let requiring = apps
            .iter()
            .filter(|(_, spec)| spec.requires.contains(&next))
            .map(|(name, _)| name);
        for tied in required.chain(requiring) {
            if reached.insert(tied.clone()) {
                news.push(tied.clone());
            }
        }
    }
    reached.remove(app);
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_hold_both_ways_and_over_others() {
        let apps: Apps = serde_json::from_value(serde_json::json!({
            "db": {"version": "1"},
            "api": {"version": "1", "requires": ["db"]},
            "web": {"version": "1", "requires": ["api"]},
            "alone": {"version": "1"},
        }))
        .unwrap();
        let names = |app: &str| {
            let names = with(&apps, &AppName::new(app).unwrap());
            names
                .iter()
                .map(|name| name.as_str().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names("db"), ["api", "web"]);
        assert_eq!(names("web"), ["api", "db"]);
        assert_eq!(names("alone"), [""; 0]);
    }
}
