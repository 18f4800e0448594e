//! What a Debian package says of itself.

use std::path::{Path, PathBuf};

use protocol::Category;

use super::{QUERY_DEADLINE, archive};
use crate::host::HostError;
use crate::host::command::{Command, Exit, Output, last_lines};
use crate::host::packages::{check_name, check_version};

pub struct Said {
    pub name: String,
    /// Full version.
    pub version: String,
    pub arch: String,
    /// Bytes.
    pub installed_size: u64,
}

/// Reads it, if the file is whole.
pub async fn read(file: &Path) -> Result<Said, HostError> {
    let not_usable = |why: &str| {
        let file = file.display();
        HostError::new(
            Category::Verification,
            format!("{file} is no Debian package: {why}"),
        )
    };
    archive::check_whole(file).map_err(|why| not_usable(&why))?;
    let format = "${Package}\n${Version}\n${Architecture}\n${Installed-Size}\n";
    let format = format!("--showformat={format}");
    let output = ask(Command::new("dpkg-deb").args([&format, "--show", "--"]).arg(file)).await?;
    if !output.success() {
        return Err(not_usable(&last_lines(&output.stderr_text())));
    }
    let text = output.stdout_text();
    let mut fields = text.lines();
    let mut field = || fields.next().unwrap_or_default().to_owned();
    let (name, version, arch, size) = (field(), field(), field(), field());
    check_name(&name).map_err(|error| not_usable(&error.message))?;
    check_version(&version).map_err(|error| not_usable(&error.message))?;
    Ok(Said {
        name,
        version,
        arch,
        installed_size: size.parse::<u64>().unwrap_or(0).saturating_mul(1024),
    })
}

/// Its configuration files, as absolute paths.
pub async fn conffiles(file: &Path) -> Result<Vec<PathBuf>, HostError> {
    let dpkg_deb = Command::new("dpkg-deb").arg("--info").arg(file).arg("conffiles");
    let output = ask(dpkg_deb.clone()).await?;
    if output.success() {
        return Ok(listed(&output.stdout_text()));
    }
    match output.stderr_text().contains("no control component") {
        true => Ok(Vec::new()),
        false => Err(HostError::new(
            Category::Host,
            dpkg_deb.failure(&output).to_string(),
        )),
    }
}

/// `[FLAG ]PATH` a line (deb-conffiles(5)).
fn listed(text: &str) -> Vec<PathBuf> {
    let paths = text
        .lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]));
    paths.map(|path| PathBuf::from(path.trim_end())).collect()
}

/// Any exit code will do, but not a dpkg-deb that was killed: it says nothing of the file.
async fn ask(dpkg_deb: Command) -> Result<Output, HostError> {
    let dpkg_deb = dpkg_deb.deadline(QUERY_DEADLINE);
    let output = dpkg_deb.run_any_exit().await.map_err(HostError::from)?;
    match output.exit {
        Exit::Code(_) => Ok(output),
        Exit::Signal(_) => Err(HostError::new(
            Category::Host,
            dpkg_deb.failure(&output).to_string(),
        )),
    }
}

#[test]
fn conffiles_are_listed_one_a_line() {
    let text = "/etc/app.conf\nremove-on-upgrade /etc/old name.conf\n\n";
    let expected = ["/etc/app.conf", "/etc/old name.conf"].map(PathBuf::from);
    assert_eq!(listed(text), expected);
}
