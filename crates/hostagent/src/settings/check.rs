//! What only several keys together, or the file system, can tell.

use ::settings::{Gathered, check_pair, forget_default_user, read_password};

use super::Settings;

pub(super) fn read_password_and_check(mut settings: Settings, gathered: &mut Gathered) -> Settings {
    let amqp = &mut settings.amqp;
    amqp.password = read_password(
        "amqp",
        amqp.password.take(),
        amqp.password_file.as_deref(),
        gathered,
    );
    forget_default_user("amqp", &mut amqp.username, &amqp.password, gathered);
    check_pair("ssl", &settings.ssl.certfile, &settings.ssl.keyfile, gathered);
    check_pair(
        "download",
        &settings.download.certfile,
        &settings.download.keyfile,
        gathered,
    );
    if settings.download.max_size > settings.download.max_cache_size {
        let origin = gathered.origin("download", "max_cache_size");
        let text =
            "[download] max_cache_size is below max_size: a package that large is downloaded anew each time";
        gathered.warnings.push(format!("{origin}: {text}"));
    }
    settings
}
