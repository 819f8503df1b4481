//! Names that would do harm as plain strings: each has a private field and one
//! fallible constructor, so that a value that exists is a value that is valid.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::excerpt;

/// A name that does not have the form its kind asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is not a valid {kind}: expected {expected}", excerpt::quoted(.value))]
pub struct NameError {
    /// What the name should have been, in words.
    pub kind: &'static str,
    /// What was found.
    pub value: String,
    /// The form that is accepted.
    pub expected: &'static str,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $expected:literal, $valid:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            #[doc = concat!("Accepts `value` if it is ", $expected, ".")]
            pub fn new(value: impl Into<String>) -> Result<Self, NameError> {
                let value = value.into();
                if $valid(&value) {
                    Ok(Self(value))
                } else {
                    Err(NameError { kind: $kind, value, expected: $expected })
                }
            }

            /// The name as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(value: &str) -> Result<Self, NameError> {
                Self::new(value)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(value: String) -> Result<Self, NameError> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name_type!(
    /// The runtime's name of a sandbox (CNI specification, `CNI_CONTAINERID`).
    ///
    /// The specification sets no length; 190 bytes leave room for the interface
    /// name in a link's alias (255 bytes) and in a file's name (255 bytes).
    ContainerId,
    "container id",
    "1 to 190 characters: a letter or digit, then letters, digits, '_', '.' or '-'",
    is_container_id
);

name_type!(
    /// The name of a network interface, as the CNI specification and Linux allow it, and
    /// not one that Linux would make something else of: of `eth%d` it makes `eth0`, and
    /// `all` and `default` stand for every interface where settings are made.
    InterfaceName,
    "interface name",
    "1 to 15 printable ASCII characters without '/', ':' and '%', and not '.', '..', 'all' or 'default'",
    is_interface_name
);

name_type!(
    /// The name of a CNI network configuration.
    ///
    /// The specification sets no length. libcni names files by it, and the name of a file has at
    /// most 255 bytes.
    NetworkName,
    "network name",
    "1 to 255 characters: a letter or digit, then letters, digits, '_', '.' or '-'",
    is_network_name
);

name_type!(
    /// The name of a node, a DNS subdomain (RFC 1123) as Kubernetes names it.
    NodeName,
    "node name",
    "1 to 253 lower-case letters, digits, '-' or '.', beginning and ending with a letter or digit",
    is_dns_subdomain
);

fn is_identifier(value: &str) -> bool {
    let mut bytes = value.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_container_id(value: &str) -> bool {
    value.len() <= 190 && is_identifier(value)
}

fn is_network_name(value: &str) -> bool {
    value.len() <= 255 && is_identifier(value)
}

fn is_interface_name(value: &str) -> bool {
    (1..=15).contains(&value.len())
        && !matches!(value, "." | ".." | "all" | "default")
        && value.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'))
}

fn is_dns_subdomain(value: &str) -> bool {
    (1..=253).contains(&value.len())
        && value.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

/// A pod by namespace and name. Displays as `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "PodKeyFields", into = "PodKeyFields")]
pub struct PodKey {
    namespace: String,
    name: String,
}

#[derive(Serialize, Deserialize)]
struct PodKeyFields {
    namespace: String,
    name: String,
}

impl PodKey {
    /// Accepts a namespace and a name that are each a DNS subdomain (RFC 1123).
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Result<Self, NameError> {
        let (namespace, name) = (namespace.into(), name.into());
        for (kind, value) in [("pod namespace", &namespace), ("pod name", &name)] {
            if !is_dns_subdomain(value) {
                return Err(NameError {
                    kind,
                    value: value.clone(),
                    expected: "1 to 253 lower-case letters, digits, '-' or '.', beginning and ending with a letter or digit",
                });
            }
        }
        Ok(Self { namespace, name })
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The pod's name within its namespace.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl TryFrom<PodKeyFields> for PodKey {
    type Error = NameError;
    fn try_from(fields: PodKeyFields) -> Result<Self, NameError> {
        Self::new(fields.namespace, fields.name)
    }
}

impl From<PodKey> for PodKeyFields {
    fn from(key: PodKey) -> Self {
        Self { namespace: key.namespace, name: key.name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_follow_the_specification() {
        for good in ["a", "0", "cnitool-77383ca0", "A_b.c-1"] {
            assert!(ContainerId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".", "a/b", "a b", "ä", "../x"] {
            assert!(ContainerId::new(bad).is_err(), "{bad}");
        }
        assert!(ContainerId::new("a".repeat(190)).is_ok());
        assert!(ContainerId::new("a".repeat(191)).is_err());
    }

    #[test]
    fn network_names_follow_the_specification() {
        for good in ["flock", "0", "a_b.c-1"] {
            assert!(NetworkName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a/b", "a b", "\u{e4}"] {
            assert!(NetworkName::new(bad).is_err(), "{bad}");
        }
        assert!(NetworkName::new("a".repeat(255)).is_ok());
        assert!(NetworkName::new("a".repeat(256)).is_err());
    }

    #[test]
    fn interface_names_follow_linux() {
        for good in ["eth0", "a", "fifteen-bytes-x", "net1@2", "-", "...", "lo", "All"] {
            assert!(InterfaceName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "../all",
            "a/b",
            "a:b",
            "a b",
            "sixteen-bytes-xx",
            "a\tb",
            "a\nb",
            "a\0b",
            "\u{1b}[2J",
            "eth%d",
            "%",
            "all",
            "default",
            "\u{e9}",
            "a\u{a0}b",
            "\u{202e}0hte",
        ] {
            assert!(InterfaceName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn node_names_are_dns_subdomains() {
        for good in ["host001", "a.b-c.d", "1"] {
            assert!(NodeName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "Host", "a..b", "-a", "a-", "a_b", ".a"] {
            assert!(NodeName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_says_what_was_found_and_what_was_expected() {
        let error = InterfaceName::new("a/b").unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"a/b\" is not a valid interface name: expected 1 to 15 printable ASCII characters without '/', ':' and '%', and not '.', '..', 'all' or 'default'"
        );
    }

    #[test]
    fn serde_goes_through_the_constructor() {
        assert!(serde_json::from_str::<ContainerId>("\"../etc\"").is_err());
        assert!(serde_json::from_str::<PodKey>(r#"{"namespace":"a/b","name":"c"}"#).is_err());
        let key = PodKey::new("default", "web-0").unwrap();
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<PodKey>(&json).unwrap(), key);
    }
}
