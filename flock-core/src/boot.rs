//! Which boot of the machine this is: state of the kernel is gone after the next one.

use std::io;

/// Where Linux says it.
pub const ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// What tells this boot from another one. Needs `/proc`.
pub fn id() -> io::Result<String> {
    Ok(std::fs::read_to_string(ID_FILE)?.trim().to_owned())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_boot_has_one_name() {
        let id = super::id().unwrap();
        assert_eq!(id.len(), "00000000-0000-0000-0000-000000000000".len(), "{id:?}");
        assert_eq!(super::id().unwrap(), id);
    }
}
