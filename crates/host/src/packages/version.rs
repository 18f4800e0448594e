//! Which of two versions is the newer one.

use std::cmp::Ordering;

use super::Family;

/// Compares full versions, `[epoch:]upstream[-release]`, by the rules of the family:
/// deb-version(7), or rpm-version(7). A release that one of them lacks is the oldest of all.
pub fn compare(family: Family, a: &str, b: &str) -> Ordering {
    let (a_epoch, a) = split_epoch(a);
    let (b_epoch, b) = split_epoch(b);
    a_epoch.cmp(&b_epoch).then_with(|| {
        let (a_upstream, a_release) = split_release(a);
        let (b_upstream, b_release) = split_release(b);
        match family {
            Family::Deb => compare_deb(a_upstream, b_upstream)
                .then_with(|| compare_deb(a_release.unwrap_or_default(), b_release.unwrap_or_default())),
            Family::Rpm => compare_rpm(a_upstream, b_upstream).then_with(|| match (a_release, b_release) {
                (Some(a), Some(b)) => compare_rpm(a, b),
                (a, b) => a.is_some().cmp(&b.is_some()),
            }),
        }
    })
}

fn split_epoch(version: &str) -> (u64, &str) {
    match version.split_once(':') {
        Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
        None => (0, version),
    }
}

fn split_release(version: &str) -> (&str, Option<&str>) {
    match version.rsplit_once('-') {
        Some((upstream, release)) => (upstream, Some(release)),
        None => (version, None),
    }
}

/// Splits off what `belongs` at the front.
fn take(text: &mut &[u8], belongs: impl Fn(&u8) -> bool) -> Vec<u8> {
    let end = text.iter().position(|byte| !belongs(byte)).unwrap_or(text.len());
    let (front, rest) = text.split_at(end);
    *text = rest;
    front.to_vec()
}

/// Numbers of any length.
fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let strip = |digits: &[u8]| {
        digits
            .iter()
            .copied()
            .skip_while(|digit| *digit == b'0')
            .collect::<Vec<_>>()
    };
    let (a, b) = (strip(a), strip(b));
    a.len().cmp(&b.len()).then_with(|| a.cmp(&b))
}

