//! Enrolment at the broker: a user, a queue and the least permissions for each host.

use std::fmt;
use std::sync::Arc;

use protocol::HostId;
use protocol::rest::Enrolled;

use crate::broker_setup::{AdminLogin, BrokerNames, ManagementApi, ManagementError, create_host_login};
use crate::settings::Settings;

/// The management API of the broker, and what hosts are told.
pub struct Enrollment {
    api: ManagementApi,
    names: BrokerNames,
    host: String,
    port: u16,
    tls: bool,
    ca: Option<String>,
}

impl fmt::Debug for Enrollment {
    /// Does not show the login.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Enrollment at {}:{}", self.host, self.port)
    }
}

/// Why enrolment cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum EnrollmentError {
    #[error("[enroll] management: {0}")]
    ManagementApi(#[from] ManagementError),
    #[error("[enroll] amqp_ca: cannot read {file}: {source}")]
    Ca { file: String, source: std::io::Error },
}

impl Enrollment {
    /// Reads the settings. `None`: enrolment is off.
    pub fn of(settings: &Settings) -> Result<Option<Arc<Self>>, EnrollmentError> {
        let Settings { enroll, amqp, .. } = settings;
        let Some(management) = &enroll.management else {
            return Ok(None);
        };
        let password = enroll.password.as_ref();
        let login = AdminLogin {
            user: enroll.username.clone(),
            password: password
                .map(|password| password.expose().to_owned())
                .unwrap_or_default(),
        };
        let ca = enroll.amqp_ca.as_ref().map(|file| {
            std::fs::read_to_string(file).map_err(|source| EnrollmentError::Ca {
                file: file.display().to_string(),
                source,
            })
        });
        let broker = settings.broker();
        // If hosts get an authority they are to use TLS, even if the master itself connects without
        // TLS on the broker's machine.
        let tls = enroll
            .amqp_tls
            .unwrap_or(broker.tls.is_some() || enroll.amqp_ca.is_some());
        let usual_port = match (tls == broker.tls.is_some(), tls) {
            (true, _) => broker.port,
            (false, true) => 5671,
            (false, false) => 5672,
        };
        Ok(Some(Arc::new(Self {
            api: ManagementApi::new(management, &login, enroll.management_ca.as_deref())?,
            names: BrokerNames {
                vhost: amqp.virtual_host.clone(),
                master: amqp.username.clone(),
                master_password: None,
                master_queue: amqp.queue_name.clone(),
                quorum: false,
                host_user: amqp
                    .host_user
                    .clone()
                    .unwrap_or_else(|| BrokerNames::USUAL_HOST_USER.to_owned()),
                apps: Vec::new(),
            },
            // Masters may connect by a name that hosts cannot resolve.
            host: enroll.amqp_host.clone().unwrap_or_else(|| amqp.host.clone()),
            port: enroll.amqp_port.unwrap_or(usual_port),
            tls,
            ca: ca.transpose()?,
        })))
    }

    /// Creates the login of `host`, or sets a new password. Blocks.
    pub fn create_host_login(&self, host: &HostId, password: String) -> Result<Enrolled, ManagementError> {
        create_host_login(&self.api, &self.names, host, &password)?;
        Ok(Enrolled {
            host_id: host.clone(),
            host: self.host.clone(),
            port: self.port,
            virtual_host: self.names.vhost.clone(),
            username: self.names.host_user(host),
            password,
            tls: self.tls,
            ca: self.ca.clone(),
            trusted_users: vec![self.names.master.clone()],
        })
    }
}
