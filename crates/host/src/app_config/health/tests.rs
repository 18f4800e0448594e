//! When a check is made, and what its results come to: with time that tests move. Real checks:
//! tests/it.

use std::cell::RefCell;

use super::*;

/// Watches a check of 10 s and 3 retries; each letter is a result of it, `P` or `F`, the last one
/// for ever. Gives the second of the end, whether it was well, and the seconds at which the check
/// was made.
async fn watched(results: &str, period: u64) -> (u64, bool, Vec<u64>) {
    let check = HealthCheck {
        probe: Probe::Tcp {
            address: "db:5432".to_owned(),
        },
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
        retries: 3,
    };
    let begin = Instant::now();
    let made = RefCell::new(Vec::new());
    let probe = || async {
        let result = results.as_bytes()[made.borrow().len().min(results.len() - 1)];
        made.borrow_mut().push(begin.elapsed().as_secs());
        match result {
            b'P' => Ok(()),
            _ => Err("db:5432 gave none".to_owned()),
        }
    };
    let app = AppName::new("web").unwrap();
    let result = watch(&app, &check, begin + Duration::from_secs(period), probe).await;
    (begin.elapsed().as_secs(), result.is_ok(), made.into_inner())
}

#[tokio::test(start_paused = true)]
async fn checks_are_made_at_once_at_their_interval_and_at_the_end() {
    let table: [(&str, u64, u64, bool, &[u64]); 11] = [
        ("P", 0, 0, true, &[0]),
        ("P", 5, 5, true, &[0, 5]),
        ("P", 25, 25, true, &[0, 10, 20, 25]),
        // A service that is not up yet has interval and retries to get there, however short the
        // period.
        ("FP", 5, 10, true, &[0, 10]),
        ("FFP", 0, 20, true, &[0, 10, 20]),
        ("F", 0, 20, false, &[0, 10, 20]),
        // Not a minute of failing before it is said.
        ("F", 3600, 20, false, &[0, 10, 20]),
        ("PPF", 3600, 40, false, &[0, 10, 20, 30, 40]),
        // Failures that are not in a row are allowed for, but not at the very end.
        ("FFPFFPFFP", 60, 80, true, &[0, 10, 20, 30, 40, 50, 60, 70, 80]),
        ("PF", 5, 25, false, &[0, 5, 15, 25]),
        ("PFP", 5, 15, true, &[0, 5, 15]),
    ];
    for (results, period, end, well, made) in table {
        assert_eq!(
            watched(results, period).await,
            (end, well, made.to_vec()),
            "{results} for {period} s"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_takes_longer_than_its_interval_is_made_again_at_once() {
    let check = HealthCheck {
        probe: Probe::Tcp {
            address: "db:5432".to_owned(),
        },
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(4),
        retries: 2,
    };
    let hangs = || async {
        tokio::time::sleep(check.timeout).await;
        Err("db:5432 accepted none within 4s".to_owned())
    };
    let begin = Instant::now();
    let app = AppName::new("web").unwrap();
    let error = watch(&app, &check, begin, hangs).await.unwrap_err();
    assert_eq!(begin.elapsed().as_secs(), 8);
    assert_eq!(error.category, Category::Unhealthy);
    assert_eq!(
        error.message,
        "the tcp health check of web failed 2 times in a row: expected an accepted connection, but db:5432 \
         accepted none within 4s. See what listens on the host with `ss -ltnp`, and read the log of web's \
         services"
    );
}
