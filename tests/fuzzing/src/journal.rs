//! The agent's state folder: what it desires, what it has installed, and how far it is with each application.

use hostagent::engine::stored::StoredProgress;
use hostagent::ledger::{Desired, Records};
use hostagent::state_file::{parse, render, with_digest};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// As each of the three files: the bytes as they are, and as a document whose digest is right.
pub fn check(data: &[u8]) {
    check_as::<Desired>(data);
    check_as::<Records>(data);
    check_as::<StoredProgress>(data);
}

fn check_as<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    if let Err(damage) = parse::<T>(data) {
        super::assert_one_line(&damage);
    }
    let bytes = with_digest(data.to_vec());
    match parse::<T>(&bytes) {
        Ok(document) => {
            let again = render(&document).unwrap_or_else(|error| panic!("cannot be written: {error}"));
            assert_eq!(parse::<T>(&again).as_ref(), Ok(&document));
            // Whatever happens to a file, it is not read as another document.
            for at in [0, bytes.len() / 2, bytes.len() - 2] {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1;
                assert!(
                    parse::<T>(&flipped).is_err(),
                    "a flipped bit at {at} was not noticed"
                );
                assert!(
                    parse::<T>(&bytes[..at]).is_err(),
                    "cut short at {at}, and not noticed"
                );
            }
        }
        // Configs are in these files, and secrets in configs: no word of them in the log.
        Err(damage) => {
            super::assert_one_line(&damage);
            assert!(damage.len() < 100, "{damage}");
            let where_it_is = damage
                .strip_prefix("not in the format of this version: ")
                .unwrap_or(&damage);
            let untouched = where_it_is.chars().all(|c| c.is_ascii_alphanumeric() || c == ' ');
            assert!(untouched, "{damage}");
        }
    }
}
