//! What apt's repositories offer.

use std::fs;

use protocol::Category;

use super::apt::policy_offers;
use super::{APT_LISTS, Deb, LOG_CAP, QUERY_DEADLINE};
use crate::command::{Command, Overflow};
use crate::packages::offers::{self, Lists, Offer};
use crate::packages::runs::run;
use crate::packages::{check_name, messages, no_repositories};
use crate::{Family, HostError};

impl Deb {
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
        let mut offers = self.offers(package).await?;
        let mut lists = Lists::Present;
        if may_refresh && offers::best(Family::Deb, version, &offers).is_none() && self.refreshes.begin() {
            match self.refresh_lists().await {
                Ok(()) => offers = self.offers(package).await?,
                Err(error) => lists = Lists::Stale(error),
            }
        }
        if let Some(best) = offers::best(Family::Deb, version, &offers) {
            return Ok(best.version.clone());
        }
        if !self.has_lists() {
            lists = match lists {
                Lists::Stale(error) => Lists::Absent(Some(error)),
                Lists::Present | Lists::Absent(_) => Lists::Absent(None),
            };
        }
        Err(offers::not_offered(package, version, &offers, lists))
    }

    async fn offers(&self, package: &str) -> Result<Vec<Offer>, HostError> {
        let apt_cache = Command::new("apt-cache")
            .args(["policy", "--", package])
            .by_runner(self.runner.as_ref())
            .deadline(QUERY_DEADLINE);
        let output = run(apt_cache, &format!("looking for {package}")).await?;
        Ok(policy_offers(&output.stdout_text(), package))
    }

    async fn refresh_lists(&self) -> Result<(), HostError> {
        tracing::info!("refreshing the package lists with apt-get update");
        let update = Command::new("apt-get")
            .args(["-q", "update"])
            .by_runner(self.runner.as_ref())
            .output_cap(LOG_CAP, Overflow::KeepTail)
            .deadline(self.deadline);
        let output = run(update, "apt-get update").await?;
        match messages::not_fetched(&output.stderr_text()) {
            None => Ok(()),
            // apt-get update calls this a success.
            Some(line) => Err(HostError::new(
                Category::Network,
                format!("apt-get update: {line}"),
            )),
        }
    }

    /// Whether apt has the list of any repository.
    fn has_lists(&self) -> bool {
        let Ok(folder) = fs::read_dir(self.root.join(APT_LISTS)) else {
            return false;
        };
        let own = ["lock", "partial", "auxfiles"];
        folder
            .filter_map(Result::ok)
            .any(|entry| !own.iter().any(|own| entry.file_name() == *own))
    }
}
