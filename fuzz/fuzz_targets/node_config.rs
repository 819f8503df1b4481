//! See [`flock_fuzz::node_config`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flock_fuzz::node_config::check(data));
