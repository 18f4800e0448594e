use super::*;

fn stored(url: Option<&str>, token: Option<&str>) -> StoredSettings {
    StoredSettings {
        url: url.map(str::to_owned),
        token: token.map(str::to_owned),
        ..StoredSettings::default()
    }
}

fn resolve(
    flags: &SettingsFlags,
    environment: &[(&str, &str)],
    stored: &StoredSettings,
) -> Result<Settings, SettingsError> {
    let look_up = |name: &str| {
        let found = environment.iter().find(|(set, _)| *set == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    Settings::resolve(flags, look_up, stored, Path::new("/home/me/bbctl.toml"))
}

fn flag(url: &str) -> SettingsFlags {
    SettingsFlags {
        url: Some(url.to_owned()),
        ..SettingsFlags::default()
    }
}

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() {
    let file = stored(Some("https://file.example/"), Some("file-token"));
    let env = [
        ("BBCTL_URL", "https://env.example/"),
        ("BBCTL_TOKEN", "env-token"),
    ];
    for (flags, environment, stored, url, token) in [
        (
            SettingsFlags::default(),
            &env[..0],
            StoredSettings::default(),
            DEFAULT_URL,
            None,
        ),
        (
            SettingsFlags::default(),
            &env[..0],
            file.clone(),
            "https://file.example/",
            Some("file-token"),
        ),
        (
            SettingsFlags::default(),
            &env[..],
            file.clone(),
            "https://env.example/",
            Some("env-token"),
        ),
        (
            flag("https://flag.example/"),
            &env[..],
            file.clone(),
            "https://flag.example/",
            Some("env-token"),
        ),
    ] {
        let settings = resolve(&flags, environment, &stored).unwrap();
        assert_eq!(settings.url.as_str(), url);
        assert_eq!(settings.token.map(|(token, _)| token).as_deref(), token, "{url}");
    }
}

#[test]
fn a_stored_token_goes_to_no_other_master_than_its_own() {
    let file = stored(Some("https://file.example/"), Some("secret"));
    for (url, given) in [
        ("https://file.example/", true),
        ("https://file.example:443/some/path", true),
        ("https://file.example:8443/", false),
        ("https://other.example/", false),
        ("http://localhost/", false),
    ] {
        let settings = resolve(&flag(url), &[], &file).unwrap();
        assert_eq!(settings.token.is_some(), given, "{url}");
        assert_eq!(settings.token_kept_back, !given, "{url}");
    }
    let of_the_default = resolve(&SettingsFlags::default(), &[], &stored(None, Some("secret"))).unwrap();
    assert!(of_the_default.token.is_some());
}

#[test]
fn plain_http_leaves_this_machine_only_where_that_is_allowed() {
    for (url, refused) in [
        ("http://localhost:8082", false),
        ("http://127.0.0.1", false),
        ("http://[::1]:8082", false),
        ("https://master.example", false),
        ("http://master.example", true),
        ("http://192.0.2.1", true),
    ] {
        let settings = resolve(&flag(url), &[], &StoredSettings::default());
        assert_eq!(
            matches!(settings, Err(SettingsError::PlainHttp { .. })),
            refused,
            "{url}"
        );
        let allowed = resolve(
            &flag(url),
            &[("BBCTL_ALLOW_PLAIN_HTTP", "1")],
            &StoredSettings::default(),
        );
        assert!(allowed.is_ok(), "{url}");
    }
}

#[test]
fn what_is_no_url_of_a_master_is_refused_with_its_origin() {
    for url in [
        "",
        "master",
        "ftp://master.example",
        "http://me:secret@localhost/",
        "http://localhost/?a=b",
    ] {
        let Err(error) = resolve(&flag(url), &[], &StoredSettings::default()) else {
            panic!("{url} was taken");
        };
        assert!(error.to_string().contains("(from --url)"), "{error}");
    }
}

#[test]
fn a_token_of_several_lines_is_refused() {
    let error = resolve(
        &SettingsFlags::default(),
        &[("BBCTL_TOKEN", "two\nlines")],
        &StoredSettings::default(),
    );
    assert!(matches!(
        error,
        Err(SettingsError::Token {
            origin: Origin::Environment("BBCTL_TOKEN")
        })
    ));
}
