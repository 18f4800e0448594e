//! Whether packages surely fit in beside those that are installed.
//!
//! An accelerator of dpkg's dry run and of apt's, and never their judge: it says that they would take them all, or it says
//! nothing. What dpkg looks at: `Conflicts` and `Breaks` in both directions, also with the versions that are about to be
//! replaced, and `Pre-Depends`, when it unpacks; `Depends` only when it configures, its dry run not at all. apt looks at what
//! installed packages need of a version that is replaced, too.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead};

use super::relations::{self, Atom, Relations};
use super::stanzas::Stanzas;
use crate::host::Family;
use crate::host::packages::compare_versions;

/// A package that is to come.
#[derive(Debug, Clone, Copy)]
pub struct Arriving<'a> {
    pub name: &'a str,
    pub version: &'a str,
    pub arch: &'a str,
    pub relations: &'a Relations,
}

/// Whether all of `arriving` surely fit in, with one run of dpkg. `status`: of dpkg's database, with nothing pending
/// beside it. `native`: this host's architecture.
pub fn surely_fit(arriving: &[Arriving<'_>], status: impl BufRead, native: &str) -> io::Result<bool> {
    let Some(batch) = Batch::of(arriving, native) else {
        return Ok(false);
    };
    let mut present = Vec::new();
    let mut stanzas = Stanzas::new(status, &FIELDS);
    while stanzas.advance()? {
        match look_at(&stanzas, &batch, native) {
            Some(Found::Nothing) => {}
            Some(Found::Present(offer)) => present.push(offer),
            None => return Ok(false),
        }
    }
    Ok(batch.fits(&present))
}

/// In the order in which they are taken out of a stanza.
const FIELDS: [&str; 9] = [
    "Package",
    "Status",
    "Version",
    "Architecture",
    "Provides",
    "Conflicts",
    "Breaks",
    "Depends",
    "Pre-Depends",
];

struct Newcomer<'a> {
    package: Arriving<'a>,
    pre_depends: Vec<Vec<Atom<'a>>>,
    depends: Vec<Vec<Atom<'a>>>,
    /// What it conflicts with or breaks.
    excludes: Vec<Atom<'a>>,
    provides: Vec<Atom<'a>>,
}

/// The packages to come, and what matters to them.
struct Batch<'a> {
    newcomers: BTreeMap<&'a str, Newcomer<'a>>,
    /// Names that they ask for or exclude.
    of_interest: BTreeSet<&'a str>,
}

/// An installed package that matters.
struct Offer {
    name: String,
    version: String,
    provides: String,
    /// One of those to come takes its place.
    is_replaced: bool,
}

enum Found {
    Nothing,
    Present(Offer),
}

