//! Secrets as they are read, and that nothing else says what they hold.

use std::time::Duration;

use flock_k8s::secrets::{SecretError, Secrets};
use serde_json::{Value, json};

use crate::fake::{FakeApi, Mode, Recorded};
use crate::log::Log;

const SECRETS: &str = "/api/v1/secrets";

/// `geheim`, and what is no text.
fn secret() -> Value {
    json!({
        "kind": "Secret", "apiVersion": "v1", "type": "Opaque",
        "metadata": {"namespace": "default", "name": "bgp"},
        "data": {"tor1": "Z2VoZWlt", "raw": "/w=="},
    })
}

fn api() -> (FakeApi, Secrets) {
    let api = FakeApi::new();
    api.put(SECRETS, secret());
    let secrets = api.cluster().secrets();
    (api, secrets)
}

#[tokio::test(start_paused = true)]
async fn what_it_holds_is_there_by_its_key() {
    let (api, secrets) = api();
    assert_eq!(api.count(|_| true), 0, "it was asked before somebody asked");
    let found = secrets.read("bgp").await.unwrap();
    assert_eq!(found.value("tor1"), Some(&b"geheim"[..]));
    assert_eq!(found.value("raw"), Some(&[0xff][..]));
    assert_eq!(found.value("tor2"), None);
    assert_eq!(api.count(|request| request.path == "/api/v1/namespaces/default/secrets/bgp"), 1);
    let mut empty = secret();
    empty["data"].take();
    api.put(SECRETS, empty);
    assert_eq!(secrets.read("bgp").await.unwrap().value("tor1"), None);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_there_is_told_from_one_that_is_not_known() {
    let (api, secrets) = api();
    let missing = secrets.read("ospf").await.unwrap_err();
    assert_eq!(missing, SecretError::Missing { namespace: "default".to_owned() });
    api.refuse_next(Recorded::is_secret, 403, "secrets \"bgp\" is forbidden");
    let forbidden = secrets.read("bgp").await.unwrap_err();
    assert!(matches!(forbidden, SecretError::Forbidden { .. }), "{forbidden:?}");
    for part in ["is forbidden", "get Secrets in the namespace default", "deploy/base/rbac.yaml"] {
        assert!(forbidden.to_string().contains(part), "{forbidden}");
    }
    for mode in [Mode::Away, Mode::Silent, Mode::Failing(401), Mode::Failing(500), Mode::Unfinished(200)] {
        api.set_mode(mode);
        let answer = tokio::time::timeout(Duration::from_secs(20), secrets.read("bgp")).await.unwrap();
        assert!(matches!(answer, Err(SecretError::Unavailable(_))), "{mode:?}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_it_holds_is_not_shown_also_where_it_makes_no_sense() {
    let log = Log::default();
    let _installed = log.install();
    let (api, secrets) = api();
    let found = secrets.read("bgp").await;
    assert_eq!(format!("{secrets:?} {found:?}"), r#"Secrets { namespace: "default", .. } Ok(Secret)"#);
    for data in [json!({"tor1": "geheim!"}), json!("geheim"), json!(["geheim"])] {
        let mut strange = secret();
        strange["data"] = data;
        api.put(SECRETS, strange);
        let error = secrets.read("bgp").await.unwrap_err();
        assert_eq!(error, SecretError::Unavailable("the API server's answer is no Secret".to_owned()));
    }
    let mut other = secret();
    other["kind"] = "Proxy".into();
    api.put(SECRETS, other);
    assert!(matches!(secrets.read("bgp").await, Err(SecretError::Unavailable(_))));
    assert_eq!(log.text(), "");
}
