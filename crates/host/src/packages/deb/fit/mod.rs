//! Whether packages surely fit in beside those that are installed.
//!
//! It says that dpkg and apt would take them all, or it says nothing. What it says spares their dry runs, and where apt has
//! nothing else to do (decision 24) its own look, too: dpkg then meets what was said here when it is at work already. What dpkg looks at: `Conflicts` and `Breaks` in both directions, also with the versions that are about to be
//! replaced, and `Pre-Depends`, when it unpacks; `Depends` only when it configures, its dry run not at all. apt looks at what
//! installed packages need of a version that is replaced, too.

use std::io::{self, BufRead};

use super::relations::{self, Atom, Relations};
use super::stanzas::Stanzas;
use crate::Family;
use crate::packages::compare_versions;

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

/// A package as relations see it.
struct Candidate<'a> {
    name: &'a str,
    version: &'a str,
    provides: Vec<Atom<'a>>,
}

struct Newcomer<'a> {
    itself: Candidate<'a>,
    arch: &'a str,
    pre_depends: Vec<Vec<Atom<'a>>>,
    depends: Vec<Vec<Atom<'a>>>,
    /// What it conflicts with or breaks.
    excludes: Vec<Atom<'a>>,
}

/// The packages to come, and what matters to them.
struct Batch<'a> {
    newcomers: Vec<Newcomer<'a>>,
    /// Names that they ask for or exclude, sorted.
    of_interest: Vec<&'a str>,
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

impl Candidate<'_> {
    fn has_name(&self, name: &str) -> bool {
        self.name == name || self.provides.iter().any(|provided| provided.name == name)
    }

    /// Whichever architecture `atom` names.
    fn is_meant_by(&self, atom: &Atom<'_>) -> bool {
        let by_name = atom.name == self.name && atom.takes(self.version);
        by_name || self.provides.iter().any(|provided| atom.takes_provided(provided))
    }

    fn is_excluded_by(&self, atoms: &[Atom<'_>]) -> bool {
        atoms.iter().any(|atom| self.is_meant_by(atom))
    }

    /// Whether it is one of these alternatives. Not by an architecture: who answers for that needs more than a name.
    fn meets(&self, clause: &[Atom<'_>]) -> bool {
        clause
            .iter()
            .any(|atom| !atom.is_qualified && self.is_meant_by(atom))
    }
}

impl Newcomer<'_> {
    /// Whether it is by name what the version in dpkg's database excludes: dpkg then finds others that are there against that
    /// version's will. What the new one excludes, too, is looked at anyway.
    fn is_excluded_by_its_last(&self, excludes: &[Atom<'_>]) -> bool {
        excludes
            .iter()
            .any(|atom| self.itself.has_name(atom.name) && !self.excludes.contains(atom))
    }
}

impl Offer {
    fn candidate(&self) -> Candidate<'_> {
        Candidate {
            name: &self.name,
            version: &self.version,
            provides: relations::provided(&self.provides).unwrap_or_default(),
        }
    }
}

impl<'a> Batch<'a> {
    fn of(arriving: &[Arriving<'a>], native: &str) -> Option<Self> {
        let mut batch = Self {
            newcomers: Vec::new(),
            of_interest: Vec::new(),
        };
        for package in arriving {
            let relations = package.relations;
            let newcomer = Newcomer {
                itself: Candidate {
                    name: package.name,
                    version: package.version,
                    provides: relations::provided(&relations.provides)?,
                },
                arch: package.arch,
                pre_depends: relations::clauses(&relations.pre_depends)?,
                depends: relations::clauses(&relations.depends)?,
                excludes: excludes(&relations.conflicts, &relations.breaks)?,
            };
            let asked = newcomer.pre_depends.iter().chain(&newcomer.depends).flatten();
            let names = asked.chain(&newcomer.excludes).map(|atom| atom.name);
            batch.of_interest.extend(names);
            let is_usual = is_native(package.arch, native)
                && relations::is_name(package.name)
                && relations::is_version(package.version);
            if !is_usual || batch.newcomer(package.name).is_some() {
                return None;
            }
            batch.newcomers.push(newcomer);
        }
        batch.of_interest.sort_unstable();
        Some(batch)
    }

    fn newcomer(&self, name: &str) -> Option<&Newcomer<'a>> {
        self.newcomers
            .iter()
            .find(|newcomer| newcomer.itself.name == name)
    }