impl<'a> Batch<'a> {
    fn of(arriving: &[Arriving<'a>], native: &str) -> Option<Self> {
        let mut newcomers = BTreeMap::new();
        let mut of_interest = BTreeSet::new();
        for package in arriving {
            let relations = package.relations;
            let newcomer = Newcomer {
                package: *package,
                pre_depends: relations::clauses(&relations.pre_depends)?,
                depends: relations::clauses(&relations.depends)?,
                excludes: excludes(&relations.conflicts, &relations.breaks)?,
                provides: relations::provided(&relations.provides)?,
            };
            let asked = newcomer.pre_depends.iter().chain(&newcomer.depends).flatten();
            of_interest.extend(asked.chain(&newcomer.excludes).map(|atom| atom.name));
            let is_usual = is_native(package.arch, native)
                && relations::is_name(package.name)
                && relations::is_version(package.version);
            if !is_usual || newcomers.insert(package.name, newcomer).is_some() {
                return None;
            }
        }
        Some(Self {
            newcomers,
            of_interest,
        })
    }

    fn fits(&self, present: &[Offer]) -> bool {
        self.newcomers.values().all(|newcomer| {
            let kept = |clause: &[Atom]| {
                present
                    .iter()
                    .any(|offer| !offer.is_replaced && offer.meets(clause))
            };
            let comes = |clause: &[Atom]| {
                let others = self
                    .newcomers
                    .values()
                    .filter(|other| other.package.name != newcomer.package.name);
                others.into_iter().any(|other| other.meets(clause))
            };
            newcomer.pre_depends.iter().all(|clause| kept(clause))
                && newcomer
                    .depends
                    .iter()
                    .all(|clause| kept(clause) || comes(clause))
                && !present
                    .iter()
                    .any(|offer| offer.name != newcomer.package.name && offer.is_excluded(&newcomer.excludes))
                && !self.excludes(newcomer.package.name, &newcomer.excludes)
        })
    }

    /// Whether every name in this `Depends` of an installed package is met by the one to come, if it is the name of one.
    fn keeps(&self, depends: &str) -> bool {
        depends.split([',', '|']).all(|text| {
            let name = text.trim().split([' ', '(', ':']).next().unwrap_or_default();
            let Some(newcomer) = self.newcomers.get(name) else {
                return true;
            };
            relations::atoms(text)
                .is_some_and(|atoms| atoms.iter().all(|atom| atom.takes(newcomer.package.version)))
        })
    }

    /// Whether a package `name` that excludes these can't be beside those to come. Nothing excludes itself.
    fn excludes(&self, name: &str, excluded: &[Atom<'_>]) -> bool {
        let others = self
            .newcomers
            .values()
            .filter(|newcomer| newcomer.package.name != name);
        others.into_iter().any(|newcomer| {
            let package = &newcomer.package;
            is_meant(package.name, package.version, &newcomer.provides, excluded)
        })
    }
}

impl Newcomer<'_> {
    fn meets(&self, clause: &[Atom<'_>]) -> bool {
        meets(self.package.name, self.package.version, &self.provides, clause)
    }
}

impl Offer {
    fn provides(&self) -> Vec<Atom<'_>> {
        relations::provided(&self.provides).unwrap_or_default()
    }

    fn meets(&self, clause: &[Atom<'_>]) -> bool {
        meets(&self.name, &self.version, &self.provides(), clause)
    }

    fn is_excluded(&self, excluded: &[Atom<'_>]) -> bool {
        is_meant(&self.name, &self.version, &self.provides(), excluded)
    }
}

/// Whether this package, at this version and providing this, is one of the alternatives. Not by an architecture: who
/// answers for that needs more than a name.
fn meets(name: &str, version: &str, provides: &[Atom<'_>], alternatives: &[Atom<'_>]) -> bool {
    let unqualified: Vec<Atom> = alternatives
        .iter()
        .filter(|atom| !atom.is_qualified)
        .copied()
        .collect();
    is_meant(name, version, provides, &unqualified)
}

/// Whether one of `atoms` means this package, on whichever architecture.
fn is_meant(name: &str, version: &str, provides: &[Atom<'_>], atoms: &[Atom<'_>]) -> bool {
    atoms.iter().any(|atom| {
        let by_name = atom.name == name && atom.takes(version);
        by_name || provides.iter().any(|provided| atom.takes_provided(provided))
    })
}

fn excludes<'a>(conflicts: &'a str, breaks: &'a str) -> Option<Vec<Atom<'a>>> {
    let mut excludes = relations::atoms(conflicts)?;
    excludes.extend(relations::atoms(breaks)?);
    Some(excludes)
}

fn is_native(arch: &str, native: &str) -> bool {
    arch == "all" || arch == native
}

/// What a stanza of the database means for those to come. `None`: dpkg is to say.
fn look_at(stanza: &Stanzas<impl BufRead>, batch: &Batch<'_>, native: &str) -> Option<Found> {
    let field = |index: usize| stanza.text(index);
    let [name, status, version, arch] = [field(0)?, field(1)?, field(2)?, field(3)?];
    // WANT FLAG STATE
    let mut words = status.split(' ');
    let (want, flag, state) = (words.next()?, words.next()?, words.next()?);
    let newcomer = batch.newcomers.get(name);
    if flag != "ok" {
        return None;
    }
    match state {
        // What a removal has left, or a selection made in advance.
        "config-files" | "not-installed" => return newcomer.is_none().then_some(Found::Nothing),
        "installed" => {}
        _ => return None,
    }
    let (provides, excludes) = (relations::provided(field(4)?)?, excludes(field(5)?, field(6)?)?);
    if !is_native(arch, native) || !relations::is_name(name) || batch.excludes(name, &excludes) {
        return None;
    }
    match newcomer {
        Some(newcomer) => {
            let package = &newcomer.package;
            let is_older = compare_versions(Family::Deb, package.version, version).is_lt();
            let provides_less = !provides.iter().all(|atom| newcomer.provides.contains(atom));
            if want != "install"
                || arch != package.arch
                || !relations::is_version(version)
                || is_older
                || provides_less
            {
                return None;
            }
        }
        None if batch.keeps(field(7)?) && batch.keeps(field(8)?) => {}
        None => return None,
    }
    let matters = |name: &str| batch.of_interest.contains(name);
    if !matters(name) && !provides.iter().any(|provided| matters(provided.name)) {
        return Some(Found::Nothing);
    }
    relations::is_version(version).then(|| {
        Found::Present(Offer {
            name: name.to_owned(),
            version: version.to_owned(),
            provides: field(4).unwrap_or_default().to_owned(),
            is_replaced: newcomer.is_some(),
        })
    })
}

#[cfg(test)]
mod tests;
