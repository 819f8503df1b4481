//! The contract of knowing pods, held by the reference backends, and what is
//! particular to the directory of manifests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flock_core::name::PodKey;
use flock_core::pods::conformance::PodsHarness;
use flock_core::pods::{FixedPods, PodChange, PodDirectory, PodError, PodInfo, PodRef, PodSource, PodState};
use flock_core::retry::Retry;
use futures_util::StreamExt as _;
use tempfile::TempDir;

mod fixed {
    use super::*;

    #[derive(Default)]
    struct Harness(FixedPods);

    #[async_trait]
    impl PodsHarness for Harness {
        fn source(&self) -> &dyn PodSource {
            &self.0
        }

        async fn apply(&self, key: &PodKey, info: &PodInfo) {
            self.0.insert(key.clone(), info.clone());
        }

        async fn remove(&self, key: &PodKey) {
            self.0.remove(key);
        }

        async fn terminate(&self, key: &PodKey) -> bool {
            self.0.set_state(key, PodState::Terminating);
            true
        }
    }

    flock_core::pods_conformance!(Harness::default());

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_passes_ends_the_waiting() {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        let error = FixedPods::new().pod(&web(), deadline.into_std()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "pod default/web did not appear among the pods of this process within the deadline"
        );
        assert!(tokio::time::Instant::now() >= deadline, "gave up before the deadline");
    }

    #[tokio::test]
    async fn changes_end_with_the_pods() {
        let pods = FixedPods::new();
        pods.insert(web().key, PodInfo::default());
        let changes = pods.changes();
        drop(pods);
        let told: Vec<_> = changes.collect().await;
        assert_eq!(told, [PodChange { pod: web().key, uid: None, state: PodState::Ready }]);
    }
}

mod directory {
    use super::*;

    struct Harness {
        directory: TempDir,
        pods: PodDirectory,
    }

    impl Harness {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            Self { pods: PodDirectory::new(directory.path()), directory }
        }

        fn file(&self, key: &PodKey) -> PathBuf {
            self.directory.path().join(format!("{}_{}.json", key.namespace(), key.name()))
        }
    }

    #[async_trait]
    impl PodsHarness for Harness {
        fn source(&self) -> &dyn PodSource {
            &self.pods
        }

        async fn apply(&self, key: &PodKey, info: &PodInfo) {
            let manifest = serde_json::json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "namespace": key.namespace(),
                    "name": key.name(),
                    "uid": info.uid,
                    "annotations": info.annotations,
                },
                "status": status(info.state == PodState::Ready),
            });
            fs::write(self.file(key), manifest.to_string()).unwrap();
        }

        async fn remove(&self, key: &PodKey) {
            fs::remove_file(self.file(key)).unwrap();
        }

        async fn terminate(&self, key: &PodKey) -> bool {
            let mut manifest: serde_json::Value =
                serde_json::from_slice(&fs::read(self.file(key)).unwrap()).unwrap();
            manifest["metadata"]["deletionTimestamp"] = "2001-02-03T04:05:06Z".into();
            fs::write(self.file(key), manifest.to_string()).unwrap();
            true
        }
    }

    flock_core::pods_conformance!(lookup: Harness::new());
    flock_core::pods_conformance!(changes: Harness::new());

    fn status(ready: bool) -> serde_json::Value {
        let status = if ready { "True" } else { "False" };
        serde_json::json!({"conditions": [{"type": "Ready", "status": status}]})
    }

    const WEB: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations: {note: found}
spec:
  containers: [{name: web, image: web}]
