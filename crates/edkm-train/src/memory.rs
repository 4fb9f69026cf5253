//! How much memory this process has: what the operating system says.

/// The most resident memory the process has had, in bytes. `None` where the system does not tell (outside Linux).
pub fn peak_resident_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

/// The resident memory of the process now, in bytes. `None` where the system does not tell (outside Linux).
pub fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// Lets the peak begin anew at the present size, where the system allows it (Linux). Elsewhere the peak stays that of the whole process.
pub fn reset_peak_resident() {
    // "5" resets the peak and nothing else: proc_pid_clear_refs(5). A kernel without it leaves the peak as it was.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The memory that a process can take without the system having to swap, in bytes. `None` where the system does not tell (outside Linux).
pub fn available_bytes() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

fn status_bytes(key: &str) -> Option<u64> {
    // Absent outside Linux; nothing there depends on this file.
    parse(&std::fs::read_to_string("/proc/self/status").ok()?, key)
}

/// A line such as `VmHWM:     1234 kB`; the unit is always that.
fn parse(status: &str, key: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(key))?;
    rest.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_of_proc_status() {
        let status = "Name:\tedkm\nVmPeak:\t  99 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(parse(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(parse(status, "VmRSS:"), Some(1 << 20));
        assert_eq!(parse(status, "VmSwap:"), None);
        assert_eq!(parse("VmHWM: many kB", "VmHWM:"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_follows_an_allocation() {
        let before = peak_resident_bytes().unwrap();
        let filled = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(filled.iter().step_by(4096).all(|&byte| byte == 1));
        assert!(resident_bytes().unwrap() > 64 << 20);
        assert!(peak_resident_bytes().unwrap() >= before.max(64 << 20));
    }
}
