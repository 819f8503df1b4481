//! See [`flock_fuzz::record`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flock_fuzz::record::check(data));
