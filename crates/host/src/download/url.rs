//! Which URLs and redirects are allowed. Pure.

use std::path::PathBuf;

use protocol::Category;
use url::Url;

use crate::{Family, HostError, Root};
use protocol::without_credentials;

/// Where a package comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// http or https.
    Web(Url),
    /// A file of this host.
    Local(PathBuf),
}

/// `url` for a host of `family`: `.rpm` becomes `.deb` or the other way round. Query and fragment
/// stay.
pub fn url_for_family(url: &str, family: Family) -> String {
    let (path, rest) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
    for other in Family::ALL {
        let start = path.len().saturating_sub(other.extension().len() + 1);
        let (stem, extension) = match path.is_char_boundary(start) {
            true => path.split_at(start),
            false => continue,
        };
        if extension.eq_ignore_ascii_case(&format!(".{}", other.extension())) {
            return match other == family {
                true => url.to_owned(),
                false => format!("{stem}.{}{rest}", family.extension()),
            };
        }
    }
    url.to_owned()
}

/// Refuses URLs that are not allowed.
pub fn parse(text: &str, allow_file_urls: bool, root: &Root) -> Result<Location, HostError> {
    let refuse = |reason: &str| {
        let shown = without_credentials(text);
        HostError::new(
            Category::Invalid,
            format!("refusing to download {shown}: {reason}"),
        )
    };
    let url = Url::parse(text).map_err(|error| refuse(&format!("not a URL: {error}")))?;
    match url.scheme() {
        "http" | "https" => Ok(Location::Web(url)),
        "file" if !allow_file_urls => Err(refuse(
            "file: URLs are not allowed (allow_file_urls in [hostagent])",
        )),
        "file" => match url.to_file_path() {
            Ok(path) => Ok(Location::Local(root.join(path))),
            Err(()) => Err(refuse("it does not name a file of this host")),
        },
        scheme => Err(refuse(&format!(
            "its scheme is {scheme}; allowed are http, https and (with allow_file_urls) file"
        ))),
    }
}

/// The target of a redirect from `from`. https must not redirect to http, and neither to another
/// scheme.
pub fn follow(from: &Url, location: &str) -> Result<Url, HostError> {
    let refuse = |to: &str, reason: &str| {
        let message = format!(
            "refusing to follow the redirect from {} to {}: {reason}",
            without_credentials(from.as_str()),
            without_credentials(to)
        );
        HostError::new(Category::Invalid, message)
    };
    let to = from
        .join(location)
        .map_err(|error| refuse(location, &format!("not a URL: {error}")))?;
    match (from.scheme(), to.scheme()) {
        ("https", "https") | ("http", "http" | "https") => Ok(to),
        ("https", "http") => Err(refuse(to.as_str(), "https must not redirect to http")),
        (_, scheme) => Err(refuse(
            to.as_str(),
            &format!("the scheme is {scheme}, not http or https"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_take_the_extension_of_the_hosts_family() {
        for (url, deb, rpm) in [
            ("http://h/a-1.rpm", "http://h/a-1.deb", "http://h/a-1.rpm"),
            ("http://h/a-1.deb", "http://h/a-1.deb", "http://h/a-1.rpm"),
            (
                "http://h/a.rpm?t=x.rpm",
                "http://h/a.deb?t=x.rpm",
                "http://h/a.rpm?t=x.rpm",
            ),
            ("http://h/a.rpm#deb", "http://h/a.deb#deb", "http://h/a.rpm#deb"),
            ("http://h/a.RPM", "http://h/a.deb", "http://h/a.RPM"),
            ("http://h/rpm", "http://h/rpm", "http://h/rpm"),
            ("http://h/a.rpm/", "http://h/a.rpm/", "http://h/a.rpm/"),
            ("http://h/a.deb.rpm", "http://h/a.deb.deb", "http://h/a.deb.rpm"),
            (
                "http://h/\u{20ac}\u{20ac}",
                "http://h/\u{20ac}\u{20ac}",
                "http://h/\u{20ac}\u{20ac}",
            ),
            ("deb", "deb", "deb"),
            ("", "", ""),
        ] {
            assert_eq!(url_for_family(url, Family::Deb), deb);
            assert_eq!(url_for_family(url, Family::Rpm), rpm);
        }
    }

    #[test]
    fn only_http_https_and_where_allowed_file() {
        let root = Root::new("/sandbox");
        let parsed = |text, files| parse(text, files, &root);
        assert!(matches!(parsed("http://h/a.deb", false), Ok(Location::Web(_))));
        assert!(matches!(parsed("HTTPS://h/a.deb", false), Ok(Location::Web(_))));
        assert_eq!(
            parsed("file:///srv/a%20b.deb", true),
            Ok(Location::Local("/sandbox/srv/a b.deb".into()))
        );
        for (text, files) in [
            ("file:///a.deb", false),
            ("file://elsewhere/a.deb", true),
            ("data:,x", true),
            ("ftp://h/a.deb", true),
            ("/srv/a.deb", true),
            ("http://", true),
            ("", true),
        ] {
            let error = parsed(text, files).unwrap_err();
            assert_eq!(error.category, Category::Invalid, "{text}: {error}");
        }
    }

    #[test]
    fn redirects_never_leave_https_or_the_web() {
        let web = |text| Url::parse(text).unwrap();
        for (from, location, to) in [
            ("http://h/a/b", "../c", Some("http://h/c")),
            ("http://h/a", "https://other/c", Some("https://other/c")),
            ("https://h/a", "//other/c", Some("https://other/c")),
            ("https://h/a", "http://h/a", None),
            ("http://h/a", "file:///etc/shadow", None),
            ("http://h/a", "ftp://h/a", None),
            ("http://h/a", "data:,x", None),
            ("http://h/a", "http://[", None),
        ] {
            let followed = follow(&web(from), location).ok();
            assert_eq!(followed, to.map(web), "{from} -> {location}");
        }
        let error = follow(&web("https://u:secret@h/a"), "http://u:secret@h/b").unwrap_err();
        assert_eq!(
            error.message,
            "refusing to follow the redirect from https://h/a to http://h/b: https must not redirect to http"
        );
    }
}
