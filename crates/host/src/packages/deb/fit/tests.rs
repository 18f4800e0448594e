//! A table, and dpkg itself as the judge of what is said to fit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::super::control;
use super::*;

const USUAL: &str = "install ok installed";

/// A stanza of the status file, or a control file: `fields` are lines of their own.
fn stanza(name: &str, version: &str, status: &str, fields: &str) -> String {
    let status = match status {
        "" => String::new(),
        status => format!("Status: {status}\n"),
    };
    format!(
        "Package: {name}\n{status}Maintainer: x <x@example.com>\nArchitecture: all\nVersion: {version}\n{fields}Description: x\n"
    )
}

/// The control archive of a package with this control file.
fn control_archive(text: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    builder
        .append_data(&mut header, "./control", text.as_bytes())
        .unwrap();
    builder.into_inner().unwrap()
}

/// Whether packages with these control files surely fit in beside what `status` holds. `None`: one is not read by us at
/// all.
fn fits(controls: &[String], status: &str) -> Option<bool> {
    let read = |text: &String| control::read(&control_archive(text));
    let controls: Vec<_> = controls.iter().map(read).collect::<Option<_>>()?;
    let arriving: Option<Vec<Arriving>> = controls
        .iter()
        .map(|control| {
            Some(Arriving {
                name: &control.name,
                version: &control.version,
                arch: &control.arch,
                relations: control.relations.as_ref()?,
            })
        })
        .collect();
    Some(arriving.is_some_and(|arriving| surely_fit(&arriving, status.as_bytes(), "amd64").unwrap()))
}