    fn is_of_interest(&self, name: &str) -> bool {
        self.of_interest.binary_search(&name).is_ok()
    }

    /// Those to come but for `name`: nothing excludes itself, and nothing needs itself.
    fn others(&self, name: &str) -> impl Iterator<Item = &Candidate<'a>> {
        let all = self.newcomers.iter().map(|newcomer| &newcomer.itself);
        all.filter(move |other| other.name != name)
    }

    /// Whether a package `name` that excludes these can't be beside those to come.
    fn is_in_the_way(&self, name: &str, excluded: &[Atom<'_>]) -> bool {
        self.others(name).any(|other| other.is_excluded_by(excluded))
    }

    /// Whether this `Depends` of an installed package asks for nothing by the name of one to come that its version is not.
    fn keeps(&self, depends: &str) -> bool {
        depends.split([',', '|']).all(|text| {
            let name = text.trim().split([' ', '(', ':']).next().unwrap_or_default();
            let Some(newcomer) = self.newcomer(name) else {
                return true;
            };
            let version = newcomer.itself.version;
            relations::atoms(text).is_some_and(|atoms| atoms.iter().all(|atom| atom.takes(version)))
        })
    }

    fn fits(&self, present: &[Offer]) -> bool {
        let present: Vec<(Candidate, bool)> = present
            .iter()
            .map(|offer| (offer.candidate(), offer.is_replaced))
            .collect();
        self.newcomers.iter().all(|newcomer| {
            let name = newcomer.itself.name;
            let stays = |clause: &[Atom]| {
                present
                    .iter()
                    .any(|(there, is_replaced)| !is_replaced && there.meets(clause))
            };
            let comes = |clause: &[Atom]| self.others(name).any(|other| other.meets(clause));
            let excludes = |there: &Candidate| there.name != name && there.is_excluded_by(&newcomer.excludes);
            newcomer.pre_depends.iter().all(|clause| stays(clause))
                && newcomer
                    .depends
                    .iter()
                    .all(|clause| stays(clause) || comes(clause))
                && !present.iter().any(|(there, _)| excludes(there))
                && !self.is_in_the_way(name, &newcomer.excludes)
        })
    }
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
    let newcomer = batch.newcomer(name);
    if flag != "ok" {
        return None;
    }
    match state {
        "config-files" | "not-installed" => {
            let Some(newcomer) = newcomer else {
                return Some(Found::Nothing);
            };
            let last = excludes(field(5)?, field(6)?)?;
            // What a removal has left, and no selection made in advance.
            let is_usual = (want, state) == ("deinstall", "config-files") && arch == newcomer.arch;
            return (is_usual && !newcomer.is_excluded_by_its_last(&last)).then_some(Found::Nothing);
        }
        "installed" => {}
        _ => return None,
    }
    let (provides, excludes) = (relations::provided(field(4)?)?, excludes(field(5)?, field(6)?)?);
    if !is_native(arch, native) || !relations::is_name(name) || batch.is_in_the_way(name, &excludes) {
        return None;
    }
    match newcomer {
        Some(newcomer) => {
            let is_older = compare_versions(Family::Deb, newcomer.itself.version, version).is_lt();
            let is_usual = want == "install" && arch == newcomer.arch && relations::is_version(version);
            let provides_less = !provides
                .iter()
                .all(|atom| newcomer.itself.provides.contains(atom));
            if !is_usual || is_older || provides_less || newcomer.is_excluded_by_its_last(&excludes) {
                return None;
            }
        }
        None if batch.keeps(field(7)?) && batch.keeps(field(8)?) => {}
        None => return None,
    }
    let matters = batch.is_of_interest(name)
        || provides
            .iter()
            .any(|provided| batch.is_of_interest(provided.name));
    if !matters {
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
