//! The other end of the bus.

use super::*;

/// The other end of the bus.
pub(super) struct Master {
    pub(super) publisher: bus::Publisher,
    pub(super) statuses: watch::Receiver<Vec<Status>>,
    pub(super) plans: watch::Receiver<Vec<PlanAnswer>>,
}

impl Master {
    pub(super) fn listen(link: Link) -> Self {
        let Link {
            mut deliveries,
            publisher,
            topics,
            state,
        } = link;
        let (statuses_in, statuses) = watch::channel(Vec::new());
        let (plans_in, plans) = watch::channel(Vec::new());
        tokio::spawn(async move {
            // Held: dropping them would end the link.
            let _held = (topics, state);
            while let Some(delivery) = deliveries.recv().await {
                match Status::decode(&delivery.body, Limits::default()) {
                    Ok(status) => statuses_in.send_modify(|all: &mut Vec<Status>| all.push(status)),
                    Err(_) => {
                        let plan = PlanAnswer::decode(&delivery.body, Limits::default()).unwrap();
                        plans_in.send_modify(|all: &mut Vec<PlanAnswer>| all.push(plan));
                    }
                }
                delivery.ack();
            }
        });
        Self {
            publisher,
            statuses,
            plans,
        }
    }

    /// To the one host, as soon as it listens.
    pub(super) async fn publish(&self, body: Vec<u8>) {
        let publish = async {
            while self.publisher.publish(HOST, body.clone()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, publish)
            .await
            .expect("nobody listens");
    }

    pub(super) fn count(&self) -> usize {
        self.statuses.borrow().len()
    }

    /// Waits until `find` finds something in all statuses so far.
    pub(super) async fn wait<T>(&mut self, what: &str, find: impl Fn(&[Status]) -> Option<T>) -> T {
        let mut found = None;
        let waiting = self.statuses.wait_for(|all| {
            found = find(all);
            found.is_some()
        });
        let in_time = tokio::time::timeout(PATIENCE, waiting)
            .await
            .is_ok_and(|end| end.is_ok());
        assert!(
            in_time,
            "in vain awaited: {what}; last: {:#?}",
            self.statuses.borrow().last()
        );
        found.unwrap()
    }

    pub(super) async fn plan(&mut self, id: &str) -> PlanAnswer {
        let is_it = |plan: &&PlanAnswer| plan.reply_to.as_deref() == Some(id);
        let waiting = self.plans.wait_for(|all| all.iter().any(|plan| is_it(&plan)));
        let all = tokio::time::timeout(PATIENCE, waiting)
            .await
            .expect("no plan came")
            .unwrap();
        all.iter().find(is_it).unwrap().clone()
    }
}
