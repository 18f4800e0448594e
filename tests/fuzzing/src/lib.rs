//! What must hold for any bytes that come from outside. Each module is one fuzz target: its `check` panics
//! where a promise is broken, and is run by libFuzzer (`fuzz/`, by `make fuzz`) and, over the corpora that libFuzzer
//! gathered, by an ordinary test.
//!
//! Wrong bytes have to be refused; the promises are about how, and about what is taken.

pub mod config_file;
pub mod decode;
pub mod dpkg_status;
pub mod journal;
pub mod manifest;
pub mod settings;

/// Says whether a message for people is one printable line: what comes from outside must not be able to write
/// lines of its own into a log.
fn assert_one_line(text: &str) {
    assert!(!text.is_empty(), "a message without words");
    assert!(
        !text.chars().any(char::is_control),
        "not one printable line: {text:?}"
    );
}
