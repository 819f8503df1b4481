//! What somebody else may have done to the node.

use std::collections::BTreeSet;

use crate::name::InterfaceName;

/// What is worth a look, since somebody else may have changed it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disturbance {
    /// Host sides, by their names on the node: themselves, or the addresses, routes and
    /// neighbour entries over them.
    pub interfaces: BTreeSet<InterfaceName>,
    /// The node's own: summaries, anycast routes, the pods' gateway, settings.
    pub node: bool,
    /// Anything at all: there was more than could be kept, or it is not known what.
    pub everything: bool,
}

impl Disturbance {
    /// Of the host side of that name.
    pub fn of_interface(interface: InterfaceName) -> Self {
        Self { interfaces: BTreeSet::from([interface]), ..Self::default() }
    }

    /// Of the node itself.
    pub fn of_node() -> Self {
        Self { node: true, ..Self::default() }
    }

    /// Of anything.
    pub fn of_everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Whether there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.interfaces.is_empty() && !self.node && !self.everything
    }

    /// Both, where `other` came later or before.
    pub fn merge(&mut self, other: Self) {
        self.interfaces.extend(other.interfaces);
        self.node |= other.node;
        self.everything |= other.everything;
    }
}
