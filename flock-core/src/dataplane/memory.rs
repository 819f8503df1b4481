//! In memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ipnet::IpNet;
use tokio::sync::Notify;

use super::{
    AnycastRoute, AnycastServer, AnycastState, Dataplane, DataplaneError, Disturbance, Drift, FoundLink,
    Link, NodeDrift, NodeFacts, NodeWanted, Side, Stray,
};
use crate::attachment::{Addresses, Attachment, AttachmentKey, GATEWAY_V4, GATEWAY_V6, Netns};
use crate::name::InterfaceName;

mod node;

use node::Damage;

/// A model of the kernel: namespaces that a test declares, links, routes.
///
/// Where the kernel has links and routes, this has entries in maps, that a test
/// can look at to find what was left over. It can be told to fail, also halfway, and to
/// lose things as if somebody else had removed them.
#[derive(Debug, Default)]
pub struct MemoryDataplane {
    model: Mutex<Model>,
    /// Wakes who waits for a disturbance.
    noticed: Notify,
}

#[derive(Debug, Default)]
struct Model {
    facts: NodeFacts,
    namespaces: HashMap<PathBuf, Namespace>,
    namespaces_made: u64,
    /// By their names on the node.
    links: BTreeMap<InterfaceName, LinkModel>,
    /// The routes to pods' own addresses, with the link that each leads over.
    routes: BTreeMap<IpNet, InterfaceName>,
    summaries: BTreeSet<IpNet>,
    anycast: BTreeMap<IpAddr, Served>,
    /// What was not told yet.
    disturbance: Disturbance,
    damage: Damage,
    calls: u64,
    failing_call: Option<u64>,
}

/// A route to an anycast address.
#[derive(Debug, PartialEq, Eq)]
struct Served {
    servers: BTreeSet<AnycastServer>,
    state: AnycastState,
}

#[derive(Debug)]
struct Namespace {
    inode: u64,
    /// Interfaces that others made.
    foreign: BTreeSet<InterfaceName>,
}

#[derive(Debug)]
struct LinkModel {
    /// `None` for an interface that others made.
    attachment: Option<Attachment>,
}

/// The device that all namespace files of the model are on.
const DEVICE: u64 = 4;

impl MemoryDataplane {
    /// A node without pods, whose facts are those of a small lab.
    pub fn new() -> Self {
        let facts = NodeFacts {
            default_mtu: Some(1500),
            addresses: vec![IpAddr::V6(GATEWAY_V6), IpAddr::V4(GATEWAY_V4)],
            first_global_ipv4: Some(Ipv4Addr::new(192, 0, 2, 1)),
        };
        let dataplane = Self::default();
        dataplane.lock().facts = facts;
        dataplane
    }

    /// What [`prepare`](Dataplane::prepare) is to find.
    pub fn set_facts(&self, facts: NodeFacts) {
        self.lock().facts = facts;
    }

    /// Declares a network namespace, or another one in the place of the one that was there.
    pub fn add_namespace(&self, path: impl Into<PathBuf>) -> Netns {
        let path = path.into();
        self.remove_namespace(&path);
        let mut model = self.lock();
        model.namespaces_made += 1;
        let inode = model.namespaces_made;
        model.namespaces.insert(path.clone(), Namespace { inode, foreign: BTreeSet::new() });
        Netns { path, device: DEVICE, inode }
    }

    /// Takes a namespace away, and with it every link that has an end in it.
    pub fn remove_namespace(&self, path: &Path) {
        if let Some(netns) = self.unmount_namespace(path) {
            self.end_namespace(&netns);
        }
    }

    /// Takes the path of a namespace away, which itself lives on: a process is in it. Its
    /// links stay until [`end_namespace`](Self::end_namespace).
    pub fn unmount_namespace(&self, path: &Path) -> Option<Netns> {
        let gone = self.lock().namespaces.remove(path)?;
        Some(Netns { path: path.to_owned(), device: DEVICE, inode: gone.inode })
    }

