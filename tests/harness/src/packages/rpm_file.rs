//! Builds rpm packages with a library, if rpmbuild is not installed.

use std::path::Path;

use anyhow::Result;
use rpm::{BuildConfig, CompressionType, Dependency, FileOptions, PackageBuilder, Scriptlet};

use super::{Moment, Package, SOURCE_DATE_EPOCH};

pub(super) fn write(package: &Package, file: &Path) -> Result<()> {
    let arch = package.arch.as_deref().unwrap_or("noarch");
    let mut builder = PackageBuilder::new(&package.name, &package.version, "none", arch, "built by a test");
    builder
        .using_config(
            BuildConfig::v4()
                .compression(CompressionType::None)
                .source_date(SOURCE_DATE_EPOCH),
        )
        .release(&package.release)
        .description("built by a test")
        .build_host("localhost");
    if let Some(epoch) = package.epoch {
        builder.epoch(epoch);
    }
    for name in &package.provides {
        builder.provides(Dependency::any(name));
    }
    for name in &package.depends {
        builder.requires(Dependency::any(name));
    }
    for name in &package.conflicts {
        builder.conflicts(Dependency::any(name));
    }
    for shipped in &package.files {
        let options = FileOptions::new(&shipped.path).permissions(shipped.mode.try_into()?);
        let options = match shipped.conffile {
            true => options.config().noreplace(),
            false => options,
        };
        builder.with_file_contents(shipped.content.clone(), options)?;
    }
    for (moment, script) in package.rpm_scripts() {
        let script = Scriptlet::new(script).prog(vec!["/bin/sh"]);
        match moment {
            Moment::BeforeInstall => builder.pre_install_script(script),
            Moment::AfterInstall => builder.post_install_script(script),
            Moment::BeforeRemove => builder.pre_uninstall_script(script),
            Moment::AfterRemove => builder.post_uninstall_script(script),
        };
    }
    builder.build()?.write_file(file)?;
    Ok(())
}
