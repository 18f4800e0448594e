//! Strict JSON: what serde_json takes, less duplicate keys, with a depth limit and the path of what is wrong.