    /// Ends a namespace that has no path any more, and with it every link that has an end in it.
    pub fn end_namespace(&self, netns: &Netns) {
        let mut model = self.lock();
        let made_in =
            |link: &LinkModel| link.attachment.as_ref().is_some_and(|made| made.netns.is_same(netns));
        let links = model.links.iter().filter(|(_, link)| made_in(link));
        let links: Vec<InterfaceName> = links.map(|(name, _)| name.clone()).collect();
        for name in links {
            model.remove_link(&name);
        }
    }

    /// Puts an interface that is not Flock's into a pod's namespace.
    pub fn add_foreign_pod_interface(&self, path: &Path, interface: InterfaceName) {
        if let Some(namespace) = self.lock().namespaces.get_mut(path) {
            namespace.foreign.insert(interface);
        }
    }

    /// Puts an interface that is not Flock's onto the node.
    pub fn add_foreign_host_interface(&self, interface: InterfaceName) {
        self.lock().links.insert(interface, LinkModel { attachment: None });
    }

    /// Takes an interface of others away from the node.
    pub fn remove_foreign_host_interface(&self, interface: &InterfaceName) {
        let mut model = self.lock();
        if model.links.get(interface).is_some_and(|link| link.attachment.is_none()) {
            model.links.remove(interface);
        }
    }

    /// Makes the `nth` call of a trait method from now on fail, counted from 1.
    /// An `attach` fails halfway: with a link and without routes.
    pub fn fail_call(&self, nth: u64) {
        let mut model = self.lock();
        model.failing_call = Some(model.calls + nth);
    }

    /// How many calls of trait methods there were.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// The links of Flock.
    pub fn links(&self) -> Vec<Link> {
        self.lock().own_links()
    }

    /// The routes to pods' own addresses.
    pub fn routes(&self) -> BTreeSet<IpNet> {
        self.lock().routes.keys().copied().collect()
    }

    /// Where the routes over a link lead to.
    pub fn routes_over(&self, interface: &InterfaceName) -> Vec<IpNet> {
        let model = self.lock();
        model.routes.iter().filter(|(_, over)| *over == interface).map(|(prefix, _)| *prefix).collect()
    }

    /// The blackhole routes.
    pub fn summaries(&self) -> BTreeSet<IpNet> {
        self.lock().summaries.clone()
    }

    /// The routes to anycast addresses in one state, over the links that are there.
    pub fn anycast(&self, state: AnycastState) -> BTreeMap<IpAddr, BTreeSet<AnycastServer>> {
        let model = self.lock();
        let routes = model.anycast.iter().filter(|(_, served)| served.state == state);
        routes.map(|(address, served)| (*address, served.servers.clone())).collect()
    }

    /// Whether the attachment has its link and all its routes.
    pub fn is_attached(&self, key: &AttachmentKey) -> bool {
        let model = self.lock();
        model.links.iter().any(|(name, link)| {
            link.attachment.as_ref().is_some_and(|made| {
                made.key == *key
                    && made.addresses.prefixes().all(|prefix| model.routes.get(&prefix) == Some(name))
            })
        })
    }

    fn lock(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model, for one more call of a trait method.
    fn call(&self) -> Result<MutexGuard<'_, Model>, DataplaneError> {
        let mut model = self.lock();
        if model.count_call() { Err(model.failure()) } else { Ok(model) }
    }
}

#[async_trait]
impl Dataplane for MemoryDataplane {
    async fn prepare(&self) -> Result<NodeFacts, DataplaneError> {
        let mut model = self.call()?;
        model.prepare();
        Ok(model.facts.clone())
    }

    async fn identify(&self, path: &Path) -> Result<Netns, DataplaneError> {
        let model = self.call()?;
        let namespace = model.namespace(path)?;
        Ok(Netns { path: path.to_owned(), device: DEVICE, inode: namespace.inode })
    }

    async fn attach(&self, attachment: &Attachment) -> Result<(), DataplaneError> {
        let mut model = self.lock();
        let fails = model.count_call();
        let made = model.add_link(attachment);
        let is_half_made = made.is_err() && !model.has_link_out_of_reach(attachment);
        if fails || is_half_made {
            return made.and(Err(model.failure()));
        }
        for prefix in attachment.addresses.prefixes() {
            model.routes.insert(prefix, attachment.host_interface.clone());
        }
        made
    }

