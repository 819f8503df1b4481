//! Where the passwords of BGP peers come from, how long they stay, and that nobody is shown one.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use k8s_openapi::ByteString;
use tracing::level_filters::LevelFilter;

use super::*;
use crate::agent::metrics::Format;

/// What the API server says to whoever asks for Secrets.
#[derive(Default)]
pub(super) struct Answers {
    /// What is in them, by their names and keys.
    secrets: BTreeMap<String, BTreeMap<String, String>>,
    instead: Instead,
    asked: Vec<String>,
}

#[derive(Clone, Copy, Default)]
enum Instead {
    #[default]
    Nothing,
    Silence,
    Code(u16),
}

impl Answers {
    /// None is silence.
    pub(super) fn to(&mut self, name: &str) -> Option<Response<Body>> {
        self.asked.push(name.to_owned());
        let failure = |code: u16| {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "OfThisTest",
                "message": format!("{code} of this test"),
            });
            let (mut head, body) = json_body(&status).into_parts();
            head.status = code.try_into().unwrap();
            Response::from_parts(head, body)
        };
        match (self.instead, self.secrets.get(name)) {
            (Instead::Silence, _) => None,
            (Instead::Code(code), _) => Some(failure(code)),
            (Instead::Nothing, None) => Some(failure(404)),
            (Instead::Nothing, Some(values)) => {
                let bytes =
                    |text: &String| serde_json::to_value(ByteString(text.as_bytes().to_vec())).unwrap();
                let data: BTreeMap<_, _> = values.iter().map(|(key, text)| (key, bytes(text))).collect();
                Some(json_body(&json!({"kind": "Secret", "apiVersion": "v1", "data": data})))
            }
        }
    }
}

impl Api {
    fn put(&self, secret: &str, key: &str, text: &str) {
        let mut answers = self.secrets.lock().unwrap();
        answers.secrets.entry(secret.to_owned()).or_default().insert(key.to_owned(), text.to_owned());
    }

    fn delete(&self, secret: &str) {
        self.secrets.lock().unwrap().secrets.remove(secret).unwrap();
    }

    fn instead(&self, instead: Instead) {
        self.secrets.lock().unwrap().instead = instead;
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.secrets.lock().unwrap().asked.clone()
    }
}

/// Peers `a`, `b` and so on, each with these fields beside those that it must have.
pub(super) fn peers(fields: &[Value]) -> Has {
    let peers: Vec<_> = fields
        .iter()
        .zip("abcdefgh".chars().zip(1..))
        .map(|(fields, (name, n))| {
            let mut peer = json!({"name": name.to_string(), "address": format!("192.0.2.{n}"), "asn": 64500});
            peer.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            peer
        })
        .collect();
    Has::NodeConfig(object(&json!({"cidr4": "10.0.1.0/24", "bgp": {"asn": 64512, "peers": peers}})))
}

pub(super) fn secret(name: &str, key: &str) -> Value {
    json!({"passwordSecret": {"name": name, "key": key}})
}

/// Each peer's password, `none` where it needs none.
fn passwords(config: &NodeConfig) -> Vec<(&str, &str)> {
    let peers = config.bgp.as_ref().unwrap().resolved_peers();
    peers
        .map(|peer| (&*peer.name, peer.password.as_ref().map_or("none", |password| password.reveal())))
        .collect()
}

fn refused(config: &NodeConfig) -> Vec<String> {
    config.bgp.as_ref().unwrap().refused.iter().map(ToString::to_string).collect()
}

