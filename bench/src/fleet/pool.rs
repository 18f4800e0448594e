//! The hosts of one connection: takes in what they are told, lets their time pass, says what they say.

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

/// What the fleet's owner wants of all hosts.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    Restart,
    Report,
}

/// Statuses under way to the broker, per connection.
const UNCONFIRMED: usize = 256;

/// Why a host is looked at.
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
    /// Who has something to say. The words are found when it is said: they are the newest then.
    to_say: VecDeque<(usize, Option<String>)>,
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
            to_say: VecDeque::new(),
        }
    }

    pub(super) async fn run(mut self, mut link: Link, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut saying: FuturesUnordered<BoxFuture<'static, (usize, Result<(), PublishError>)>> =
            FuturesUnordered::new();
        let mut epoch = 0;
        self.set_first_alarms();
        loop {
            let mut timestamp = None;
            while link.state.borrow().is_up()
                && saying.len() < UNCONFIRMED
                && let Some((number, reply_to)) = self.to_say.pop_front()
            {
                let timestamp = timestamp.get_or_insert_with(now);
                let Some(host) = self.hosts.get_mut(number) else {
                    continue;
                };
                let body = host.status(reply_to, timestamp);
                let publisher = link.publisher.clone();
                saying.push(Box::pin(async move {
                    (number, publisher.publish(topic::MASTER, body).await)
                }));
            }
            let next_alarm = self.alarms.peek().map(|Reverse((at, ..))| *at);
            // Each arm receives, or waits on futures that live outside: nothing is lost when an arm is dropped.
            tokio::select! {
                delivery = link.deliveries.recv() => match delivery {
                    Some(delivery) => self.take(delivery),
                    None => return,
                },
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                Some((number, result)) = saying.next() => self.settle(number, result),
                changed = link.state.changed() => {
                    if changed.is_err() { return }
                    if let LinkState::Up { epoch: now } = *link.state.borrow_and_update() && now != epoch {
                        epoch = now;
                        self.report_all_on_connection();
                    }
                }
                () = sleep_until(next_alarm.unwrap_or_else(Instant::now)), if next_alarm.is_some() => self.ring(),
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

    /// All alarms that are due.
    fn ring(&mut self) {
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
                    self.to_say.push_back((number, None));
                    // From when it was due, so that a busy machine does not thin out the load.
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
        self.to_say.push_back((number, None));
        self.set_alarm(Instant::now(), number, Alarm::Wake);
    }

    fn obey(&mut self, order: Order) {
        for number in 0..self.hosts.len() {
            match order {
                Order::Restart => self.restart(number),
                Order::Report => self.to_say.push_back((number, None)),
            }
        }
    }

    fn take(&mut self, delivery: Delivery) {
        match decode(&delivery.body, Limits::default()) {
            Err(_) => count(&self.counts.invalid),
            Ok(message) => match self.numbers.get(&delivery.routing_key) {
                Some(number) => self.tell(*number, message),
                // `slaves`, or an application's topic: all of them.
                None => (0..self.hosts.len()).for_each(|number| self.tell(number, message.clone())),
            },
        }
        delivery.ack();
    }

    fn tell(&mut self, number: usize, message: Inbound) {
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
            Reaction::Report { reply_to } => self.to_say.push_back((number, reply_to)),
            Reaction::ReportAndWake { reply_to, after } => {
                self.to_say.push_back((number, reply_to));
                self.set_alarm(Instant::now() + after, number, Alarm::Wake);
            }
        }
    }

    fn report_all_on_connection(&mut self) {
        // What was not said yet is said by this.
        self.to_say.clear();
        if self.announce {
            self.obey(Order::Report);
        }
    }

    fn settle(&mut self, number: usize, result: Result<(), PublishError>) {
        match result {
            Ok(()) => count(&self.counts.statuses),
            Err(PublishError::Unroutable) => count(&self.counts.unroutable),
            Err(PublishError::Disconnected) => count(&self.counts.interrupted),
            // The broker is short of something: later.
            Err(PublishError::Refused) => self.to_say.push_back((number, None)),
        }
    }
}

/// RFC 3339, UTC, microseconds.
fn now() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}
