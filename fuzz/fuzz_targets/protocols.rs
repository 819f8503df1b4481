//! See [`flock_fuzz::protocols`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flock_fuzz::protocols::check(data));
