//! What a pod may ask for in its annotations: [`Annotations`].
//!
//! | key | values | default |
//! |---|---|---|
//! | `flock.fritzlab.net/ipv6`, `…/ipv4` | `true`, `false`, or one address to be given exactly, of the node's prefix or of one that its NodeConfig allows | `true` where the node has that family |
//! | `…/cidr6`, `…/cidr4` | take the address from this part of the node's prefix | the whole prefix |
//! | `…/ip-algo` | `sequential`, `random`, `stable` | `sequential` |
//! | `…/anycast` | comma-separated addresses, at most 64, that this pod serves beside its own, of prefixes that the NodeConfig allows | none |
//!
//! A pod is never given something else than it asked for. So whatever is not
//! understood is an error, also a key of Flock's that does not exist (it may be
//! misspelt), and annotations that contradict each other. Annotations of others
//! are not looked at.

mod error;
mod value;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

pub use self::error::{AnnotationError, AnnotationProblem};
use self::value::{Family, V4, V6};
use crate::attachment::NodeCidrs;
use crate::ipam::{AddressRequest, Algorithm, FamilyRequest};
use crate::node_config::AllowedPrefixes;

/// What the keys of all annotations of Flock begin with.
pub const PREFIX: &str = "flock.fritzlab.net/";

/// Whether the pod gets an IPv6 address, and which.
pub const IPV6: &str = "flock.fritzlab.net/ipv6";
/// Whether the pod gets an IPv4 address, and which.
pub const IPV4: &str = "flock.fritzlab.net/ipv4";
/// The part of the node's IPv6 prefix that the address comes from.
pub const CIDR6: &str = "flock.fritzlab.net/cidr6";
/// The part of the node's IPv4 prefix that the address comes from.
pub const CIDR4: &str = "flock.fritzlab.net/cidr4";
/// How an address is chosen.
pub const IP_ALGO: &str = "flock.fritzlab.net/ip-algo";
/// Which addresses the pod serves beside its own.
pub const ANYCAST: &str = "flock.fritzlab.net/anycast";

/// All keys that exist.
pub const KEYS: [&str; 6] = [IPV6, IPV4, CIDR6, CIDR4, IP_ALGO, ANYCAST];

/// What a pod asks for: valid by itself, before it is known which node it is on.
///
/// # Example
///
/// ```
/// use std::collections::BTreeMap;
///
/// use flock_core::annotations::Annotations;
/// use flock_core::attachment::NodeCidrs;
/// use flock_core::ipam::FamilyRequest;
/// use flock_core::node_config::AllowedPrefixes;
///
/// let of_the_pod = BTreeMap::from([
///     ("flock.fritzlab.net/ipv4".to_owned(), "false".to_owned()),
///     ("flock.fritzlab.net/anycast".to_owned(), "2001:db8::53".to_owned()),
///     ("prometheus.io/scrape".to_owned(), "true".to_owned()),
/// ]);
/// let annotations = Annotations::parse(&of_the_pod)?;
///
/// let node = NodeCidrs { ipv6: "2001:db8:1::/64".parse().ok(), ipv4: "10.0.1.0/24".parse().ok() };
/// let allowed = AllowedPrefixes { anycast: vec!["2001:db8::/120".parse().unwrap()], fixed: vec![] };
/// let request = annotations.request(&node, &allowed)?;
/// assert_eq!(request.ipv6, FamilyRequest::Any);
/// assert_eq!(request.ipv4, FamilyRequest::None);
/// assert_eq!(annotations.anycast().len(), 1);
/// # Ok::<(), flock_core::annotations::AnnotationError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    ipv6: Wish<Ipv6Addr>,
    ipv4: Wish<Ipv4Addr>,
    cidr6: Option<Ipv6Net>,
    cidr4: Option<Ipv4Net>,
    algorithm: Option<Algorithm>,
    anycast: Vec<IpAddr>,
}

/// What a pod says about one family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Wish<A> {
    /// Nothing: an address where the node has that family.
    #[default]
    Unsaid,
    /// `true`: an address, or an error where the node doesn't have that family.
    Yes,
    /// `false`: no address.
    No,
    /// This address and no other.
    Exactly(A),
}

impl Annotations {
    /// Reads the annotations of a pod, all of them; those of others are passed over.
    ///
    /// The error names every annotation that is wrong, not only the first.
    pub fn parse(annotations: &BTreeMap<String, String>) -> Result<Self, AnnotationError> {
        let mut problems = Vec::new();
        for key in annotations.keys() {
            if key.starts_with(PREFIX) && !KEYS.contains(&key.as_str()) {
                problems.push(AnnotationProblem::Unknown { key: key.clone() });
            }
        }
        // Block scalars of YAML end with a newline that nobody sees.
        let text = |key: &str| annotations.get(key).map(|value| value.trim());
        let parsed = Self {
            ipv6: value::wish::<V6>(text(IPV6), &mut problems),
            ipv4: value::wish::<V4>(text(IPV4), &mut problems),
            cidr6: value::cidr::<V6>(text(CIDR6), &mut problems),
            cidr4: value::cidr::<V4>(text(CIDR4), &mut problems),
            algorithm: value::algorithm(text(IP_ALGO), &mut problems),
            anycast: value::anycast(text(ANYCAST), &mut problems),
        };
        contradiction::<V6>(parsed.ipv6, parsed.cidr6, &mut problems);
        contradiction::<V4>(parsed.ipv4, parsed.cidr4, &mut problems);
        AnnotationError::unless_empty(problems)?;
        Ok(parsed)
    }

