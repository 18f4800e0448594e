//! The metrics at `/metrics`, in the OpenMetrics text format.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

type Labels = [(&'static str, &'static str); 1];

/// The metrics of one master. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    statuses: Family<Labels, Counter>,
    /// Gaps in the `seq` of statuses.
    pub lost_statuses: Counter,
    /// Seconds to write one batch of statuses.
    pub batch_seconds: Histogram,
    pub batch_size: Histogram,
    dispatched: Family<Labels, Counter>,
    pub pings: Counter,
    requests: Family<Labels, Counter>,
    hosts: Family<Labels, Gauge>,
    pub responding: Gauge,
    pub broker_up: Gauge,
    pub event_listeners: Gauge,
    registry: std::sync::Arc<Registry>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("bbmaster");
        let metrics = Self {
            statuses: Family::default(),
            lost_statuses: Counter::default(),
            batch_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            batch_size: Histogram::new(exponential_buckets(1.0, 4.0, 7)),
            dispatched: Family::default(),
            pings: Counter::default(),
            requests: Family::default(),
            hosts: Family::default(),
            responding: Gauge::default(),
            broker_up: Gauge::default(),
            event_listeners: Gauge::default(),
            registry: std::sync::Arc::default(),
        };
        registry.register(
            "statuses",
            "Statuses received, by result",
            metrics.statuses.clone(),
        );
        registry.register(
            "lost_statuses",
            "Statuses that agents have sent and the master has not received",
            metrics.lost_statuses.clone(),
        );
        registry.register(
            "batch_seconds",
            "Seconds to write one batch of statuses",
            metrics.batch_seconds.clone(),
        );
        registry.register("batch_size", "Statuses in one batch", metrics.batch_size.clone());
        registry.register(
            "dispatched",
            "Desired states sent, by result",
            metrics.dispatched.clone(),
        );
        registry.register("pings", "Pings sent", metrics.pings.clone());
        registry.register(
            "requests",
            "HTTP requests, by class of status code",
            metrics.requests.clone(),
        );
        registry.register("hosts", "Hosts, by status", metrics.hosts.clone());
        registry.register(
            "hosts_responding",
            "Hosts that have reported within silent_after",
            metrics.responding.clone(),
        );
        registry.register(
            "broker_up",
            "1 if this master consumes from the broker, else 0",
            metrics.broker_up.clone(),
        );
        registry.register(
            "event_listeners",
            "Connections that stream events",
            metrics.event_listeners.clone(),
        );
        Self {
            registry: std::sync::Arc::new(registry),
            ..metrics
        }
    }
}

impl Metrics {
    /// `result`: accepted, duplicate, late, quarantined, reply.
    pub fn count_statuses(&self, result: &'static str, count: u64) {
        self.statuses.get_or_create(&[("result", result)]).inc_by(count);
    }

    /// `result`: sent, away, failed.
    pub fn count_dispatch(&self, result: &'static str) {
        self.dispatched.get_or_create(&[("result", result)]).inc();
    }

    pub fn count_request(&self, status: u16) {
        let class = match status / 100 {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            _ => "1xx",
        };
        self.requests.get_or_create(&[("code", class)]).inc();
    }

    pub fn set_hosts(&self, state: &'static str, count: u64) {
        self.hosts
            .get_or_create(&[("status", state)])
            .set(count.try_into().unwrap_or(i64::MAX));
    }

    /// All metrics as text.
    pub fn encode_text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
