//! Which addresses pods may have beside those of the node's prefixes: [`AllowedPrefixes`].

use std::net::IpAddr;

use ipnet::IpNet;

use crate::attachment::NodeCidrs;
use crate::excerpt::quoted;

/// Of each list. A route filter of more is an export of somebody's address plan.
const MAX_PREFIXES: usize = 256;

/// The operator's say: a pod that asks for an address outside of these, and outside of the
/// node's own prefixes, is refused, so that no pod takes an address that is somebody else's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedPrefixes {
    /// Addresses that pods may serve beside their own, on several nodes at a time. None by default.
    pub anycast: Vec<IpNet>,
    /// Addresses that a pod may ask to be given exactly, wherever it runs. None by default.
    pub fixed: Vec<IpNet>,
}

impl AllowedPrefixes {
    /// Whether pods may serve this address.
    pub fn allow_anycast(&self, address: IpAddr) -> bool {
        contain(&self.anycast, address)
    }

    /// Whether a pod may be given this address, though it is in no prefix of the node.
    pub fn allow_fixed(&self, address: IpAddr) -> bool {
        contain(&self.fixed, address)
    }

    pub(super) fn read(
        anycast: &[String],
        fixed: &[String],
        cidrs: NodeCidrs,
        problems: &mut Vec<String>,
    ) -> Self {
        let anycast = prefixes("spec.anycastPrefixes", anycast, problems);
        let fixed = prefixes("spec.staticPrefixes", fixed, problems);
        for (index, prefix) in anycast.iter().enumerate() {
            let field = format!("spec.anycastPrefixes[{index}] is {prefix}");
            // An address that one pod has to itself can't be served by others too.
            let others = fixed.iter().map(|other| (*other, "spec.staticPrefixes"));
            let others = others.chain(cidrs.iter().map(|own| (own, "the node's own prefixes")));
            for (other, whose) in others.filter(|(other, _)| overlap(*prefix, *other)) {
                problems
                    .push(format!("{field}, which overlaps {other} of {whose}; expected one that does not"));
            }
        }
        Self { anycast, fixed }
    }
}

fn contain(prefixes: &[IpNet], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.contains(&address))
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

fn prefixes(field: &str, texts: &[String], problems: &mut Vec<String>) -> Vec<IpNet> {
    if texts.len() > MAX_PREFIXES {
        problems.push(format!("{field} has {} prefixes, expected at most {MAX_PREFIXES}", texts.len()));
        return Vec::new();
    }
    let read = |(index, text): (usize, &String)| {
        let field = format!("{field}[{index}]");
        let Ok(net) = text.parse::<IpNet>() else {
            problems.push(format!(
                "{field} is {}, expected a prefix like 2001:db8:a::/48 or 198.51.100.0/24",
                quoted(text)
            ));
            return None;
        };
        super::usable_prefix(&field, net, problems).then_some(net)
    };
    texts.iter().enumerate().filter_map(read).collect()
}