/// Waits until peers have these passwords, and says how long it took.
async fn until(handler: &Handler, expected: &[(&str, &str)]) -> Duration {
    let started = Instant::now();
    while passwords(&handler.node_config()) != expected {
        assert!(started.elapsed() < Duration::from_secs(120), "{:?}", refused(&handler.node_config()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    started.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_peer_whose_password_can_not_be_had_is_refused_alone() {
    let api = Api::with(peers(&[
        secret("bgp", "one"),
        secret("bgp", "two"),
        json!({}),
        secret("none", "x"),
        secret("bgp", "three"),
        secret("bgp", "bad"),
    ]));
    for (key, text) in [("one", "geheim1"), ("two", "geheim2\n"), ("bad", "gehéim")] {
        api.put("bgp", key, text);
    }
    let directory = tempfile::tempdir().unwrap();
    let config = api.member(&directory).node_config(&unready()).await;
    assert_eq!(passwords(&config), [("a", "geheim1"), ("b", "geheim2"), ("c", "none")]);
    let refused = refused(&config);
    let expected = [
        "peer d: the password can't be had from the key x of the Secret none: there is no such Secret in the \
         namespace flock-system; create it, or name another one",
        "peer e: the password can't be had from the key three of the Secret bgp: the Secret in the namespace \
         flock-system has no such key; add it, or name another one",
        "peer f: the password can't be had from the key bad of the Secret bgp: character 4 of the password is \
         not allowed: expected printable ASCII characters other than '\"'",
    ];
    assert_eq!(refused, expected);
    assert_eq!(api.asked(), ["bgp", "none"], "each Secret is asked for once");
}

#[tokio::test(start_paused = true)]
async fn without_the_right_to_read_it_is_said_which_one_is_missing() {
    let api = Api::with(peers(&[secret("bgp", "one"), json!({})]));
    api.instead(Instead::Code(403));
    let directory = tempfile::tempdir().unwrap();
    let config = api.member(&directory).node_config(&unready()).await;
    assert_eq!(passwords(&config), [("b", "none")]);
    let [said] = &refused(&config)[..] else { panic!("{:?}", refused(&config)) };
    for part in
        ["key one of the Secret bgp", "403 of this test", "the Role flock-agent of deploy/base/rbac.yaml"]
    {
        assert!(said.contains(part), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_secret_is_taken_up_without_a_restart() {
    let api = Api::with(peers(&[secret("bgp", "one"), json!({})]));
    api.put("bgp", "one", "geheim1");
    let directory = tempfile::tempdir().unwrap();
    let mut member = api.member(&directory);
    let (handler, _) = handler(member.node_config(&unready()).await).await;
    following(member, &handler, None, async {
        until(&handler, &[("a", "geheim1"), ("b", "none")]).await;
        api.put("bgp", "one", "geheim2");
        let took = until(&handler, &[("a", "geheim2"), ("b", "none")]).await;
        assert!(took <= ROUND + Duration::from_secs(1), "{took:?}");
        api.delete("bgp");
        until(&handler, &[("b", "none")]).await;
        api.put("bgp", "one", "geheim3");
        until(&handler, &[("a", "geheim3"), ("b", "none")]).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_in_force_stays_while_secrets_can_not_be_looked_at() {
    let api = Api::with(peers(&[secret("bgp", "one"), secret("more", "two")]));
    api.put("bgp", "one", "geheim1");
    api.put("more", "two", "geheim2");
    let directory = tempfile::tempdir().unwrap();
    let mut member = api.member(&directory);
    let (handler, _) = handler(member.node_config(&unready()).await).await;
    following(member, &handler, None, async {
        let before = handler.node_config();
        assert_eq!(passwords(&before), [("a", "geheim1"), ("b", "geheim2")]);
        for instead in [Instead::Silence, Instead::Code(500), Instead::Code(401)] {
            api.instead(instead);
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(handler.node_config(), before);
        }
        // Nobody knows of the other one.
        api.now_has(peers(&[secret("bgp", "one"), secret("other", "two")]));
        until(&handler, &[("a", "geheim1")]).await;
        assert!(refused(&handler.node_config())[0].contains("the API server does not answer, and none"));
        api.put("other", "two", "geheim3");
        api.instead(Instead::Nothing);
        until(&handler, &[("a", "geheim1"), ("b", "geheim3")]).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn passwords_outlive_a_restart_without_the_api_server() {
    let has = peers(&[secret("bgp", "one"), json!({})]);
    let api = Api::with(has.clone());
    api.put("bgp", "one", "geheim1");
    let directory = tempfile::tempdir().unwrap();
    let mut member = api.member(&directory);
    let (handler, _) = handler(member.node_config(&unready()).await).await;
    let kept = directory.path().join("passwords.json");
    following(member, &handler, None, async {
        api.wrote("/nodeconfigs/host001/status", |_| true).await;
    })
    .await;
    let before = handler.node_config();
    let config = Api::with(Has::Away).member(&directory).node_config(&unready()).await;
    assert_eq!(config, before);
    // It answers something, but not of Secrets.
    for has in [has, Has::Nothing] {
        let api = Api::with(has);
        api.instead(Instead::Silence);
        let started = Instant::now();
        assert_eq!(api.member(&directory).node_config(&unready()).await, before);
        assert!(started.elapsed() <= ANSWER_WAIT, "{:?}", started.elapsed());
    }
    // Where nothing needs a password any more, none is kept.
    let api = Api::with(peers(&[json!({})]));
    let mut member = api.member(&directory);
    assert!(kept.exists());
    member.node_config(&unready()).await;
    following(member, &handler, None, until(&handler, &[("a", "none")])).await;
    assert!(!kept.exists());
}

#[tokio::test(start_paused = true)]
async fn where_no_peer_names_a_secret_none_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    fs::write(&file, "geheim1\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let api = Api::with(peers(&[json!({}), json!({"passwordFile": file})]));
    let mut member = api.member(&directory);
    let (handler, _) = handler(member.node_config(&unready()).await).await;
    following(member, &handler, None, async {
        until(&handler, &[("a", "none"), ("b", "geheim1")]).await;
        fs::write(&file, "geheim2\n").unwrap();
        until(&handler, &[("a", "none"), ("b", "geheim2")]).await;
    })
    .await;
    assert_eq!(api.asked(), Vec::<String>::new());
    assert!(!directory.path().join("passwords.json").exists(), "the file is there anyhow");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Files below, with their modes and contents.
fn files(directory: &Path) -> Vec<(String, u32, String)> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
            (entry.file_name().into_string().unwrap(), mode, fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

/// Whether it can be used or not, and whatever happens to it.
#[tokio::test(start_paused = true)]
async fn a_password_is_shown_to_nobody() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _installed = tracing::subscriber::set_default(subscriber);
    let api = Api::with(peers(&[secret("bgp", "one"), secret("bgp", "two"), secret("none", "x")]));
    api.put("bgp", "one", "geheim1");
    api.put("bgp", "two", "geheim\"");
    let directory = tempfile::tempdir().unwrap();
    let (_, readiness) = watch::channel(Readiness::Ready);
    let metrics = Metrics::new(readiness);
    let waiting = unready();
    let mut member = api.member_counted_by(&metrics, &directory);
    let (handler, dataplane) = handler(member.node_config(&waiting).await).await;
    let problem = following(member, &handler, None, async {
        until(&handler, &[("a", "geheim1")]).await;
        api.wrote("/nodeconfigs/host001/status", |_| true).await;
        // What is put in force fails, is tried again, and succeeds.
        dataplane.fail_call(1);
        api.put("bgp", "one", "geheim2");
        api.wrote("/nodeconfigs/host001/status", |status| condition_of(status)["reason"] == "NotInForce")
            .await;
        until(&handler, &[("a", "geheim2")]).await;
        api.instead(Instead::Silence);
        tokio::time::sleep(Duration::from_secs(60)).await;
        api.instead(Instead::Nothing);
        api.delete("bgp");
        until(&handler, &[]).await;
        api.put("bgp", "one", "geheim3");
        until(&handler, &[("a", "geheim3")]).await;
        api.now_has(invalid());
        api.wrote("/nodeconfigs/host001/status", |status| condition_of(status)["reason"] == "Invalid").await
    })
    .await;
    let mut seen = vec![log.text(), problem.to_string(), format!("{handler:?} {waiting:?}")];
    seen.push(serde_json::to_string(&handler.view().await.unwrap()).unwrap());
    for format in [Format::Prometheus, Format::OpenMetrics] {
        seen.push(metrics.scrape(format).await.unwrap());
    }
    seen.extend(api.written.lock().unwrap().iter().map(|(path, body)| format!("{path} {body}")));
    let mut kept = Vec::new();
    for (name, mode, content) in files(directory.path()) {
        assert_eq!(mode & 0o077, 0, "others can read {name}: {mode:o}");
        if name == "passwords.json" { kept.push(content) } else { seen.push(content) }
    }
    for text in &seen {
        assert!(!text.contains("geheim"), "{text}");
        // As a Secret writes it.
        assert!(!text.contains("Z2VoZWlt"), "{text}");
    }
    // It was looked for where it would have been.
    assert!(kept.iter().any(|content| content.contains("geheim3")), "{kept:?}");
    for expected in ["peer=\"c\"", "Secrets can't be looked at", "is in force"] {
        assert!(seen[0].contains(expected), "{expected} is not in {}", seen[0]);
    }
    assert!(api.count("/events") > 0);
}
