//! The D-Bus object of a unit.

const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/";

/// The object path of a unit, loaded or not (`bus_label_escape` in systemd's source).
pub(crate) fn object_path(unit: &str) -> String {
    let mut path = UNIT_PATH.to_owned();
    for (index, byte) in unit.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => path.push(byte.into()),
            b'0'..=b'9' if index > 0 => path.push(byte.into()),
            other => path.push_str(&format!("_{other:02x}")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_units() {
        let table = [
            ("ssh.service", "ssh_2eservice"),
            ("9p_x-1.service", "_39p_5fx_2d1_2eservice"),
            ("getty@tty1.service", "getty_40tty1_2eservice"),
        ];
        for (unit, path) in table {
            assert_eq!(object_path(unit), format!("{UNIT_PATH}{path}"));
        }
    }
}
