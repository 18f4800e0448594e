//! What a Debian package says of itself.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use protocol::Category;

use super::control::Control;
use super::{QUERY_DEADLINE, Relations, archive, control};
use crate::HostError;
use crate::command::{Command, Exit, Output, Overflow, last_lines};
use crate::packages::{check_name, check_version};

pub struct Said {
    pub name: String,
    /// Full version.
    pub version: String,
    pub arch: String,
    /// Bytes.
    pub installed_size: u64,
    /// Its configuration files, as absolute paths.
    pub conffiles: Vec<PathBuf>,
    /// `None`: not for us to read.
    pub relations: Option<Relations>,
}

/// More than any control archive holds.
const CONTROL_CAP: usize = 32 * 1024 * 1024;

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
    if let Some(control) = control_of(file).await? {
        check_name(&control.name).map_err(|error| not_usable(&error.message))?;
        check_version(&control.version).map_err(|error| not_usable(&error.message))?;
        return Ok(Said {
            name: control.name,
            version: control.version,
            arch: control.arch,
            installed_size: control.installed_size.saturating_mul(1024),
            conffiles: control.conffiles,
            relations: control.relations,
        });
    }
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
        conffiles: conffiles(file).await?,
        relations: None,
    })
}

/// The control archive, if it is for us to read. dpkg-deb unpacks it where it is compressed.
async fn control_of(file: &Path) -> Result<Option<Control>, HostError> {
    let plain = File::open(file).and_then(|file| archive::plain_control(BufReader::new(file)));
    if let Some(control) = plain.ok().flatten().and_then(|archive| control::read(&archive)) {
        return Ok(Some(control));
    }
    // One process, where `--show` takes three, and as many again for the configuration files.
    let command = Command::new("dpkg-deb").arg("--ctrl-tarfile").arg(file);
    let output = ask(command.output_cap(CONTROL_CAP, Overflow::KeepTail)).await?;
    Ok(output.success().then(|| control::read(&output.stdout)).flatten())
}

/// Its configuration files, as absolute paths.
async fn conffiles(file: &Path) -> Result<Vec<PathBuf>, HostError> {
    let dpkg_deb = Command::new("dpkg-deb").arg("--info").arg(file).arg("conffiles");
    let output = ask(dpkg_deb.clone()).await?;
    if output.success() {
        return Ok(control::listed(&output.stdout_text()));
    }
    match output.stderr_text().contains("no control component") {
        true => Ok(Vec::new()),
        false => Err(HostError::new(
            Category::Host,
            dpkg_deb.failure(&output).to_string(),
        )),
    }
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