#[test]
fn only_what_is_plainly_so_is_said_to_fit() {
    // Fields of `app` 2, of another one that comes with it (`lib` 2), and what is installed.
    let table = [
        ("", None, String::new(), true),
        (
            "Provides: pf9app\n",
            Some("Provides: pf9app\n"),
            String::new(),
            true,
        ),
        // Dependencies.
        ("Depends: lib\n", None, String::new(), false),
        ("Depends: lib\n", None, stanza("lib", "1", USUAL, ""), true),
        (
            "Depends: lib (>= 2)\n",
            None,
            stanza("lib", "1", USUAL, ""),
            false,
        ),
        (
            "Depends: x | lib (<< 2)\n",
            None,
            stanza("lib", "1", USUAL, ""),
            true,
        ),
        (
            "Depends: lib:any\n",
            None,
            stanza("lib", "1", USUAL, "Multi-Arch: allowed\n"),
            false,
        ),
        (
            "Depends: lib (>= 2)\n",
            Some(""),
            stanza("lib", "1", USUAL, ""),
            true,
        ),
        (
            "Depends: lib (<< 2)\n",
            Some(""),
            stanza("lib", "1", USUAL, ""),
            false,
        ),
        (
            "Depends: mta\n",
            None,
            stanza("exim", "1", USUAL, "Provides: x, mta\n"),
            true,
        ),
        (
            "Depends: mta (>= 1)\n",
            None,
            stanza("exim", "1", USUAL, "Provides: mta\n"),
            false,
        ),
        (
            "Depends: mta (>= 1)\n",
            None,
            stanza("exim", "1", USUAL, "Provides: mta (= 3)\n"),
            true,
        ),
        ("Depends: mta\n", Some("Provides: mta\n"), String::new(), true),
        (
            "Depends: mta\n",
            Some(""),
            stanza("lib", "1", USUAL, "Provides: mta\n"),
            false,
        ),
        (
            "Depends: lib\n",
            None,
            stanza("lib", "1", "deinstall ok config-files", ""),
            false,
        ),
        ("Pre-Depends: lib\n", None, stanza("lib", "1", USUAL, ""), true),
        ("Pre-Depends: lib\n", Some(""), String::new(), false),
        (
            "Pre-Depends: lib\n",
            Some(""),
            stanza("lib", "1", USUAL, ""),
            false,
        ),
        // What can't be together.
        ("Conflicts: lib\n", None, String::new(), true),
        ("Conflicts: lib\n", None, stanza("lib", "1", USUAL, ""), false),
        (
            "Conflicts: lib:i386\n",
            None,
            stanza("lib", "1", USUAL, ""),
            false,
        ),
        (
            "Conflicts: lib (<< 1)\n",
            None,
            stanza("lib", "1", USUAL, ""),
            true,
        ),
        ("Breaks: lib (<< 2)\n", None, stanza("lib", "1", USUAL, ""), false),
        (
            "Breaks: lib (<< 2)\n",
            Some(""),
            stanza("lib", "1", USUAL, ""),
            false,
        ),
        ("Breaks: lib (<< 2)\n", Some(""), String::new(), true),
        ("Conflicts: lib\n", Some(""), String::new(), false),
        ("", Some("Conflicts: app (>= 2)\n"), String::new(), false),
        ("", None, stanza("lib", "1", USUAL, "Conflicts: app\n"), false),
        (
            "",
            None,
            stanza("lib", "1", USUAL, "Breaks: x,\n app (>> 1)\n"),
            false,
        ),
        ("", None, stanza("lib", "1", USUAL, "Breaks: app (<< 2)\n"), true),
        ("", Some(""), stanza("lib", "1", USUAL, "Conflicts: app\n"), false),
        (
            "Provides: mta\n",
            None,
            stanza("lib", "1", USUAL, "Conflicts: mta\n"),
            false,
        ),
        ("Provides: mta\nConflicts: mta\n", None, String::new(), true),
        (
            "Provides: mta\nConflicts: mta\n",
            None,
            stanza("app", "1", USUAL, "Provides: mta\nConflicts: mta\n"),
            true,
        ),
        (
            "Provides: mta\nConflicts: mta\n",
            None,
            stanza("lib", "1", USUAL, "Provides: mta\n"),
            false,
        ),
        (
            "Provides: mta\nConflicts: mta\n",
            Some("Provides: mta\n"),
            String::new(),
            false,
        ),
        (
            "Conflicts: mta (<< 1)\n",
            None,
            stanza("lib", "1", USUAL, "Provides: mta\n"),
            true,
        ),
        // What others need of a version that goes.
        (
            "",
            None,
            stanza("app", "1", USUAL, "") + "\n" + &stanza("lib", "1", USUAL, "Depends: x, app (>= 1)\n"),
            true,
        ),
        (
            "",
            None,
            stanza("app", "1", USUAL, "") + "\n" + &stanza("lib", "1", USUAL, "Depends: x,\n app (<< 2)\n"),
            false,
        ),
        (
            "",
            None,
            stanza("app", "1", USUAL, "") + "\n" + &stanza("lib", "1", USUAL, "Depends: x | app(= 1)\n"),
            false,
        ),
        (
            "",
            None,
            stanza("app", "1", USUAL, "") + "\n" + &stanza("lib", "1", USUAL, "Pre-Depends: app (= 1)\n"),
            false,
        ),
        (
            "",
            Some(""),
            stanza("app", "1", USUAL, "") + "\n" + &stanza("lib", "1", USUAL, "Depends: app (= 1)\n"),
            true,
        ),
        (
            "Depends: lib (= 2)\n",
            Some("Depends: app (= 1)\n"),
            stanza("app", "1", USUAL, ""),
            false,
        ),
        (
            "Provides: mta\n",
            None,
            stanza("app", "1", USUAL, "Provides: mta\n"),
            true,
        ),
        ("", None, stanza("app", "1", USUAL, "Provides: mta\n"), false),
        (
            "Provides: mta (= 2)\n",
            None,
            stanza("app", "1", USUAL, "Provides: mta (= 1)\n"),
            false,
        ),
        (
            "Provides: mta\n",
            None,
            stanza("app", "1", USUAL, "Conflicts: mta (>= 2)\n"),
            false,
        ),
        // What dpkg has to judge in any case.
        ("", None, stanza("app", "1", USUAL, ""), true),
        ("", None, stanza("app", "2", USUAL, ""), true),
        ("", None, stanza("app", "3", USUAL, ""), false),
        ("", None, stanza("app", "1", "hold ok installed", ""), false),
        ("", None, stanza("app", "1", "deinstall ok installed", ""), false),
        (
            "",
            None,
            stanza("app", "1", "deinstall ok config-files", ""),
            true,
        ),
        (
            "",
            None,
            stanza("app", "1", "deinstall ok config-files", "").replace(": all", ": amd64"),
            false,
        ),
        ("", None, stanza("app", "1", "hold ok config-files", ""), false),
        ("", None, stanza("app", "1", "hold ok not-installed", ""), false),
        (
            "",
            None,
            stanza("lib", "1", "deinstall ok config-files", "Conflicts: app\n"),
            true,
        ),
        ("", None, stanza("lib", "1", "install ok unpacked", ""), false),
        (
            "",
            None,
            stanza("lib", "1", "install ok triggers-awaited", ""),
            false,
        ),
        (
            "",
            None,
            stanza("lib", "1", "install reinstreq installed", ""),
            false,
        ),
        ("", None, stanza("lib", "1", "", ""), false),
        (
            "",
            None,
            stanza("lib", "1", USUAL, "").replace(": all", ": i386"),
            false,
        ),
        (
            "",
            None,
            stanza("app", "1", USUAL, "").replace(": all", ": amd64"),
            false,
        ),
        ("", None, stanza("lib", "1", USUAL, "Breaks: x (< 1)\n"), false),
        ("Multi-Arch: same\n", None, String::new(), false),
        ("Essential: yes\n", None, String::new(), false),
        ("Suggests: a b\n", None, String::new(), false),
        ("Status: install ok installed\n", None, String::new(), false),
        ("Homepage: a\nHomepage: b\n", None, String::new(), false),
        ("Homepage: a\r\n", None, String::new(), false),
    ];
    for (app, lib, status, expected) in table {
        let mut controls = vec![stanza("app", "2", "", app)];
        controls.extend(lib.map(|lib| stanza("lib", "2", "", lib)));
        assert_eq!(fits(&controls, &status), Some(expected), "{app} {lib:?} {status}");
        controls.reverse();
        assert_eq!(fits(&controls, &status), Some(expected), "{app} {lib:?} {status}");
    }
    let app = stanza("app", "2", "", "");
    assert_eq!(fits(&[app.clone(), app], ""), Some(false));
}

