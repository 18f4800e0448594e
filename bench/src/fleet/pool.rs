//! The hosts of one connection: receives their messages, runs their alarms, sends their statuses.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use bus::{Delivery, Link, LinkState, PublishError};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use protocol::{Inbound, Limits, State, decode, topic};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::counts::{Counts, count};
use super::host::{Host, Reaction};
use super::script::Script;

/// An order to all hosts.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    Restart,
    Report,
}

/// Statuses in flight to the broker, for each connection.
const MAX_IN_FLIGHT: usize = 256;

/// What a host does at a given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    Wake,
    Heartbeat,
    Restart,
}

pub(super) struct Pool {
    hosts: Vec<Host>,
    numbers: HashMap<String, usize>,
    script: Script,
    announce: bool,
    counts: Arc<Counts>,
    alarms: BinaryHeap<Reverse<(Instant, usize, Alarm)>>,
    /// Hosts with an outgoing status, which is built when it is sent, so that it is the newest.
    outgoing: VecDeque<(usize, Option<String>)>,
}

impl Pool {
    pub(super) fn new(hosts: Vec<Host>, script: Script, announce: bool, counts: Arc<Counts>) -> Self {
        let numbers = hosts
            .iter()
            .enumerate()
            .map(|(number, host)| (host.id.as_str().to_owned(), number))
            .collect();
        Self {
            hosts,
            numbers,
            script,
            announce,
            counts,
            alarms: BinaryHeap::new(),
            outgoing: VecDeque::new(),
        }
    }

    pub(super) async fn run(mut self, mut link: Link, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut in_flight: FuturesUnordered<BoxFuture<'static, (usize, Result<(), PublishError>)>> =
            FuturesUnordered::new();
        let mut epoch = 0;
        self.set_first_alarms();
        loop {
            let mut timestamp = None;
            while link.state.borrow().is_up()
                && in_flight.len() < MAX_IN_FLIGHT
                && let Some((number, reply_to)) = self.outgoing.pop_front()
            {
                let timestamp = timestamp.get_or_insert_with(now);
                let Some(host) = self.hosts.get_mut(number) else {
                    continue;
                };
                let body = host.status(reply_to, timestamp);
                let publisher = link.publisher.clone();
                in_flight.push(Box::pin(async move {
                    (number, publisher.publish(topic::MASTER, body).await)
                }));
            }
            let next_alarm = self.alarms.peek().map(|Reverse((at, ..))| *at);
            // Cancel-safe: each arm receives, or waits for futures that are stored outside of it.
            tokio::select! {
                delivery = link.deliveries.recv() => match delivery {
                    Some(delivery) => self.receive(delivery),
                    None => return,
                },
                order = orders.recv() => match order {
                    Some(order) => self.execute(order),
                    None => return,
                },
                Some((number, result)) = in_flight.next() => self.handle_published(number, result),
                changed = link.state.changed() => {
                    if changed.is_err() { return }
                    if let LinkState::Up { epoch: now } = *link.state.borrow_and_update() && now != epoch {
                        epoch = now;
                        self.report_all_on_connection();
                    }
                }
                () = sleep_until(next_alarm.unwrap_or_else(Instant::now)), if next_alarm.is_some() => self.handle_due_alarms(),
            }
        }
    }

    fn set_first_alarms(&mut self) {
        let now = Instant::now();
        for number in 0..self.hosts.len() {
            if let Some(period) = self.script.heartbeat {
                let phase = self.hosts[number].random().f64();
                self.set_alarm(now + period.mul_f64(phase), number, Alarm::Heartbeat);
            }
            self.set_restart(number);
        }
    }

    fn set_alarm(&mut self, at: Instant, number: usize, alarm: Alarm) {
        self.alarms.push(Reverse((at, number, alarm)));
    }

    fn set_restart(&mut self, number: usize) {
        if let Some(after) = self.script.draw_restart(self.hosts[number].random()) {
            self.set_alarm(Instant::now() + after, number, Alarm::Restart);
        }
    }

    fn handle_due_alarms(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, number, alarm))) = self.alarms.peek().copied()
            && at <= now
        {
            self.alarms.pop();
            match alarm {
                Alarm::Wake => {
                    let reaction = self.hosts[number].wake(&self.script);
                    if reaction != Reaction::Nothing {
                        match self.hosts[number].state() {
                            State::Ok => count(&self.counts.converged),
                            State::Errors => count(&self.counts.failed),
                            State::Converging => {}
                        }
                    }
                    self.react(number, reaction);
                }
                Alarm::Heartbeat => {
                    self.outgoing.push_back((number, None));
                    // Counted from the time when it was due, so that a slow machine does not reduce
                    // the load.
                    if let Some(period) = self.script.heartbeat {
                        self.set_alarm(at + period, number, alarm);
                    }
                }
                Alarm::Restart => {
                    self.restart(number);
                    self.set_restart(number);
                }
            }
        }
    }

    fn restart(&mut self, number: usize) {
        count(&self.counts.restarts);
        self.hosts[number].restart();
        self.outgoing.push_back((number, None));
        self.set_alarm(Instant::now(), number, Alarm::Wake);
    }

    fn execute(&mut self, order: Order) {
        for number in 0..self.hosts.len() {
            match order {
                Order::Restart => self.restart(number),
                Order::Report => self.outgoing.push_back((number, None)),
            }
        }
    }

    fn receive(&mut self, delivery: Delivery) {
        match decode(&delivery.body, Limits::default()) {
            Err(_) => count(&self.counts.invalid),
            Ok(message) => match self.numbers.get(&delivery.routing_key) {
                Some(number) => self.deliver(*number, message),
                // `slaves`, or the topic of an application: all hosts.
                None => (0..self.hosts.len()).for_each(|number| self.deliver(number, message.clone())),
            },
        }
        delivery.ack();
    }

    fn deliver(&mut self, number: usize, message: Inbound) {
        match &message {
            Inbound::Ping { .. } => count(&self.counts.pings),
            Inbound::SetConfig(_) => count(&self.counts.set_configs),
            Inbound::Plan { .. } | Inbound::Unknown { .. } => {}
        }
        let reaction = self.hosts[number].handle(message, &self.script);
        self.react(number, reaction);
    }

    fn react(&mut self, number: usize, reaction: Reaction) {
        match reaction {
            Reaction::Nothing => {}
            Reaction::Report { reply_to } => self.outgoing.push_back((number, reply_to)),
            Reaction::ReportAndWake { reply_to, after } => {
                self.outgoing.push_back((number, reply_to));
                self.set_alarm(Instant::now() + after, number, Alarm::Wake);
            }
        }
    }

    fn report_all_on_connection(&mut self) {
        // Replaces the outgoing statuses.
        self.outgoing.clear();
        if self.announce {
            self.execute(Order::Report);
        }
    }

    fn handle_published(&mut self, number: usize, result: Result<(), PublishError>) {
        match result {
            Ok(()) => count(&self.counts.statuses),
            Err(PublishError::Unroutable) => count(&self.counts.unroutable),
            Err(PublishError::Disconnected) => count(&self.counts.interrupted),
            // The broker lacks memory or disk space: retry.
            Err(PublishError::Refused) => self.outgoing.push_back((number, None)),
        }
    }
}

/// RFC 3339, UTC, microseconds.
fn now() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}
