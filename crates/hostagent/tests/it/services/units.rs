//! Children in systemd units of their own: this test program itself runs inside a machine, as the agent would.

use std::time::{Duration, Instant};

use harness::machine::{self, Machine};
use host::Root;
use host::command::{Command, CommandError, Exit, Overflow, OwnUnits};

#[test]
fn children_in_units_of_their_own_behave_as_others() {
    if machine::skip("children_in_units_of_their_own_behave_as_others") {
        return;
    }
    let machine = Machine::boot().unwrap();
    machine
        .copy_in(&std::env::current_exe().unwrap(), "/srv/it")
        .unwrap();
    let inside = [
        "/srv/it",
        "services::units::inside",
        "--exact",
        "--ignored",
        "--nocapture",
    ];
    let output = machine.run(&inside).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{failed}"
    );
    let left = machine
        .sh("systemctl list-units --all --no-legend 'hostagent-run-*'; ls /run/hostagent")
        .unwrap();
    assert_eq!(left, "", "units and files are put away");
}

#[tokio::test]
#[ignore = "talks to the systemd of the host it runs on: the test before runs it inside a machine"]
async fn inside() {
    let units = OwnUnits::of(&Root::new("/"));
    assert!(units.is_some(), "the machine was booted with systemd");
    let shell = |script: &str| {
        Command::new("sh")
            .args(["-c", script])
            .output_cap(1000, Overflow::KeepTail)
            .in_unit(units.as_ref())
    };

    let nasty = "$HOME ${PATH} $$ %n %% 'x' \"y\" \\ ;\tz\u{e4}";
    let output = shell("printf '%s|' \"$@\"; env | sed 's/=.*//' | sort | tr '\\n' ' '; cat; pwd")
        .args(["sh", nasty, "", "$1"])
        .env("X", "with space and $dollar")
        .run()
        .await
        .unwrap();
    let said = output.stdout_text();
    assert!(said.starts_with(&format!("{nasty}||$1|")), "{said}");
    assert!(said.contains(" X ") && said.ends_with("/\n"), "{said}");
    let output = shell("printf %s \"$X\"")
        .env("X", "with space and $dollar")
        .run()
        .await
        .unwrap();
    assert_eq!(output.stdout_text(), "with space and $dollar");
    let of_its_own = shell("cat /proc/self/cgroup").run().await.unwrap();
    assert!(
        of_its_own.stdout_text().contains("hostagent-run-"),
        "{of_its_own:?}"
    );

    let output = shell("echo out; echo err >&2; exit 7")
        .run_any_exit()
        .await
        .unwrap();
    assert_eq!(output.exit, Exit::Code(7));
    assert_eq!(
        (output.stdout_text(), output.stderr_text()),
        ("out\n".into(), "err\n".into())
    );
    let output = shell("kill -TERM $$").run_any_exit().await.unwrap();
    assert_eq!(output.exit, Exit::Signal(15));
    let output = shell("seq 1 100000").run().await.unwrap();
    let said = output.stdout_text();
    assert!(said.len() <= 1000 && said.ends_with("\n100000\n"), "{said}");
    let error = Command::new("no-such-program")
        .in_unit(units.as_ref())
        .run()
        .await
        .unwrap_err();
    assert!(matches!(error, CommandError::Start { .. }), "{error}");

    // At the deadline all of it is dead, also what has left its session; and so is what outlives its parent.
    let file = std::env::temp_dir().join("started");
    let script = format!(
        "setsid sh -c 'echo $$ > {}; exec sleep 1000' & sleep 1000",
        file.display()
    );
    let began = Instant::now();
    let error = shell(&script)
        .deadline(Duration::from_secs(2))
        .run()
        .await
        .unwrap_err();
    assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(is_dead(&file));
    let script = format!(
        "rm {0}; setsid sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000' >/dev/null 2>&1 & \
         until [ -e {0} ]; do sleep 0.01; done",
        file.display()
    );
    shell(&script).run().await.unwrap();
    assert!(is_dead(&file));
}

/// The process that `file` names; systemd kills before it answers, and the kernel takes a moment.
fn is_dead(file: &std::path::Path) -> bool {
    let process = std::fs::read_to_string(file).unwrap();
    let path = format!("/proc/{}/cmdline", process.trim());
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match std::fs::read(&path) {
            Ok(bytes) if !bytes.is_empty() && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(bytes) => return bytes.is_empty(),
            Err(_) => return true,
        }
    }
}