";

    /// A directory with these files.
    fn files(files: &[(&str, &str)]) -> (TempDir, PodDirectory) {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let pods = PodDirectory::new(directory.path());
        (directory, pods)
    }

    async fn ask(pods: &PodDirectory) -> Result<PodInfo, PodError> {
        pods.pod(&web(), Instant::now() + Duration::from_secs(30)).await
    }

    /// Asks for default/web in files that are broken, and wants an error that names
    /// `file` and contains `reason`.
    async fn assert_refused(contents: &[(&str, &str)], file: &str, reason: &str) {
        let (directory, pods) = files(contents);
        let error = ask(&pods).await.unwrap_err();
        let PodError::Invalid { path, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*path, directory.path().join(file).display().to_string());
        assert!(error.to_string().contains(reason), "{error}\nexpected: {reason}");
        assert_eq!(error.retry(), Retry::Never);
    }

    #[tokio::test]
    async fn a_pod_that_is_not_there_has_no_annotations() {
        let (_directory, pods) = files(&[("other.yaml", &WEB.replace("name: web", "name: other"))]);
        assert_eq!(ask(&pods).await.unwrap(), PodInfo::default());
    }

    #[tokio::test]
    async fn a_pod_is_found_in_every_form_of_manifest() {
        let indented = WEB.trim().replace('\n', "\n  ");
        let json = r#"{"kind": "Pod", "metadata": {"name": "web", "annotations": {"note": "found"}}}"#;
        let forms = [
            ("a.yaml", WEB.to_owned()),
            ("a.yml", WEB.to_owned()),
            ("a.json", json.to_owned()),
            ("a.yaml", format!("---\n{WEB}\n---\n")),
            (
                "a.yaml",
                format!("kind: ConfigMap\nmetadata: {{name: web}}\ndata: {{}}\n---\n# nothing\n---{WEB}"),
            ),
            ("a.yaml", format!("kind: List\nitems:\n- {indented}\n")),
            ("a.json", format!(r#"{{"kind": "List", "items": [{{"kind": "Service"}}, {json}]}}"#)),
            (
                "a.json",
                format!(r#"{{"kind": "PodList", "items": [{}]}}"#, json.replace(r#""kind": "Pod", "#, "")),
            ),
        ];
        for (name, text) in forms {
            let (_directory, pods) = files(&[(name, &text)]);
            let found = ask(&pods).await.unwrap();
            assert_eq!(found.annotations.get("note").map(String::as_str), Some("found"), "{name}: {text}");
            assert_eq!(found.uid, None);
        }
    }

    #[tokio::test]
    async fn the_state_is_read_as_kubectl_writes_it() {
        let terminating = "name: web\n  deletionTimestamp: \"2001-02-03T04:05:06Z\"\n";
        let conditions = |ready| {
            format!(
                "status:\n  conditions:\n  - {{type: Initialized, status: \"True\"}}\n  \
                 - {{lastProbeTime: null, status: \"{ready}\", type: Ready}}\n  phase: Running\n"
            )
        };
        for (text, expected) in [
            (WEB.to_owned(), PodState::Ready),
            (format!("{WEB}status:\n"), PodState::Ready),
            (format!("{WEB}status: {{}}\n"), PodState::Ready),
            (format!("{WEB}status: {{phase: Pending}}\n"), PodState::NotReady),
            (format!("{WEB}status: {{conditions: null}}\n"), PodState::NotReady),
            (format!("{WEB}{}", conditions("True")), PodState::Ready),
            (format!("{WEB}{}", conditions("False")), PodState::NotReady),
            (format!("{WEB}{}", conditions("Unknown")), PodState::NotReady),
            (WEB.replace("name: web\n", terminating), PodState::Terminating),
            (
                format!("{}{}", WEB.replace("name: web\n", terminating), conditions("True")),
                PodState::Terminating,
            ),
            (WEB.replace("name: web\n", "name: web\n  deletionTimestamp: null\n"), PodState::Ready),
        ] {
            let (_directory, pods) = files(&[("web.yaml", &text)]);
            assert_eq!(ask(&pods).await.unwrap().state, expected, "{text}");
            let list = format!("kind: PodList\nitems:\n- {}\n", text.trim().replace('\n', "\n  "));
            let (_directory, pods) = files(&[("web.yaml", &list)]);
            assert_eq!(ask(&pods).await.unwrap().state, expected, "{list}");
        }
    }

    #[tokio::test]
    async fn what_is_no_manifest_is_not_looked_at() {
        let (directory, pods) =
            files(&[("notes.txt", "{"), (".web.yaml", "{"), ("web.yaml~", "{"), ("web.yaml", WEB)]);
        fs::create_dir(directory.path().join("folder.yaml")).unwrap();
        assert_eq!(ask(&pods).await.unwrap().annotations["note"], "found");
    }

    #[tokio::test]
    async fn empty_files_and_lists_hold_no_pod() {
        let (_directory, pods) =
            files(&[("a.yaml", ""), ("b.yaml", "---\n---\n"), ("c.yaml", "kind: List\nitems:\n")]);
        assert_eq!(ask(&pods).await.unwrap(), PodInfo::default());
    }

    #[tokio::test]
    async fn a_broken_file_does_not_hide_the_pods_of_others() {
        let (_directory, pods) = files(&[("a.yaml", "kind: ["), ("b.yaml", WEB)]);
        assert_eq!(ask(&pods).await.unwrap().annotations["note"], "found");
    }

    #[tokio::test]
    async fn a_pod_that_may_be_in_a_broken_file_is_an_error() {
        for (text, reason) in [
            ("kind: [", "is not YAML or JSON: "),
            ("just words", "is not a Kubernetes object: "),
            ("metadata: {name: web}", "is not a Kubernetes object: missing field `kind`"),
            ("kind: Pod\nmetadata: {}", "has a Pod with wrong metadata: missing field `name`"),
            ("kind: Pod", "has a Pod with wrong metadata: "),
            ("kind: Pod\nmetadata: {name: web}\nstatus: Running", "has a Pod \"web\" with a wrong status: "),
            ("kind: PodList\nitems: [1]", "has a PodList with a wrong item: "),
            (
                "kind: Pod\nmetadata: {name: web, annotations: {flock.fritzlab.net/ipv4: false}}",
                "has a Pod \"web\" whose annotation flock.fritzlab.net/ipv4 is false, expected a string; put it in quotes",
            ),
        ] {
            assert_refused(&[("a.yaml", "kind: Node"), ("b.yaml", text)], "b.yaml", reason).await;
            let help = "pod default/web may be described there, mend or remove the file";
            assert_refused(&[("b.yaml", text)], "b.yaml", help).await;
        }
    }

    #[tokio::test]
    async fn bytes_that_are_no_text_are_an_error() {
        let (directory, pods) = files(&[]);
        fs::write(directory.path().join("a.yaml"), [0xff, 0xfe]).unwrap();
        assert!(ask(&pods).await.unwrap_err().to_string().contains("is not UTF-8: "));
    }

    #[tokio::test]
    async fn a_pod_that_is_described_twice_is_an_error() {
        let reason = "describes pod default/web as ";
        assert_refused(&[("a.yaml", WEB), ("b.yaml", WEB)], "b.yaml", reason).await;
        assert_refused(&[("a.yaml", &format!("{WEB}---{WEB}"))], "a.yaml", "remove one of the two").await;
    }

    #[tokio::test]
    async fn a_manifest_of_another_uid_says_which() {
        let (_directory, pods) =
            files(&[("a.yaml", &WEB.replace("name: web\n", "name: web\n  uid: \"1\"\n"))]);
        let wanted = PodRef { uid: Some("2".to_owned()), ..web() };
        let error =
            pods.pod(&wanted, Instant::now() + Duration::from_secs(30)).await.unwrap_err().to_string();
        let expected = "a.yaml: describes pod default/web with the UID \"1\", expected \"2\" as the runtime says; \
                        correct the UID or leave it out";
        assert!(error.ends_with(expected), "{error}");
    }

    #[tokio::test]
    async fn a_manifest_without_uid_is_for_any_pod_of_that_name() {
        let (_directory, pods) = files(&[("a.yaml", WEB)]);
        let wanted = PodRef { uid: Some("2".to_owned()), ..web() };
        let found = pods.pod(&wanted, Instant::now() + Duration::from_secs(30)).await.unwrap();
        assert_eq!(found.annotations["note"], "found");
    }

    #[tokio::test]
    async fn a_directory_that_is_missing_is_an_error() {
        let (directory, _) = files(&[]);
        let missing = directory.path().join("missing");
        let error = ask(&PodDirectory::new(&missing)).await.unwrap_err();
        let expected = format!(
            "pods: can't read the directory of pod manifests {}: No such file or directory (os error 2); \
             create it or name another one",
            missing.display()
        );
        assert_eq!(error.to_string(), expected);
    }
}

fn web() -> PodRef {
    PodRef { key: PodKey::new("default", "web").unwrap(), uid: None }
}
