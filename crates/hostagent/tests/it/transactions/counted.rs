//! The package manager, and how often it was at work.

use std::collections::BTreeMap;

use super::*;

/// The real package manager, with a count of the times that it changed, or tried to change, the host.
pub(super) struct Counted {
    pub(super) real: Arc<dyn Packages>,
    pub(super) runs: AtomicUsize,
}

impl Counted {
    pub(super) fn open(sandbox: &Sandbox, deadline: Duration) -> Arc<Self> {
        let family = match sandbox.family() {
            Family::Deb => host::Family::Deb,
            Family::Rpm => host::Family::Rpm,
        };
        let options = Options {
            family: Some(family),
            deadline,
            ..Options::default()
        };
        Arc::new(Self {
            real: packages::detect(&Root::new(sandbox.root()), options).unwrap(),
            runs: AtomicUsize::new(0),
        })
    }

    pub(super) fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Packages for Counted {
    fn family(&self) -> host::Family {
        self.real.family()
    }

    async fn installed(&self) -> Result<Arc<InstalledPackages>, HostError> {
        self.real.installed().await
    }

    async fn inspect(&self, file: &Path) -> Result<PackageFile, HostError> {
        self.real.inspect(file).await
    }

    async fn find_in_repositories(&self, package: &str, version: &str) -> Result<String, HostError> {
        self.real.find_in_repositories(package, version).await
    }

    async fn find_in_lists(&self, package: &str, version: &str) -> Result<String, HostError> {
        self.real.find_in_lists(package, version).await
    }

    fn lists_stamp(&self) -> Option<std::time::SystemTime> {
        self.real.lists_stamp()
    }

    async fn heal(&self) -> Result<(), HostError> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.real.heal().await
    }

    async fn simulate(&self, transaction: &Transaction) -> Result<Simulation, HostError> {
        self.real.simulate(transaction).await
    }

    fn refuses_untouched(&self) -> bool {
        self.real.refuses_untouched()
    }

    async fn apply(&self, transaction: &Transaction) -> Result<Applied, ApplyError> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.real.apply(transaction).await
    }

    async fn is_new_here(&self, source: &Source) -> Result<bool, HostError> {
        self.real.is_new_here(source).await
    }

    async fn purge(&self, package: &str) -> Result<(), HostError> {
        self.real.purge(package).await
    }

    async fn keep(&self, package: &str) -> Result<(), HostError> {
        self.real.keep(package).await
    }

    async fn works_alone(&self) {
        self.real.works_alone().await
    }

    async fn earlier_runs_end(&self) -> Result<EarlierRuns, HostError> {
        self.real.earlier_runs_end().await
    }

    async fn forget_earlier_runs(&self) -> Result<(), HostError> {
        self.real.forget_earlier_runs().await
    }

    async fn shipped_files(&self, package: &str) -> Result<Vec<PathBuf>, HostError> {
        self.real.shipped_files(package).await
    }

    async fn shipped_files_of(&self, packages: &[&str]) -> Result<BTreeMap<String, Vec<PathBuf>>, HostError> {
        self.real.shipped_files_of(packages).await
    }

    fn database_paths(&self) -> Vec<PathBuf> {
        self.real.database_paths()
    }
}
