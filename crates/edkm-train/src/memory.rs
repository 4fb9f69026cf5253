//! How much memory this process has: what the operating system says.

use std::path::Path;

use edkm_kernels::LargePages;

/// The most resident memory the process has had, in bytes. `None` where the system does not tell (outside Linux).
pub fn peak_resident_bytes() -> Option<u64> {
    Resident::read().peak
}

/// The resident memory of the process now, in bytes. `None` where the system does not tell (outside Linux).
pub fn resident_bytes() -> Option<u64> {
    Resident::read().now
}

/// Resident memory of the process, both figures of the same moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resident {
    /// Now, in bytes.
    pub now: Option<u64>,
    /// The most so far, in bytes.
    pub peak: Option<u64>,
}

impl Resident {
    /// What the system says, asked once. `None` where it does not tell (outside Linux).
    pub fn read() -> Self {
        // nothing elsewhere depends on this file
        let status = of_linux("/proc/self/status").unwrap_or_default();
        Self {
            now: parse(&status, "VmRSS:"),
            peak: parse(&status, "VmHWM:"),
        }
    }
}

/// Lets the peak begin anew at the present size, without what the allocator keeps of earlier work, where the system allows it (Linux). Elsewhere the peak stays
/// that of the whole process.
pub fn reset_peak_resident() {
    LargePages::give_back();
    // "5" resets the peak and nothing else: proc_pid_clear_refs(5). A kernel without it leaves the peak as it was.
    if cfg!(target_os = "linux") {
        let _ = std::fs::write("/proc/self/clear_refs", "5");
    }
}

/// The memory that this process can take without the system having to swap and within what its control groups may hold (as in a container),
/// in bytes. `None` where the system does not tell (outside Linux).
pub fn available_bytes() -> Option<u64> {
    let machine = parse(&of_linux("/proc/meminfo")?, "MemAvailable:")?;
    let groups = of_linux("/proc/self/cgroup").unwrap_or_default();
    Some(machine.min(left_in_groups(Path::new("/sys/fs/cgroup"), &groups).unwrap_or(u64::MAX)))
}

/// A file in which Linux tells something. On other systems it would be anybody's, on Windows on the drive that one is on.
fn of_linux(path: &str) -> Option<String> {
    cfg!(target_os = "linux").then(|| std::fs::read_to_string(path).ok())?
}

/// What is left to the process in its control groups and in those around them, versions 1 and 2. `None`: they have no limit.
fn left_in_groups(root: &Path, groups: &str) -> Option<u64> {
    let mut left = Vec::new();
    for line in groups.lines() {
        // number:controllers:path, the controllers of version 2 being none
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, files) = match controllers {
            "" => (root.to_path_buf(), ["memory.max", "memory.current", "inactive_file "]),
            _ if controllers.split(',').any(|name| name == "memory") => (
                root.join("memory"),
                ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "],
            ),
            _ => continue,
        };
        // in a container the path may be that of the machine, and its root the group itself
        let group = root.join(path.trim_start_matches('/'));
        let all = group.ancestors().take_while(|folder| folder.starts_with(&root));
        left.extend(all.filter_map(|folder| left_in_group(folder, files)));
    }
    left.into_iter().min()
}

fn left_in_group(folder: &Path, [limit, usage, cache]: [&str; 3]) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    // "max" is no limit, and no number
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let stat = read("memory.stat").unwrap_or_default();
    let cached = stat
        .lines()
        .find_map(|line| line.strip_prefix(cache)?.trim().parse().ok());
    // files that were read and are not in use make room
    let used = number(usage)?.saturating_sub(cached.unwrap_or(0));
    Some(number(limit)?.saturating_sub(used))
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

/// Bytes in the unit that suits them.
pub fn bytes_in_words(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.2} {}", UNITS[unit])
    }
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
    fn the_tightest_control_group_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(left_in_groups(dir.path(), "0::/a/b\n"), None);
        // version 2: no limit inside, one around it
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "700\n");
        write("a/memory.max", "1000\n");
        write("a/memory.current", "900\n");
        write("a/memory.stat", "anon 600\ninactive_file 300\n");
        assert_eq!(left_in_groups(dir.path(), "0::/a/b\n"), Some(400));
        // version 1, seen from inside a container: the path is not there, the root is the group
        write("memory/memory.limit_in_bytes", "500\n");
        write("memory/memory.usage_in_bytes", "600\n");
        write("memory/memory.stat", "inactive_file 1\ntotal_inactive_file 200\n");
        let groups = "3:cpuset:/\n4:memory:/docker/x\n0::/a/b\n";
        assert_eq!(left_in_groups(dir.path(), groups), Some(100));
        assert_eq!(left_in_groups(dir.path(), "nonsense\n::\n"), None);
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

    #[test]
    fn bytes_have_units() {
        assert_eq!(
            [
                bytes_in_words(0),
                bytes_in_words(1023),
                bytes_in_words(1536),
                bytes_in_words(5 << 30)
            ],
            ["0 B", "1023 B", "1.50 KiB", "5.00 GiB"]
        );
    }
}