/// Alternating runs of non-digits, by character, and digits, by number.
fn compare_deb(a: &str, b: &str) -> Ordering {
    // `~` before the end, the end before letters, letters before all else.
    fn weight(byte: Option<&u8>) -> i32 {
        match byte {
            Some(b'~') => -1,
            None => 0,
            Some(letter) if letter.is_ascii_alphabetic() => i32::from(*letter),
            Some(other) => i32::from(*other) + 256,
        }
    }
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        let (a_text, b_text) = (
            take(&mut a, |byte| !byte.is_ascii_digit()),
            take(&mut b, |byte| !byte.is_ascii_digit()),
        );
        for i in 0..a_text.len().max(b_text.len()) {
            let order = weight(a_text.get(i)).cmp(&weight(b_text.get(i)));
            if order.is_ne() {
                return order;
            }
        }
        let order = compare_numbers(
            &take(&mut a, u8::is_ascii_digit),
            &take(&mut b, u8::is_ascii_digit),
        );
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// Segments of digits or letters; what separates them does not count; a number is newer than
/// letters; `~` is older and `^` newer than the end.
fn compare_rpm(a: &str, b: &str) -> Ordering {
    let counts = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'~' | b'^');
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        take(&mut a, |byte| !counts(byte));
        take(&mut b, |byte| !counts(byte));
        match (a.first(), b.first()) {
            (Some(b'~'), Some(b'~')) | (Some(b'^'), Some(b'^')) => (a, b) = (&a[1..], &b[1..]),
            (Some(b'~'), _) => return Ordering::Less,
            (_, Some(b'~')) => return Ordering::Greater,
            (None, None) => return Ordering::Equal,
            (Some(b'^'), None) => return Ordering::Greater,
            (None, Some(b'^')) => return Ordering::Less,
            (Some(b'^'), Some(_)) => return Ordering::Less,
            (Some(_), Some(b'^')) => return Ordering::Greater,
            (Some(_), None) => return Ordering::Greater,
            (None, Some(_)) => return Ordering::Less,
            (Some(x), Some(y)) => {
                let order = match (x.is_ascii_digit(), y.is_ascii_digit()) {
                    (true, false) => Ordering::Greater,
                    (false, true) => Ordering::Less,
                    (true, true) => compare_numbers(
                        &take(&mut a, u8::is_ascii_digit),
                        &take(&mut b, u8::is_ascii_digit),
                    ),
                    (false, false) => {
                        take(&mut a, u8::is_ascii_alphabetic).cmp(&take(&mut b, u8::is_ascii_alphabetic))
                    }
                };
                if order.is_ne() {
                    return order;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const VERSIONS: &[&str] = &[
        "0",
        "1",
        "1.0",
        "1.0.0",
        "01.0",
        "1.00",
        "1.0-0",
        "1.0-1",
        "1.0-2",
        "1.0-10",
        "1.0-1.1",
        "2.0-1",
        "1:0.5-1",
        "0:1.0-1",
        "2:0.1",
        "1.0~rc1-1",
        "1.0~rc1~b-1",
        "1.0~~-1",
        "1.0^git1-1",
        "1.0^-1",
        "1.0a-1",
        "1.0b-1",
        "1.0.a-1",
        "1.0+deb12u1-1",
        "1.0-1+b1",
        "1.10-1",
        "1.9-1",
        "1.0.1-1",
        "10.0-1",
        "9-1",
        "99999999999999999999999-1",
        "99999999999999999999998-1",
        "1.0-1.el8",
        "1.0-1.el9",
        "1a2-1",
        "1a-1",
        "1.0rc1-1",
        "1_0-1",
        "A-1",
        "a-1",
    ];

    /// dpkg and rpm are the judges of every pair.
    #[test]
    fn compares_as_dpkg_does() {
        let plain = |version: &&&str| {
            !version.contains(['^', '_']) && version.starts_with(|c: char| c.is_ascii_digit())
        };
        let versions: Vec<_> = VERSIONS.iter().filter(plain).collect();
        let script = "for a; do for b; do if dpkg --compare-versions \"$a\" lt \"$b\"; then echo lt; \
                      elif dpkg --compare-versions \"$a\" gt \"$b\"; then echo gt; else echo eq; fi; done; done";
        let output = Command::new("sh")
            .args(["-c", script, "sh"])
            .args(&versions)
            .output()
            .unwrap();
        check(Family::Deb, &versions, &String::from_utf8(output.stdout).unwrap());
    }

    #[test]
    fn compares_as_rpm_does() {
        let versions: Vec<_> = VERSIONS.iter().collect();
        let table = versions
            .iter()
            .map(|version| format!("'{version}'"))
            .collect::<Vec<_>>()
            .join(",");
        let lua = format!(
            "local v={{{table}}} local names={{[-1]='lt',[0]='eq',[1]='gt'}} \
             for _,a in ipairs(v) do for _,b in ipairs(v) do print(names[rpm.vercmp(a,b)]..'\\n') end end"
        );
        let output = Command::new("rpm")
            .args(["--eval", &format!("%{{lua:{lua}}}")])
            .output()
            .unwrap();
        check(Family::Rpm, &versions, &String::from_utf8(output.stdout).unwrap());
    }

    fn check(family: Family, versions: &[&&str], answers: &str) {
        let mut answers = answers.lines().filter(|line| !line.is_empty());
        for a in versions {
            for b in versions {
                let ours = match compare(family, a, b) {
                    Ordering::Less => "lt",
                    Ordering::Equal => "eq",
                    Ordering::Greater => "gt",
                };
                assert_eq!(Some(ours), answers.next(), "{a} to {b}");
            }
        }
        assert_eq!(answers.next(), None);
    }
}
