//! Log levels of lapin, the AMQP library.

use tracing::level_filters::LevelFilter;

/// Log targets of lapin and their levels, for a program with the log level `own`. The longer target
/// takes precedence.
pub fn levels_of_lapin(own: LevelFilter) -> [(&'static str, LevelFilter); 2] {
    // lapin logs every refusal of the broker as an error, also expected ones, and orderly ends.
    // This crate logs what matters once.
    let lapin = match own {
        LevelFilter::DEBUG | LevelFilter::TRACE => LevelFilter::WARN,
        _ => LevelFilter::OFF,
    };
    // This target logs returned messages whole, with the passwords in an application's config.
    [("lapin", lapin), ("lapin::returned_messages", LevelFilter::OFF)]
}
