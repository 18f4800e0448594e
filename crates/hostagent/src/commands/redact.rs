//! Removes secrets from JSON documents that leave the host.

use serde_json::Value;

use crate::settings::without_credentials;

/// The values of keys that contain one of these are secret: the config of applications holds
/// passwords.
const SECRET_KEYS: [&str; 6] = ["config", "password", "secret", "token", "credential", "private"];

/// Replaces every value below a secret key, and keeps the keys. Removes credentials from all URLs.
pub fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = key.to_ascii_lowercase();
                match SECRET_KEYS.iter().any(|secret| key.contains(secret)) {
                    true => hide(value),
                    false => redact(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::String(text) if text.contains("://") => {
            let words: Vec<String> = text.split(' ').map(redact_word).collect();
            *text = words.join(" ");
        }
        Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {}
    }
}

fn redact_word(word: &str) -> String {
    match word.contains("://") {
        true => without_credentials(word),
        false => word.to_owned(),
    }
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(hide),
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Null => {}
        Value::String(text) => *value = format!("redacted: text of {} bytes", text.len()).into(),
        Value::Number(_) => *value = "redacted: a number".into(),
        Value::Bool(_) => *value = "redacted: true or false".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_config_are_hidden_and_credentials_leave_urls() {
        let mut document = json!({
            "apps": {"web": {
                "version": "1.0",
                "url": "https://me:hunter2@h/a.deb?sig=hunter2",
                "config": {"db": {"password": "hunter2", "port": 5432, "tls": true, "list": ["hunter2", null]}},
            }},
            "undo": [{"previous_config": {"a": {"b": "hunter2"}}}],
            "errors": [{"message": "cannot download https://me:hunter2@h/a.deb: busy"}],
            "api_token": "hunter2",
        });
        redact(&mut document);
        assert_eq!(
            document,
            json!({
                "apps": {"web": {
                    "version": "1.0",
                    "url": "https://h/a.deb?...",
                    "config": {"db": {
                        "password": "redacted: text of 7 bytes",
                        "port": "redacted: a number",
                        "tls": "redacted: true or false",
                        "list": ["redacted: text of 7 bytes", null],
                    }},
                }},
                "undo": [{"previous_config": {"a": {"b": "redacted: text of 7 bytes"}}}],
                "errors": [{"message": "cannot download https://h/a.deb: busy"}],
                "api_token": "redacted: text of 7 bytes",
            })
        );
    }
}
