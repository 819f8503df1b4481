//! See [`flock_fuzz::bird_reply`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flock_fuzz::bird_reply::check(data));