/// A package file with an empty payload.
fn deb(folder: &Path, name: &str, control: &str) -> PathBuf {
    let mut payload = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    payload.append_data(&mut header, "./", &[][..]).unwrap();
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar", control_archive(control)),
        ("data.tar", payload.into_inner().unwrap()),
    ];
    let mut bytes = b"!<arch>\n".to_vec();
    for (member, body) in members {
        bytes.extend(
            format!(
                "{member:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
                0,
                0,
                0,
                "100644",
                body.len()
            )
            .bytes(),
        );
        bytes.extend(body);
    }
    let file = folder.join(format!("{name}.deb"));
    fs::write(&file, bytes).unwrap();
    file
}

/// A root with this status file, and dpkg in it.
struct Judge {
    folder: tempfile::TempDir,
}

impl Judge {
    fn new(status: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let admin = folder.path().join("var/lib/dpkg");
        fs::create_dir_all(admin.join("info")).unwrap();
        fs::create_dir_all(admin.join("updates")).unwrap();
        fs::create_dir_all(folder.path().join("var/log")).unwrap();
        fs::write(admin.join("info/format"), "1\n").unwrap();
        fs::write(admin.join("available"), "").unwrap();
        fs::write(admin.join("status"), status).unwrap();
        let names = status.lines().filter_map(|line| line.strip_prefix("Package: "));
        for name in names {
            fs::write(admin.join(format!("info/{name}.list")), "/.\n").unwrap();
        }
        Self { folder }
    }

