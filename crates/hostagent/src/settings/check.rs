//! Checks that need several keys, or the file system.

use ::settings::{Gathered, check_pair, forget_default_user, read_password};

use host::download::is_no_proxy_entry;

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
            "[download] max_cache_size is below max_size: the cache cannot keep a package of that size";
        gathered.warnings.push(format!("{origin}: {text}"));
    }
    for entry in &settings.download.no_proxy {
        if !is_no_proxy_entry(entry) {
            let origin = gathered.origin("download", "no_proxy");
            gathered.warnings.push(format!(
                "{origin}: [download] no_proxy: {entry:?} matches no host; allowed are names (example.org, which \
                 includes all names below it), addresses and networks (10.0.0.0/8), each perhaps with :port, \
                 and * for all"
            ));
        }
    }
    settings
}