    /// What the pod gets on a node with `cidrs`, whose pods may have addresses of `allowed` too.
    ///
    /// Whether an address that is not allowed, or a part, lies in the node's prefix is for
    /// [`Ipam`](crate::ipam::Ipam) to say.
    pub fn request(
        &self,
        cidrs: &NodeCidrs,
        allowed: &AllowedPrefixes,
    ) -> Result<AddressRequest, AnnotationError> {
        let mut problems = Vec::new();
        let request = AddressRequest {
            ipv6: granted::<V6>(self.ipv6, cidrs.ipv6, allowed)
                .unwrap_or_else(|| resolve::<V6>(self.ipv6, self.cidr6, cidrs.ipv6, &mut problems)),
            ipv4: granted::<V4>(self.ipv4, cidrs.ipv4, allowed)
                .unwrap_or_else(|| resolve::<V4>(self.ipv4, self.cidr4, cidrs.ipv4, &mut problems)),
            algorithm: self.algorithm.unwrap_or_default(),
        };
        let (has_v6, has_v4) = (request.ipv6 != FamilyRequest::None, request.ipv4 != FamilyRequest::None);
        if problems.is_empty() && !has_v6 && !has_v4 {
            problems.push(AnnotationProblem::NoFamily {
                node_v6: cidrs.ipv6.is_some(),
                node_v4: cidrs.ipv4.is_some(),
            });
        }
        if problems.is_empty() {
            for &address in &self.anycast {
                if let Some(prefix) = cidrs.iter().find(|prefix| prefix.contains(&address)) {
                    problems.push(AnnotationProblem::AnycastInPrefix { address, prefix });
                } else if !allowed.allow_anycast(address) {
                    let allowed = allowed.anycast.clone();
                    problems.push(AnnotationProblem::AnycastNotAllowed { address, allowed });
                } else if (address.is_ipv6() && !has_v6) || (address.is_ipv4() && !has_v4) {
                    problems.push(AnnotationProblem::AnycastWithoutFamily { address });
                }
            }
        }
        AnnotationError::unless_empty(problems)?;
        Ok(request)
    }

    /// What is said about IPv6.
    pub fn ipv6(&self) -> Wish<Ipv6Addr> {
        self.ipv6
    }

    /// What is said about IPv4.
    pub fn ipv4(&self) -> Wish<Ipv4Addr> {
        self.ipv4
    }

    /// The part of the node's IPv6 prefix that the address comes from, where it is said.
    pub fn cidr6(&self) -> Option<Ipv6Net> {
        self.cidr6
    }

    /// The part of the node's IPv4 prefix that the address comes from, where it is said.
    pub fn cidr4(&self) -> Option<Ipv4Net> {
        self.cidr4
    }

    /// How an address is chosen, where it is said.
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.algorithm
    }

    /// The addresses that the pod serves beside its own: each once, in the order given.
    pub fn anycast(&self) -> &[IpAddr] {
        &self.anycast
    }

    /// The annotations that [`parse`](Self::parse) reads back as this.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let anycast: Vec<String> = self.anycast.iter().map(ToString::to_string).collect();
        [
            (IPV6, value::wish_text(self.ipv6)),
            (IPV4, value::wish_text(self.ipv4)),
            (CIDR6, self.cidr6.map(|cidr| cidr.to_string())),
            (CIDR4, self.cidr4.map(|cidr| cidr.to_string())),
            (IP_ALGO, self.algorithm.map(|algorithm| value::algorithm_text(algorithm).to_owned())),
            (ANYCAST, (!anycast.is_empty()).then(|| anycast.join(","))),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
    }
}

fn contradiction<F: Family>(
    wish: Wish<F::Address>,
    cidr: Option<F::Net>,
    problems: &mut Vec<AnnotationProblem>,
) {
    let (Some(cidr), Some(value)) = (cidr, value::wish_text(wish)) else { return };
    let contradicts = match wish {
        Wish::No => true,
        Wish::Exactly(address) => !F::contains(cidr, address),
        Wish::Unsaid | Wish::Yes => false,
    };
    if contradicts {
        problems.push(AnnotationProblem::Contradiction {
            key: F::WISH_KEY,
            value,
            cidr_key: F::CIDR_KEY,
            cidr: cidr.to_string(),
        });
    }
}

/// An address outside the node's prefix that the operator allows.
fn granted<F: Family>(
    wish: Wish<F::Address>,
    of_the_node: Option<F::Net>,
    allowed: &AllowedPrefixes,
) -> Option<FamilyRequest<F::Address, F::Net>> {
    let Wish::Exactly(address) = wish else { return None };
    let is_of_the_node = of_the_node.is_some_and(|net| F::contains(net, address));
    (!is_of_the_node && allowed.allow_fixed(address.into())).then_some(FamilyRequest::Granted(address))
}

fn resolve<F: Family>(
    wish: Wish<F::Address>,
    cidr: Option<F::Net>,
    of_the_node: Option<F::Net>,
    problems: &mut Vec<AnnotationProblem>,
) -> FamilyRequest<F::Address, F::Net> {
    if of_the_node.is_none() {
        let asked = value::wish_text(wish).map(|value| (F::WISH_KEY, value)).filter(|_| wish != Wish::No);
        let asked = asked.or_else(|| cidr.map(|cidr| (F::CIDR_KEY, cidr.to_string())));
        if let Some((key, value)) = asked {
            problems.push(AnnotationProblem::FamilyMissing {
                key,
                value,
                family: F::NAME,
                node_key: F::NODE_KEY,
            });
        }
        return FamilyRequest::None;
    }
    match (wish, cidr) {
        (Wish::No, _) => FamilyRequest::None,
        (Wish::Exactly(address), _) => FamilyRequest::Exactly(address),
        (Wish::Unsaid | Wish::Yes, Some(cidr)) => FamilyRequest::From(cidr),
        (Wish::Unsaid | Wish::Yes, None) => FamilyRequest::Any,
    }
}

#[cfg(test)]
mod tests;
