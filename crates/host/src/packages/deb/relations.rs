//! What packages ask of one another, as control files write it (deb-control(5), "Syntax of relationship fields").
//!
//! Only what is in every way as usual is read; whoever meets anything else asks dpkg.

use std::cmp::Ordering;

use crate::Family;
use crate::packages::compare_versions;

/// The fields of one package, as they are written, and each of them as usual.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relations {
    pub pre_depends: String,
    pub depends: String,
    pub conflicts: String,
    pub breaks: String,
    pub provides: String,
}

/// One name in a relation: `name`, `name:arch`, `name (>= 1.0)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Atom<'a> {
    pub name: &'a str,
    /// It names an architecture, too.
    pub is_qualified: bool,
    pub version: Option<(Order, &'a str)>,
}

/// How a version must stand to the one that is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Earlier,
    EarlierOrEqual,
    Equal,
    LaterOrEqual,
    Later,
}

impl Order {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Earlier => order.is_lt(),
            Self::EarlierOrEqual => order.is_le(),
            Self::Equal => order.is_eq(),
            Self::LaterOrEqual => order.is_ge(),
            Self::Later => order.is_gt(),
        }
    }
}

impl Atom<'_> {
    /// Whether a package by this name at `version` is meant, the architecture left aside.
    pub fn takes(&self, version: &str) -> bool {
        self.version
            .is_none_or(|(order, named)| order.holds(compare_versions(Family::Deb, version, named)))
    }

    /// Whether what somebody provides is meant. A version that is asked for has to be provided.
    pub fn takes_provided(&self, provided: &Atom<'_>) -> bool {
        let fits = match provided.version {
            Some((_, version)) => self.takes(version),
            None => self.version.is_none(),
        };
        self.name == provided.name && fits
    }
}

/// Clauses that all have to be met, each by one of its alternatives. `None`: not as usual.
pub fn clauses(field: &str) -> Option<Vec<Vec<Atom<'_>>>> {
    let field = field.trim();
    if field.is_empty() {
        return Some(Vec::new());
    }
    field
        .split(',')
        .map(|clause| clause.split('|').map(atom).collect())
        .collect()
}

/// A field without alternatives. `None`: not as usual.
pub fn atoms(field: &str) -> Option<Vec<Atom<'_>>> {
    let field = field.trim();
    if field.is_empty() {
        return Some(Vec::new());
    }
    field.split(',').map(atom).collect()
}

/// What a package provides: without architectures, and in exact versions. `None`: not as usual.
pub fn provided(field: &str) -> Option<Vec<Atom<'_>>> {
    let is_usual =
        |atom: &Atom| !atom.is_qualified && atom.version.is_none_or(|(order, _)| order == Order::Equal);
    atoms(field).filter(|atoms| atoms.iter().all(is_usual))
}

fn atom(text: &str) -> Option<Atom<'_>> {
    let text = text.trim();
    let (named, version) = match text.split_once('(') {
        None => (text, None),
        Some((named, rest)) => (named.trim_end(), Some(constraint(rest.strip_suffix(')')?)?)),
    };
    let (name, arch) = match named.split_once(':') {
        None => (named, None),
        Some((name, arch)) => (name, Some(arch)),
    };
    let is_usual = is_name(name) && arch.is_none_or(is_name);
    is_usual.then_some(Atom {
        name,
        is_qualified: arch.is_some(),
        version,
    })
}

/// `>= 1.0`. The obsolete `<`, `>` and a version alone mean other things than one would think.
fn constraint(text: &str) -> Option<(Order, &str)> {
    let text = text.trim();
    let orders = [
        ("<<", Order::Earlier),
        ("<=", Order::EarlierOrEqual),
        ("=", Order::Equal),
        (">=", Order::LaterOrEqual),
        (">>", Order::Later),
    ];
    let (order, version) = orders
        .iter()
        .find_map(|(sign, order)| Some((*order, text.strip_prefix(sign)?.trim_start())))?;
    is_version(version).then_some((order, version))
}

/// dpkg would make capitals small.
pub fn is_name(name: &str) -> bool {
    let is_small = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.bytes().next().is_some_and(is_small)
        && name.bytes().all(|byte| is_small(byte) || b"+-.".contains(&byte))
}

/// A version that dpkg takes without a word (deb-version(7)).
pub fn is_version(version: &str) -> bool {
    let (epoch, rest) = match version.split_once(':') {
        None => (None, version),
        Some((epoch, rest)) => (Some(epoch), rest),
    };
    let (upstream, revision) = match rest.rsplit_once('-') {
        None => (rest, None),
        Some((upstream, revision)) => (upstream, Some(revision)),
    };
    let all = |text: &str, also: &[u8]| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || also.contains(&byte))
    };
    let is_epoch =
        |epoch: &str| epoch.bytes().all(|byte| byte.is_ascii_digit()) && epoch.parse::<i32>().is_ok();
    epoch.is_none_or(is_epoch)
        && upstream.starts_with(|c: char| c.is_ascii_digit())
        && all(upstream, b".-+~")
        && revision.is_none_or(|revision| !revision.is_empty() && all(revision, b".+~"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_read() {
        let read = clauses("libc6 (>= 2.36), default-mta|exim4 (<<1:4~rc-1+b2) ,\n a:any").unwrap();
        let atom = |name, version| Atom {
            name,
            is_qualified: false,
            version,
        };
        let any = Atom {
            is_qualified: true,
            ..atom("a", None)
        };
        assert_eq!(
            read,
            [
                vec![atom("libc6", Some((Order::LaterOrEqual, "2.36")))],
                vec![
                    atom("default-mta", None),
                    atom("exim4", Some((Order::Earlier, "1:4~rc-1+b2")))
                ],
                vec![any],
            ]
        );
        assert_eq!(clauses(" "), Some(Vec::new()));
    }

    #[test]
    fn what_is_not_as_usual_is_left_to_dpkg() {
        for field in [
            ",",
            "a,",
            "a,,b",
            "a |",
            "a b",
            "A",
            "-a",
            "a_b",
            "a:",
            "a:any:any",
            "a (",
            "a (>= 1",
            "a (1)",
            "a (< 1)",
            "a (> 1)",
            "a (>=)",
            "a (>= 1 2)",
            "a (>= x)",
            "a (>= 1-)",
            "a (>= :1)",
            "a (>= 1:2:3)",
            "a (>= 99999999999:1)",
            "a (>= -1:1)",
            "a (>= 1_0)",
            "a (>= 1) [amd64]",
            "a <!nocheck>",
            "${misc:Depends}",
        ] {
            assert_eq!(clauses(field), None, "{field}");
        }
        assert_eq!(atoms("a | b"), None);
        for field in ["a:any", "a (>= 1)", "a (<< 1)"] {
            assert!(atoms(field).is_some(), "{field}");
            assert_eq!(provided(field), None, "{field}");
        }
    }

    #[test]
    fn a_provided_name_has_no_version_but_the_one_it_says() {
        let table = [
            ("v", "v", true),
            ("v", "v (= 1)", true),
            ("v", "w", false),
            ("v (>= 1)", "v", false),
            ("v (>= 1)", "v (= 1)", true),
            ("v (>> 1)", "v (= 1)", false),
            ("v (<= 1)", "v (= 1)", true),
            ("v (<< 1)", "v (= 1~)", true),
            ("v (= 1)", "v (= 1-0)", true),
        ];
        for (asked, offered, expected) in table {
            let (asked, offered) = (atoms(asked).unwrap()[0], provided(offered).unwrap()[0]);
            assert_eq!(asked.takes_provided(&offered), expected, "{asked:?} {offered:?}");
        }
    }
}
