//! See [`flock_fuzz::annotations`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flock_fuzz::annotations::check(data));
