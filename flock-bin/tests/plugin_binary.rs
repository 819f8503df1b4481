//! The plugin as it is installed: static and small.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

use std::fs;
use std::process::{Command, Stdio};

/// 1.5 MiB; a larger one takes longer to map for every verb of every pod.
const LIMIT: usize = 1_572_864;

/// The program header of a program that is linked at run time (ELF, "Program Header").
const PT_INTERP: u32 = 3;

#[test]
#[ignore = "needs FLOCK_PLUGIN, the path of the plugin built with the profile `plugin`"]
fn it_is_static_and_small() {
    let path = std::env::var("FLOCK_PLUGIN").expect("FLOCK_PLUGIN must name the plugin that was built");
    let file =
        fs::read(&path).unwrap_or_else(|error| panic!("FLOCK_PLUGIN is {path}: {error}; build it first"));
    assert!(file.len() <= LIMIT, "{path} has {} bytes, expected at most {LIMIT}", file.len());
    assert_eq!(&file[..6], b"\x7fELF\x02\x01", "{path} is not a 64-bit little-endian ELF file");
    let half = |at: usize| usize::from(u16::from_le_bytes(file[at..at + 2].try_into().unwrap()));
    let offset = usize::try_from(u64::from_le_bytes(file[32..40].try_into().unwrap())).unwrap();
    let (size, count) = (half(54), half(56));
    assert!(count > 0, "{path} has no program headers");
    for at in (0..count).map(|index| offset + index * size) {
        let kind = u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        assert_ne!(kind, PT_INTERP, "{path} is linked dynamically");
    }
    let mut version = Command::new(&path);
    version.env_clear().env("CNI_COMMAND", "VERSION").stdin(Stdio::null());
    let output = version.output().unwrap();
    assert!(output.status.success() && output.stdout.starts_with(b"{\"cniVersion\":\"1.1.0\""), "{output:?}");
}
