//! The variable `CNI_ARGS`.

use flock_core::cni::{Args, Code};

use crate::message::assert_names;

/// Reads `data` as `CNI_ARGS`; what is not UTF-8 is replaced, as the plugin does it.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let args = match Args::parse(&text) {
        Ok(args) => args,
        Err(error) => {
            assert_eq!(error.code, Code::INVALID_ENVIRONMENT);
            return assert_names(&error, &["CNI_ARGS"]);
        }
    };
    assert!(args.ignore_unknown || args.unknown.is_empty(), "unknown keys that nobody allowed: {args:?}");
    for (key, value) in &args.unknown {
        assert!(!key.is_empty() && !key.contains([';', '=']) && !value.contains(';'), "{key:?}={value:?}");
    }
    for known in [&args.pod_uid, &args.infra_container].into_iter().flatten() {
        assert!(!known.is_empty() && !known.contains(';'), "{known:?}");
    }
    if let Some(pod) = &args.pod {
        for name in [pod.namespace(), pod.name()] {
            assert!(is_dns_name(name), "{name:?}");
        }
    }
    assert_eq!(Args::parse(&args.to_string()).as_ref(), Ok(&args), "from {args}");
}

/// Nothing that could be a path, an option or markup.
fn is_dns_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
        && !name.starts_with(['-', '.'])
        && !name.contains("..")
}
