//! What can be wrong with annotations.

use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{ANYCAST, KEYS};
use crate::excerpt;
use crate::retry::Retry;

/// Why a pod's annotations can't be followed: every reason, not only the first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", listed(.problems, "; ", "and "))]
pub struct AnnotationError {
    /// At least one.
    pub problems: Vec<AnnotationProblem>,
}

/// One thing that is wrong with a pod's annotations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationProblem {
    /// A value that does not parse.
    #[error("annotation {key} is {}, expected {expected}", excerpt::quoted(.value))]
    Invalid {
        /// The annotation's key.
        key: &'static str,
        /// What was found, without the white space around it.
        value: String,
        /// What is allowed, in words.
        expected: String,
    },
    /// A key of Flock's that does not exist.
    #[error("annotation {} does not exist, expected one of {}; correct or remove it", excerpt::line(.key), KEYS.join(", "))]
    Unknown {
        /// The annotation's key.
        key: String,
    },
    /// The address and the part that it is to come from exclude each other.
    #[error(
        "annotation {key} is \"{value}\", which contradicts {cidr_key} \"{cidr}\"; remove one of the two"
    )]
    Contradiction {
        /// The key of the one.
        key: &'static str,
        /// `false` or an address.
        value: String,
        /// The key of the other.
        cidr_key: &'static str,
        /// The part that does not hold the address.
        cidr: String,
    },
    /// The pod asks for a family that the node does not have.
    #[error(
        "annotation {key} is \"{value}\", but this node has no {family} prefix: its NodeConfig sets no {node_key}; \
         remove the annotation or let the pod run on another node"
    )]
    FamilyMissing {
        /// The annotation's key.
        key: &'static str,
        /// What it says.
        value: String,
        /// `IPv6` or `IPv4`.
        family: &'static str,
        /// The key of the NodeConfig that would give the node that family.
        node_key: &'static str,
    },
    /// The pod would get no address.
    #[error(
        "no address family is left for this pod: the node has {}, and the pod's annotations refuse it; \
         remove flock.fritzlab.net/ipv6 or flock.fritzlab.net/ipv4 \"false\", or use the host's network",
        families(*.node_v6, *.node_v4)
    )]
    NoFamily {
        /// Whether the node has an IPv6 prefix.
        node_v6: bool,
        /// Whether the node has an IPv4 prefix.
        node_v4: bool,
    },
    /// An anycast address that would be a pod's own address as well.
    #[error(
        "annotation {ANYCAST} names {address}, which is in this node's prefix {prefix} for the pods' own addresses; \
         expected an address outside it"
    )]
    AnycastInPrefix {
        /// The anycast address.
        address: IpAddr,
        /// The node's prefix.
        prefix: IpNet,
    },
    /// An anycast address that the operator does not let pods have.
    #[error(
        "annotation {ANYCAST} names {address}, expected an address of {}; \
         a prefix that pods may serve has to be in spec.anycastPrefixes of the NodeConfig",
        prefixes(.allowed)
    )]
    AnycastNotAllowed {
        /// The anycast address.
        address: IpAddr,
        /// The prefixes whose addresses may be served.
        allowed: Vec<IpNet>,
    },
    /// An anycast address that the pod could not answer from.
    #[error(
        "annotation {ANYCAST} names {address}, but the pod gets no {} address and so has no route to answer by; \
         give it one or remove the anycast address",
        if .address.is_ipv6() { "IPv6" } else { "IPv4" }
    )]
    AnycastWithoutFamily {
        /// The anycast address.
        address: IpAddr,
    },
}

impl AnnotationError {
    /// Annotations stay wrong until somebody changes them.
    pub fn retry(&self) -> Retry {
        Retry::Never
    }

    pub(super) fn unless_empty(problems: Vec<AnnotationProblem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }
}

fn prefixes(allowed: &[IpNet]) -> String {
    if allowed.is_empty() {
        return "a prefix that is allowed, and this node allows none".to_owned();
    }
    listed(allowed, " or ", "")
}

/// As many as are read; a pod may have thousands of annotations.
fn listed(things: &[impl Display], between: &str, last: &str) -> String {
    const SHOWN: usize = 8;
    let mut shown: Vec<String> = things.iter().take(SHOWN).map(ToString::to_string).collect();
    if things.len() > SHOWN {
        shown.push(format!("{last}{} more", things.len() - SHOWN));
    }
    shown.join(between)
}

fn families(v6: bool, v4: bool) -> &'static str {
    match (v6, v4) {
        (true, true) => "IPv6 and IPv4",
        (true, false) => "IPv6 only",
        (false, true) => "IPv4 only",
        (false, false) => "no prefix at all",
    }
}
