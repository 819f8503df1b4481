//! Who is who in a cluster: a certificate for the API server, a key for service
//! accounts, and a token with a kubeconfig for everyone else.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::process::run;
use crate::{LabError, Result};

/// Each with its groups, beside `system:authenticated`. The nodes' names come on top.
const USERS: [(&str, &str); 4] = [
    ("admin", "system:masters"),
    ("system:kube-controller-manager", ""),
    ("system:kube-scheduler", ""),
    ("system:kube-proxy", ""),
];

const OPENSSL: &str = "\
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:FALSE
extendedKeyUsage = serverAuth
";

/// The files, in one directory.
#[derive(Debug, Clone)]
pub struct Credentials {
    dir: PathBuf,
}

impl Credentials {
    /// Makes everything for an API server that is reached at `server`, a URL, and has
    /// these addresses; and for the kubelets of these nodes.
    pub fn create(dir: &Path, server: &str, addresses: &[IpAddr], nodes: &[String]) -> Result<Self> {
        fs::create_dir_all(dir).map_err(LabError::file("create", dir))?;
        let credentials = Self { dir: dir.to_owned() };
        credentials.certificates(addresses)?;
        let kubelets = nodes.iter().map(|node| (format!("system:node:{node}"), "system:nodes"));
        let users = USERS.into_iter().map(|(user, group)| (user.to_owned(), group)).chain(kubelets);
        let mut tokens = String::new();
        // Inside the kubeconfig, since a node does not see this directory.
        let authority =
            run(Command::new("openssl").args(["base64", "-A", "-in"]).arg(credentials.authority()))?;
        for (user, group) in users {
            // The namespaces of the lab are what keeps others out.
            let token = format!("token-of-{user}").replace(':', "-");
            // Writing to a String does not fail.
            let _ = writeln!(tokens, "{token},{user},{user},\"{group}\"");
            let config = kubeconfig(server, &authority, &token);
            credentials.write(&file_of(&user), &config)?;
        }
        credentials.write("tokens.csv", &tokens)?;
        Ok(credentials)
    }

    /// The certificate that all others are signed with.
    pub fn authority(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// The API server's certificate and its key.
    pub fn server(&self) -> (PathBuf, PathBuf) {
        (self.dir.join("server.crt"), self.dir.join("server.key"))
    }

    /// The key that tokens of service accounts are signed with.
    pub fn service_accounts(&self) -> PathBuf {
        self.dir.join("service-accounts.key")
    }

    /// The API server's list of tokens.
    pub fn tokens(&self) -> PathBuf {
        self.dir.join("tokens.csv")
    }

    /// The kubeconfig of `user`.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.dir.join(file_of(user))
    }

    fn certificates(&self, addresses: &[IpAddr]) -> Result<()> {
        let names: Vec<String> = addresses.iter().map(|address| format!("IP:{address}")).collect();
        let names = format!("subjectAltName = {}, DNS:kubernetes.default.svc\n", names.join(", "));
        self.write("openssl.cnf", &format!("{OPENSSL}{names}"))?;
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -config openssl.cnf";
        for arguments in [
            format!("req -x509 {key} -extensions ca -subj /CN=lab -days 7 -keyout ca.key -out ca.crt"),
            format!("req -new {key} -subj /CN=kube-apiserver -keyout server.key -out server.csr"),
            "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 7 \
             -extfile openssl.cnf -extensions server -out server.crt"
                .to_owned(),
            "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out service-accounts.key".to_owned(),
        ] {
            let mut command = Command::new("openssl");
            run(command.args(arguments.split_whitespace()).current_dir(&self.dir))?;
        }
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        fs::write(&path, text).map_err(LabError::file("write", &path))
    }
}

fn file_of(user: &str) -> String {
    format!("{}.kubeconfig", user.replace(':', "-"))
}

fn kubeconfig(server: &str, authority: &str, token: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": "me", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
        "current-context": "lab",
    })
    .to_string()
}
