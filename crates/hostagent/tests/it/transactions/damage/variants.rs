//! The ways in which state files are damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::FILES;

/// One state folder.
pub struct Variant {
    pub name: String,
    pub damages: BTreeMap<&'static str, Damage>,
}

impl Variant {
    /// Whether it is this file, and no other, that is damaged.
    pub fn is_of(&self, file: &str) -> bool {
        self.damages.keys().eq([&file])
    }
}

/// What is found in a file's place.
#[derive(Clone)]
pub enum Damage {
    Bytes(Vec<u8>),
    /// With something in it, or empty.
    Folder {
        full: bool,
    },
}

impl Damage {
    pub fn inflict(&self, path: &Path) {
        match self {
            Self::Bytes(bytes) => fs::write(path, bytes).unwrap(),
            Self::Folder { full } => {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
                if *full {
                    fs::write(path.join("inside"), "").unwrap();
                }
            }
        }
    }

    /// Whether `path` is what was inflicted.
    pub fn is_at(&self, path: &Path) -> bool {
        match self {
            Self::Bytes(bytes) => fs::read(path).is_ok_and(|found| found == *bytes),
            Self::Folder { full } => path.is_dir() && path.join("inside").exists() == *full,
        }
    }
}

/// 45 for each file, 16 for all of them at once.
pub fn variants(state: &BTreeMap<&'static str, Vec<u8>>) -> Vec<Variant> {
    let mut variants = Vec::new();
    for file in FILES {
        let others = FILES.iter().filter(|other| **other != file);
        let replaced = others.map(|other| (format!("is {other}"), Damage::Bytes(state[other].clone())));
        for (name, damage) in damages(&state[file], 13, 20).into_iter().chain(replaced) {
            variants.push(Variant {
                name: format!("{file} {name}"),
                damages: BTreeMap::from([(file, damage)]),
            });
        }
    }
    let each = FILES.map(|file| damages(&state[file], 2, 3));
    for number in 0..each[0].len() {
        variants.push(Variant {
            name: format!("all {}", each[0][number].0),
            damages: FILES
                .into_iter()
                .zip(&each)
                .map(|(file, all)| (file, all[number].1.clone()))
                .collect(),
        });
    }
    let next = FILES.iter().cycle().skip(1);
    variants.push(Variant {
        name: "all in each other's place".into(),
        damages: FILES
            .into_iter()
            .zip(next)
            .map(|(file, next)| (file, Damage::Bytes(state[next].clone())))
            .collect(),
    });
    variants
}

/// `cuts` and `flips` are spread evenly over the file.
fn damages(whole: &[u8], cuts: usize, flips: usize) -> Vec<(String, Damage)> {
    let len = whole.len();
    let mut all = Vec::new();
    let mut add = |name: String, bytes: Vec<u8>| all.push((name, Damage::Bytes(bytes)));
    for n in 1..=cuts {
        // The last one lacks the last byte only.
        let at = n * (len - 1) / cuts;
        add(format!("cut at {at} of {len}"), whole[..at].to_vec());
    }
    for n in 0..flips {
        let (at, bit) = (n * (len - 1) / (flips - 1), n % 8);
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1 << bit;
        add(format!("with bit {bit} of byte {at} of {len} flipped"), bytes);
    }
    add("zeroed".into(), vec![0; len]);
    // Blocks that never reached the disk.
    add(
        "zeroed from its middle".into(),
        [&whole[..len / 2], &vec![0; len - len / 2]].concat(),
    );
    add(
        "zeroed to its middle".into(),
        [&vec![0; len / 2], &whole[len / 2..]].concat(),
    );
    add("emptied".into(), Vec::new());
    add(
        "full of noise".into(),
        (0..4096_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect(),
    );
    add(
        "an HTML page".into(),
        b"<html><body>502 Bad Gateway</body></html>\n".to_vec(),
    );
    add(
        "without its digest".into(),
        whole[..len - "\nsha256:".len() - 65].to_vec(),
    );
    add("twice over".into(), [whole, whole].concat());
    all.push(("a folder".into(), Damage::Folder { full: false }));
    all.push((
        "a folder with something in it".into(),
        Damage::Folder { full: true },
    ));
    all
}