    async fn detach(&self, attachment: &Attachment) -> Result<(), DataplaneError> {
        let mut model = self.call()?;
        for prefix in attachment.addresses.prefixes() {
            if model.routes.get(&prefix) == Some(&attachment.host_interface) {
                model.routes.remove(&prefix);
            }
        }
        Ok(())
    }

    async fn reap(&self, links: &[Link]) -> Result<(), DataplaneError> {
        let mut model = self.call()?;
        for link in links {
            let made = model.links.get(&link.interface).and_then(|link| link.attachment.as_ref());
            if made.is_some_and(|made| link.owner.as_ref() == Some(&made.key)) {
                model.remove_link(&link.interface);
            }
        }
        Ok(())
    }

    async fn check(&self, attachments: &[Attachment]) -> Result<Vec<Vec<Drift>>, DataplaneError> {
        let model = self.call()?;
        Ok(attachments.iter().map(|attachment| model.differences(attachment)).collect())
    }

    async fn list(&self) -> Result<Vec<FoundLink>, DataplaneError> {
        Ok(self.call()?.found_links())
    }

    async fn set_summaries(&self, prefixes: &BTreeSet<IpNet>) -> Result<(), DataplaneError> {
        self.call()?.summaries.clone_from(prefixes);
        Ok(())
    }

    async fn set_anycast(&self, routes: &[AnycastRoute]) -> Result<(), DataplaneError> {
        let mut model = self.call()?;
        model.anycast = model.anycast_of(routes);
        Ok(())
    }

    async fn announced_anycast(&self) -> Result<Vec<(IpAddr, InterfaceName)>, DataplaneError> {
        drop(self.call()?);
        let over = |(address, servers): (IpAddr, BTreeSet<AnycastServer>)| {
            servers.into_iter().map(move |server| (address, server.host_interface))
        };
        Ok(self.anycast(AnycastState::Announced).into_iter().flat_map(over).collect())
    }

    /// Is no call that counts: it waits, and others go on meanwhile.
    async fn disturbed(&self) -> Result<Disturbance, DataplaneError> {
        loop {
            let told = std::mem::take(&mut self.lock().disturbance);
            if !told.is_empty() {
                return Ok(told);
            }
            self.noticed.notified().await;
        }
    }

    async fn check_node(&self, wanted: &NodeWanted) -> Result<Vec<NodeDrift>, DataplaneError> {
        Ok(self.call()?.node_differences(wanted))
    }

    async fn remove_strays(&self, strays: &[Stray]) -> Result<(), DataplaneError> {
        self.call()?.remove_strays(strays);
        Ok(())
    }
}

impl Model {
    /// Whether this call is the one that is to fail.
    fn count_call(&mut self) -> bool {
        self.calls += 1;
        self.failing_call == Some(self.calls)
    }

    fn failure(&self) -> DataplaneError {
        DataplaneError::Backend(format!("call {} was told to fail", self.calls))
    }

    fn namespace(&self, path: &Path) -> Result<&Namespace, DataplaneError> {
        self.namespaces.get(path).ok_or_else(|| DataplaneError::NotANamespace {
            path: path.to_owned(),
            reason: "there is no such namespace".to_owned(),
        })
    }

    fn add_link(&mut self, attachment: &Attachment) -> Result<(), DataplaneError> {
        let path = &attachment.netns.path;
        let namespace = self.namespace(path)?;
        if namespace.inode != attachment.netns.inode || attachment.netns.device != DEVICE {
            return Err(DataplaneError::NamespaceChanged { path: path.clone() });
        }
        let name = &attachment.host_interface;
        if let Some(link) = self.links.get(name) {
            let owner = link.attachment.as_ref().map(|made| &made.key);
            if owner != Some(&attachment.key) {
                let owner = owner.map_or_else(|| "somebody else".to_owned(), ToString::to_string);
                return Err(DataplaneError::HostInterfaceTaken { interface: name.clone(), owner });
            }
        }
        let interface = &attachment.key.interface;
        let is_taken = self.links.iter().any(|(other, link)| {
            let made = link.attachment.as_ref();
            other != name
                && made.is_some_and(|made| {
                    made.netns.is_same(&attachment.netns) && made.key.interface == *interface
                })
        });
        if is_taken || namespace.foreign.contains(interface) {
            return Err(DataplaneError::InterfaceExists {
                interface: interface.clone(),
                netns: path.clone(),
            });
        }
        self.links.insert(name.clone(), LinkModel { attachment: Some(attachment.clone()) });
        Ok(())
    }

