//! See [`flock_fuzz::frame`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flock_fuzz::frame::check(data));