    fn dpkg(&self, mode: &[&str], files: &[PathBuf]) -> Output {
        let root = self.folder.path().display();
        Command::new("dpkg")
            .args([
                "--force-confdef",
                "--force-confold",
                "--force-not-root",
                "--force-script-chrootless",
            ])
            .args([
                "--force-unsafe-io".to_owned(),
                format!("--root={root}"),
                format!("--log={root}/var/log/dpkg.log"),
            ])
            .args(mode)
            .args(["--install", "--"])
            .args(files)
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LC_ALL", "C")
            .output()
            .unwrap()
    }

    /// Whether dpkg takes these, dry and in earnest; with what it says.
    fn takes(&self, controls: &[String]) -> (bool, bool, String) {
        let files: Vec<_> = controls
            .iter()
            .enumerate()
            .map(|(n, control)| deb(self.folder.path(), &format!("package-{n}"), control))
            .collect();
        let (dry, real) = (self.dpkg(&["--no-act"], &files), self.dpkg(&[], &files));
        let said = [&dry, &real].map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
        (dry.status.success(), real.status.success(), said.concat())
    }
}

fn is_there(program: &str) -> bool {
    Path::new("/usr/bin").join(program).exists()
}

/// How many cases are made up; more by hand.
fn cases(usual: u64) -> u64 {
    std::env::var("FIT_CASES").map_or(usual, |cases| cases.parse().unwrap())
}

struct Dice(fastrand::Rng);

impl Dice {
    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.0.usize(..choices.len())]
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.0.u32(..100) < percent
    }

    fn relation(&mut self, orders: &[&str]) -> String {
        let name = self.one_of(&["a", "b", "c", "d", "e", "v", "w", "a:any"]);
        match self.chance(40) {
            true => format!(
                "{name} ({} {})",
                self.one_of(orders),
                self.one_of(&["1", "2", "2~rc-1", "1:0.5"])
            ),
            false => name.to_owned(),
        }
    }

    fn relations(&mut self) -> String {
        let all = ["<<", "<=", "=", ">=", ">>"];
        let fields: [(&str, u32, &[&str], bool); 7] = [
            ("Depends", 40, &all, true),
            ("Pre-Depends", 12, &all, true),
            ("Conflicts", 15, &all, false),
            ("Breaks", 15, &all, false),
            ("Provides", 40, &["="], false),
            ("Replaces", 10, &all, false),
            ("Suggests", 10, &all, true),
        ];
        let mut text = String::new();
        for (field, percent, orders, has_alternatives) in fields {
            if !self.chance(percent) {
                continue;
            }
            let mut relations = vec![self.relation(orders)];
            if self.chance(40) {
                relations.push(self.relation(orders));
            }
            let separator = if has_alternatives && self.chance(50) {
                " | "
            } else {
                ",\n "
            };
            text += &format!("{field}: {}\n", relations.join(separator));
        }
        text
    }

    fn version(&mut self) -> &'static str {
        self.one_of(&["1", "2", "2~rc-1", "1:0.5"])
    }

    fn status(&mut self) -> String {
        let mut status = String::new();
        for name in ["a", "b", "c", "d", "e"] {
            if self.chance(60) {
                let odd = ["hold ok installed", "install ok unpacked"];
                let state = match self.0.u32(0..100) {
                    0..80 => USUAL,
                    80..97 => "deinstall ok config-files",
                    _ => self.one_of(&odd),
                };
                status += &(stanza(name, self.version(), state, &self.relations()) + "\n");
            }
        }
        status
    }

    fn batch(&mut self) -> Vec<String> {
        let mut names = vec!["a", "b", "c", "d", "e", "f", "g"];
        self.0.shuffle(&mut names);
        let count = self.0.usize(1..4);
        let names = names.into_iter().take(count);
        names
            .map(|name| stanza(name, self.version(), "", &self.relations()))
            .collect()
    }
}

