//! What the library below may log.

use tracing::level_filters::LevelFilter;

/// Log targets of lapin, and from what level on each may speak in a program whose own level is `own`. The
/// longer target wins.
pub fn levels_of_lapin(own: LevelFilter) -> [(&'static str, LevelFilter); 2] {
    // It calls each refusal of the broker an error, also those that are provoked here to learn from, and
    // orderly ends; what matters of them is said here, once.
    let lapin = match own {
        LevelFilter::DEBUG | LevelFilter::TRACE => LevelFilter::WARN,
        _ => LevelFilter::OFF,
    };
    // Shows a message that came back with all its bytes: with the passwords in an application's config.
    [("lapin", lapin), ("lapin::returned_messages", LevelFilter::OFF)]
}
