//! See [`flock_fuzz::deletion`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flock_fuzz::deletion::check(data));
