//! What apt prints, understood.

/// Versions in `apt-cache madison`: `NAME | VERSION | SOURCE` a line.
pub fn madison_versions(output: &str, package: &str) -> Vec<String> {
    let lines = output.lines().map(|line| line.split('|').map(str::trim));
    lines
        .filter_map(|mut fields| match (fields.next(), fields.next(), fields.next()) {
            (Some(name), Some(version), Some(source)) if name == package && !source.ends_with("Sources") => {
                Some(version.to_owned())
            }
            _ => None,
        })
        .collect()
}

/// Packages that `apt-get --simulate` would remove (`Remv NAME [VERSION]`) without having been asked to.
pub fn unasked_removals(output: &str, asked: &[String]) -> Vec<String> {
    let removed = output
        .lines()
        .filter_map(|line| line.strip_prefix("Remv ")?.split_whitespace().next());
    // Of another architecture: NAME:ARCH.
    let removed = removed.map(|name| name.split(':').next().unwrap_or(name));
    removed
        .filter(|name| !asked.iter().any(|asked| asked == name))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn madison_lists_one_version_a_line() {
        let output = "   tar | 1.34+dfsg-1.2+deb12u1 | http://deb.example bookworm/main amd64 Packages\n\
                      \x20  tar | 1.34+dfsg-1.2 | http://deb.example bookworm/main Sources\n\
                      \x20 tar2 | 9 | http://deb.example bookworm/main amd64 Packages\n";
        assert_eq!(madison_versions(output, "tar"), ["1.34+dfsg-1.2+deb12u1"]);
        assert!(madison_versions("", "tar").is_empty());
    }

    #[test]
    fn only_removals_that_nobody_asked_for_are_found() {
        let output = "Reading package lists...\nRemv web [1.0-1]\nRemv app [1.0-1] [web:amd64 ]\nRemv lib:i386 [2]\n\
                      Inst other (1 Local)\n";
        assert_eq!(unasked_removals(output, &["app".into()]), ["web", "lib"]);
        assert!(unasked_removals(output, &["app".into(), "web".into(), "lib".into()]).is_empty());
    }
}
