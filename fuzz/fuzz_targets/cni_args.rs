//! See [`flock_fuzz::cni_args`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flock_fuzz::cni_args::check(data));
