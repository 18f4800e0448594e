//! What dnf's repositories offer.

use super::dnf::{DnfTool, repoquery_versions, yum_versions};
use super::{LOG_CAP, Rpm};
use crate::command::{Command, Overflow};
use crate::packages::offers::{self, Lists, Offer};
use crate::packages::runs::run;
use crate::packages::{check_name, no_repositories};
use crate::{Family, HostError};

impl Rpm {
    pub(super) async fn find(
        &self,
        package: &str,
        version: &str,
        may_refresh: bool,
    ) -> Result<String, HostError> {
        check_name(package)?;
        if !self.root.is_host() {
            return Err(no_repositories(package, &self.root));
        }
        let tool = DnfTool::of_host();
        let mut offers = self.offers(tool, package).await?;
        let mut lists = Lists::Present;
        if may_refresh && offers::best(Family::Rpm, version, &offers).is_none() && self.refreshes.begin() {
            match self.refresh_lists(tool).await {
                Ok(()) => offers = self.offers(tool, package).await?,
                Err(error) => lists = Lists::Stale(error),
            }
        }
        match offers::best(Family::Rpm, version, &offers) {
            Some(best) => Ok(best.version.clone()),
            None => Err(offers::not_offered(package, version, &offers, lists)),
        }
    }

    /// dnf fetches the metadata of repositories by itself where it has none, or where it has
    /// expired.
    async fn offers(&self, tool: DnfTool, package: &str) -> Result<Vec<Offer>, HostError> {
        let format = "%{name} %{epoch}:%{version}-%{release}\n";
        let query = match tool {
            DnfTool::Dnf => Command::new("dnf").args(["--quiet", "repoquery", "--queryformat", format, "--"]),
            DnfTool::Yum => {
                Command::new("yum").args(["--quiet", "--showduplicates", "list", "available", "--"])
            }
        };
        let query = query
            .arg(package)
            .by_runner(self.runner.as_ref())
            .deadline(self.deadline);
        let output = run(query, &format!("looking for {package}")).await?.stdout_text();
        let versions = match tool {
            DnfTool::Dnf => repoquery_versions(&output, package),
            DnfTool::Yum => yum_versions(&output, package),
        };
        Ok(versions.into_iter().map(Offer::new).collect())
    }

    async fn refresh_lists(&self, tool: DnfTool) -> Result<(), HostError> {
        let refresh = match tool {
            DnfTool::Dnf => Command::new("dnf").args(["--quiet", "--refresh", "makecache"]),
            DnfTool::Yum => Command::new("yum").args(["--quiet", "makecache"]),
        };
        tracing::info!(command = %refresh, "refreshing the package lists");
        let refresh = refresh.by_runner(self.runner.as_ref()).deadline(self.deadline);
        let refresh = refresh.output_cap(LOG_CAP, Overflow::KeepTail);
        run(refresh, "refreshing the package lists").await?;
        Ok(())
    }
}
