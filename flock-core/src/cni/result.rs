//! The result of ADD, as it is answered and as it comes back in `prevResult`.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::error::{Code, Error};
use super::json;
use super::version::SpecVersion;
use crate::attachment::{Attachment, GATEWAY_V4, GATEWAY_V6};
use crate::excerpt;

/// What ADD made, in the terms of no particular version (CNI specification, section 5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CniResult {
    /// The links on the node and in the sandbox.
    pub interfaces: Vec<Interface>,
    /// The addresses, in the order in which the pod's addresses are reported.
    pub ips: Vec<IpConfig>,
    /// The routes in the sandbox.
    pub routes: Vec<Route>,
    /// The resolver's configuration. Flock sets none and passes on that of others.
    pub dns: Dns,
}

/// A link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its link-layer address.
    #[serde(default)]
    pub mac: Option<String>,
    /// Its MTU in bytes (1.1.0).
    #[serde(default)]
    pub mtu: Option<u32>,
    /// The network namespace's path; `None` for a link on the node.
    #[serde(default, deserialize_with = "empty_is_none")]
    pub sandbox: Option<String>,
    /// The path of a vhost-user socket (1.1.0).
    #[serde(default)]
    pub socket_path: Option<String>,
    /// The PCI address of a device (1.1.0).
    #[serde(default, rename = "pciID")]
    pub pci_id: Option<String>,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IpConfig {
    /// Index into [`CniResult::interfaces`].
    #[serde(default)]
    pub interface: Option<usize>,
    /// The address with its prefix length.
    pub address: IpNet,
    /// The gateway.
    #[serde(default, deserialize_with = "empty_is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Route {
    /// The destination.
    pub dst: IpNet,
    /// The next hop.
    #[serde(default, deserialize_with = "empty_is_none")]
    pub gw: Option<IpAddr>,
    /// The path MTU in bytes (1.1.0).
    #[serde(default)]
    pub mtu: Option<u32>,
    /// The maximum segment size to advertise in bytes (1.1.0).
    #[serde(default)]
    pub advmss: Option<u32>,
    /// The metric, lower is better (1.1.0).
    #[serde(default)]
    pub priority: Option<i64>,
    /// The routing table (1.1.0).
    #[serde(default)]
    pub table: Option<u32>,
    /// The scope (1.1.0).
    #[serde(default)]
    pub scope: Option<u32>,
}

impl Route {
    /// A route without any of the attributes of 1.1.0.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// The resolver's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Dns {
    /// Addresses of name servers.
    #[serde(default)]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default)]
    pub domain: Option<String>,
    /// Domains to search.
    #[serde(default)]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(default)]
    pub options: Vec<String>,
}

impl CniResult {
    /// What Flock answers for an attachment: the host side, the pod side, the pod's
    /// own addresses (IPv6 first) and a default route for each family that it has.
    pub fn of(attachment: &Attachment) -> Self {
        let macs = attachment.key.mac_addresses();
        let host = Interface {
            name: attachment.host_interface.to_string(),
            mac: Some(macs.host.to_string()),
            mtu: Some(attachment.mtu),
            ..Interface::default()
        };
        let pod = Interface {
            name: attachment.key.interface.to_string(),
            mac: Some(macs.pod.to_string()),
            mtu: Some(attachment.mtu),
            sandbox: Some(attachment.netns.path.display().to_string()),
            ..Interface::default()
        };
        let gateway = |address: IpAddr| match address {
            IpAddr::V6(_) => IpAddr::V6(GATEWAY_V6),
            IpAddr::V4(_) => IpAddr::V4(GATEWAY_V4),
        };
        let default_route = |address: IpAddr| match address {
            IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
            IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        };
        let ip = |address: IpAddr| IpConfig {
            interface: Some(1),
            address: IpNet::from(address),
            gateway: Some(gateway(address)),
        };
        let route = |address: IpAddr| Route::new(default_route(address), Some(gateway(address)));
        Self {
            interfaces: vec![host, pod],
            ips: attachment.addresses.iter().map(ip).collect(),
            routes: attachment.addresses.iter().map(route).collect(),
            dns: Dns::default(),
        }
    }

    /// The result of a chain: what the plugins before said, then what this one adds.
    #[must_use]
    pub fn chained(previous: &Self, own: &Self) -> Self {
        let shift = previous.interfaces.len();
        let shifted = own
            .ips
            .iter()
            .map(|ip| IpConfig { interface: ip.interface.map(|index| index + shift), ..ip.clone() });
        Self {
            interfaces: previous.interfaces.iter().chain(&own.interfaces).cloned().collect(),
            ips: previous.ips.iter().cloned().chain(shifted).collect(),
            routes: previous.routes.iter().chain(&own.routes).cloned().collect(),
            dns: if own.dns == Dns::default() { previous.dns.clone() } else { own.dns.clone() },
        }
    }

    /// What of this result is not in `previous`, in words: the comparison of CHECK.
    ///
    /// Links are compared by name and sandbox, addresses by themselves, routes by
    /// destination and next hop: later plugins of the chain may add their own and may
    /// change MTU and link-layer address.
    pub fn missing_from(&self, previous: &Self) -> Vec<String> {
        let same_link = |a: &Interface, b: &Interface| a.name == b.name && a.sandbox == b.sandbox;
        let interfaces = self
            .interfaces
            .iter()
            .filter(|own| !previous.interfaces.iter().any(|other| same_link(own, other)))
            .map(|own| format!("interface {}", own.name));
        let ips = self
            .ips
            .iter()
            .filter(|own| !previous.ips.iter().any(|other| own.address == other.address))
            .map(|own| format!("address {}", own.address));
        let routes = self
            .routes
            .iter()
            .filter(|own| !previous.routes.iter().any(|other| own.dst == other.dst && own.gw == other.gw))
            .map(|own| format!("route {}", own.dst));
        interfaces.chain(ips).chain(routes).collect()
    }

