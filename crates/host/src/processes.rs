//! Processes, from `/proc` (proc(5)).

use rustix::process::Pid;

pub struct ProcessStat {
    /// `Z`: a zombie, which holds no resources.
    pub state: char,
    pub group: Option<Pid>,
    /// In clock ticks since the boot.
    pub started: u64,
}

/// `None`: there is no such process.
pub fn stat(process: Pid) -> Option<ProcessStat> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // ID (NAME) STATE PARENT GROUP ... (22nd) STARTED ...; a name may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some(ProcessStat {
        state: fields.next()?.chars().next()?,
        group: process_id(fields.nth(1)?),
        started: fields.nth(16)?.parse().ok()?,
    })
}

/// When `process` was started. Together with the id this identifies a process, also after a reboot.
pub fn started(process: u32) -> Option<u64> {
    Pid::from_raw(i32::try_from(process).ok()?)
        .and_then(stat)
        .map(|stat| stat.started)
}

/// `None` also for -1, the group of a process that is just ending.
pub fn process_id(text: &str) -> Option<Pid> {
    text.parse().ok().filter(|id| *id > 0).and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_process_is_one() {
        assert_eq!(process_id("7"), Pid::from_raw(7));
        for text in ["-1", "0", "", "self", "99999999999"] {
            assert_eq!(process_id(text), None, "{text}");
        }
    }

    #[test]
    fn the_start_of_a_process_is_its_own() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let ours = started(std::process::id()).unwrap();
        let childs = started(child.id()).unwrap();
        assert!(childs >= ours && ours > 0, "{ours} {childs}");
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        // In hundredths of a second, as on all of Linux's common machines.
        assert!((uptime - childs as f64 / 100.0).abs() < 60.0, "{uptime} {childs}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(started(child.id()), None);
    }
}