/// Of whatever is said to fit, dpkg's dry run says the same, and the installation itself is not refused.
#[test]
fn dpkg_takes_what_is_said_to_fit() {
    if !is_there("dpkg") {
        return;
    }
    let (mut fitting, mut refused) = (0, 0);
    let cases = cases(60);
    for seed in 0..cases {
        let mut dice = Dice(fastrand::Rng::with_seed(seed));
        let (status, batch) = (dice.status(), dice.batch());
        let fits = fits(&batch, &status).unwrap();
        // Those that are left to dpkg need no judge, but for a sample.
        if !fits && seed % 4 > 0 {
            continue;
        }
        let (dry, real, said) = Judge::new(&status).takes(&batch);
        fitting += u64::from(fits);
        refused += u64::from(!real);
        assert!(
            !fits || (dry && real),
            "seed {seed}: dry {dry}, real {real}\n{status}\nto come:\n{batch:#?}\n{said}"
        );
    }
    println!("{fitting} of {cases} fit, dpkg refused {refused}");
    assert!(
        fitting * 20 > cases && refused * 50 > cases,
        "{fitting} fit, {refused} refused"
    );
}

/// Of a control file that is said to be as usual, dpkg says so, too.
#[test]
fn dpkg_takes_a_control_file_that_is_said_to_be_usual() {
    if !is_there("dpkg") {
        return;
    }
    let lines = [
        "Section: x",
        "Section:",
        "Essential: no",
        "Essential: yes",
        "Essential: maybe",
        "Multi-Arch: foreign",
        "Multi-Arch: same",
        "Multi-Arch: x",
        "Priority: odd",
        "Depends:",
        "Suggests: a,",
        "Suggests: a (<1)",
        "Suggests: a ( >=  1 ) , b",
        "Suggests: A",
        "Suggests: a_b",
        "Enhances: a (= 1-)",
        "Replaces: a | b",
        "Replaces: a:any",
        "Suggests: a\t(>=\t1)|b",
        "Provides: a (>= 1)",
        "Provides: a:all",
        "Recommends: é",
        "Homepage: é",
        "homepage: x",
        "Package: b",
        "Version: 3",
        " more",
        "\tmore",
        " \u{b}",
        " .",
        "-x: y",
        ": x",
        "Foo",
        "X-Foo: y",
        "foo : bar",
        "Status: install ok installed",
        "Conffiles:\n /etc/a",
        "Config-Version: 1",
        "Revision: 3",
        "Source: ",
        "Installed-Size: many",
        "Origin: \u{1a}",
        "Bugs: \r",
        "Tag: a, b,",
        "Triggers-Pending: x",
        "Filename: x",
        "Size: x",
    ];
    let (mut usual, mut refused) = (0, 0);
    let cases = cases(120);
    for seed in 0..cases {
        let mut dice = Dice(fastrand::Rng::with_seed(seed));
        let version = dice.one_of(&[
            "1",
            "1-1",
            "0:1",
            "1.0+b~c-1.1",
            "1:1-1",
            "v1",
            "1_1",
            "1-",
            "a:1",
            "1:-1",
        ]);
        let version = if dice.chance(60) { "1.0-1" } else { version };
        let mut text: Vec<String> = stanza("app", version, "", "")
            .lines()
            .map(str::to_owned)
            .collect();
        for _ in 0..dice.0.usize(1..3) {
            let at = dice.0.usize(1..=text.len());
            text.insert(at, dice.one_of(&lines).to_owned());
        }
        let text = text.join("\n") + if dice.chance(90) { "\n" } else { "" };
        let said_to_be = fits(std::slice::from_ref(&text), "") == Some(true);
        if !said_to_be && seed % 4 > 0 {
            continue;
        }
        let (dry, real, said) = Judge::new("").takes(std::slice::from_ref(&text));
        usual += u64::from(said_to_be);
        refused += u64::from(!dry);
        assert!(!said_to_be || (dry && real), "seed {seed}: {text:?}\n{said}");
    }
    println!("{usual} of {cases} are usual, dpkg refused {refused}");
    assert!(
        usual * 20 > cases && refused * 50 > cases,
        "{usual} usual, {refused} refused"
    );
}