    /// Whether it has its link, and its namespace can't be found.
    fn has_link_out_of_reach(&self, attachment: &Attachment) -> bool {
        let link = self.links.get(&attachment.host_interface).and_then(|link| link.attachment.as_ref());
        let found = self.namespace(&attachment.netns.path);
        link.is_some_and(|made| made.key == attachment.key)
            && !found.is_ok_and(|namespace| namespace.inode == attachment.netns.inode)
    }

    /// As in the kernel: routes over a link go with it.
    fn remove_link(&mut self, name: &InterfaceName) {
        self.links.remove(name);
        self.routes.retain(|_, over| over != name);
        for served in self.anycast.values_mut() {
            served.servers.retain(|server| server.host_interface != *name);
        }
        self.anycast.retain(|_, served| !served.servers.is_empty());
    }

    /// `routes` over the links that are there.
    fn anycast_of(&self, routes: &[AnycastRoute]) -> BTreeMap<IpAddr, Served> {
        let over = |route: &AnycastRoute| {
            let servers = route.servers.iter().filter(|server| self.has_link_of(server)).cloned();
            (route.address, Served { servers: servers.collect(), state: route.state })
        };
        let all = routes.iter().map(over);
        all.filter(|(_, served)| !served.servers.is_empty()).collect()
    }

    fn has_link_of(&self, server: &AnycastServer) -> bool {
        let made = self.links.get(&server.host_interface).and_then(|link| link.attachment.as_ref());
        made.is_some_and(|made| made.key == server.key)
    }

    fn own_links(&self) -> Vec<Link> {
        self.links.values().filter_map(|link| link.attachment.as_ref()).map(Link::of).collect()
    }

    fn found_links(&self) -> Vec<FoundLink> {
        let found = |made: &Attachment| {
            let mut addresses = Addresses::default();
            for (prefix, _) in self.routes.iter().filter(|(_, link)| **link == made.host_interface) {
                match prefix.addr() {
                    IpAddr::V6(address) => addresses.ipv6 = Some(address),
                    IpAddr::V4(address) => addresses.ipv4 = Some(address),
                }
            }
            FoundLink { link: Link::of(made), addresses, mtu: made.mtu }
        };
        self.links.values().filter_map(|link| link.attachment.as_ref()).map(found).collect()
    }

    fn differences(&self, attachment: &Attachment) -> Vec<Drift> {
        let mut found = Vec::new();
        let path = &attachment.netns.path;
        let is_there = self.namespace(path).is_ok_and(|namespace| namespace.inode == attachment.netns.inode);
        if !is_there {
            found.push(Drift::NamespaceGone(path.clone()));
        }
        let made = match self.links.get(&attachment.host_interface) {
            None => {
                found.push(Drift::LinkMissing(Side::Host));
                if is_there {
                    found.push(Drift::LinkMissing(Side::Pod));
                }
                return found;
            }
            Some(link) => link.attachment.as_ref().filter(|made| made.key == attachment.key),
        };
        let Some(made) = made else {
            found.push(Drift::LinkForeign(Side::Host));
            return found;
        };
        if made.mtu != attachment.mtu {
            found.extend([Side::Host, Side::Pod].map(|side| Drift::Mtu {
                side,
                expected: attachment.mtu,
                found: made.mtu,
            }));
        }
        for address in attachment.addresses.iter().chain(attachment.anycast.iter().copied()) {
            if !made.addresses.iter().chain(made.anycast.iter().copied()).any(|other| other == address) {
                found.push(Drift::AddressMissing(Side::Pod, address));
            }
        }
        for prefix in attachment.addresses.prefixes() {
            if self.routes.get(&prefix) != Some(&attachment.host_interface) {
                found.push(Drift::RouteMissing(Side::Host, prefix));
            }
        }
        found
    }
}