    /// The result as it is printed for a configuration of `version`, with what that
    /// version knows. Empty lists and an empty `dns` are left out.
    pub fn to_json(&self, version: SpecVersion) -> Value {
        let mut out = Map::new();
        out.insert("cniVersion".to_owned(), version.as_str().into());
        let mut list = |key: &str, items: Vec<Value>| {
            if !items.is_empty() {
                out.insert(key.to_owned(), items.into());
            }
        };
        list("interfaces", self.interfaces.iter().map(|interface| interface.to_json(version)).collect());
        list("ips", self.ips.iter().map(|ip| ip.to_json(version)).collect());
        list("routes", self.routes.iter().map(|route| route.to_json(version)).collect());
        if self.dns != Dns::default() {
            out.insert("dns".to_owned(), self.dns.to_json());
        }
        Value::Object(out)
    }

    /// Reads a result of any version. Fields that no version knows are ignored.
    pub fn from_json(value: &Value) -> Result<Self, Error> {
        match value {
            Value::Object(map) => Self::from_map(map),
            other => Err(json::wrong_type("\"prevResult\"", other, "an object")),
        }
    }

    pub(super) fn from_map(map: &Map<String, Value>) -> Result<Self, Error> {
        let interfaces: Vec<Interface> = entries(map, "interfaces")?;
        let ips: Vec<IpConfig> = entries(map, "ips")?;
        for (index, interface) in ips.iter().enumerate().filter_map(|(at, ip)| Some((at, ip.interface?))) {
            if interface >= interfaces.len() {
                return Err(json::wrong_value(
                    &format!("prevResult.ips[{index}].interface"),
                    &interface.to_string(),
                    &format!("an index into its {} interfaces", interfaces.len()),
                ));
            }
        }
        let dns = match json::map(map, "dns")? {
            None => Dns::default(),
            Some(dns) => entry("prevResult.dns", &Value::Object(dns.clone()))?,
        };
        Ok(Self { interfaces, ips, routes: entries(map, "routes")?, dns })
    }
}

impl Interface {
    fn to_json(&self, version: SpecVersion) -> Value {
        let mut out = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            out.extend(value.map(|value| (key.to_owned(), value)));
        };
        put("name", Some(self.name.as_str().into()));
        put("mac", self.mac.as_deref().map(Value::from));
        put("sandbox", self.sandbox.as_deref().map(Value::from));
        if version >= SpecVersion::V1_1_0 {
            put("mtu", self.mtu.map(Value::from));
            put("socketPath", self.socket_path.as_deref().map(Value::from));
            put("pciID", self.pci_id.as_deref().map(Value::from));
        }
        Value::Object(out)
    }
}

impl IpConfig {
    fn to_json(&self, version: SpecVersion) -> Value {
        let mut out = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            out.extend(value.map(|value| (key.to_owned(), value)));
        };
        if version < SpecVersion::V1_0_0 {
            put("version", Some(if self.address.addr().is_ipv6() { "6" } else { "4" }.into()));
        }
        put("interface", self.interface.map(Value::from));
        put("address", Some(self.address.to_string().into()));
        put("gateway", self.gateway.map(|gateway| gateway.to_string().into()));
        Value::Object(out)
    }
}

impl Route {
    fn to_json(&self, version: SpecVersion) -> Value {
        let mut out = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            out.extend(value.map(|value| (key.to_owned(), value)));
        };
        put("dst", Some(self.dst.to_string().into()));
        put("gw", self.gw.map(|gateway| gateway.to_string().into()));
        if version >= SpecVersion::V1_1_0 {
            put("mtu", self.mtu.map(Value::from));
            put("advmss", self.advmss.map(Value::from));
            put("priority", self.priority.map(Value::from));
            put("table", self.table.map(Value::from));
            put("scope", self.scope.map(Value::from));
        }
        Value::Object(out)
    }
}

impl Dns {
    fn to_json(&self) -> Value {
        let mut out = Map::new();
        let mut list = |key: &str, items: &[String]| {
            if !items.is_empty() {
                out.insert(key.to_owned(), json!(items));
            }
        };
        list("nameservers", &self.nameservers);
        list("search", &self.search);
        list("options", &self.options);
        out.extend(self.domain.as_deref().map(|domain| ("domain".to_owned(), domain.into())));
        Value::Object(out)
    }
}

fn entries<T: DeserializeOwned>(map: &Map<String, Value>, key: &str) -> Result<Vec<T>, Error> {
    let items = json::list(map, key)?.unwrap_or_default();
    items.iter().enumerate().map(|(index, item)| entry(&format!("prevResult.{key}[{index}]"), item)).collect()
}

fn entry<T: DeserializeOwned>(what: &str, item: &Value) -> Result<T, Error> {
    T::deserialize(item).map_err(|error| {
        Error::new(
            Code::DECODING_FAILURE,
            format!("{what} is {}, which can't be read: {}", json::shown(item), excerpt::line(&error)),
            "prevResult is what another plugin of the chain answered: correct that plugin",
        )
    })
}

/// Some plugins write an absent address or path as an empty string.
fn empty_is_none<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    match Option::<String>::deserialize(deserializer)? {
        Some(text) if !text.is_empty() => text.parse().map(Some).map_err(D::Error::custom),
        _ => Ok(None),
    }
}
