//! What runtimes say and what they expect back, rule by rule.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use flock_core::cni::{
    Args, Call, CniResult, Code, Delivery, Error, GcCall, NetworkConfig, Operation, RawCall, SpecVersion,
    Verb, version_info,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const CONFIG: &[u8] = br#"{"cniVersion": "1.1.0", "name": "flock", "type": "flock"}"#;

fn add() -> RawCall<'static> {
    RawCall {
        verb: Verb::Add,
        container_id: "0123456789ab",
        ifname: "eth0",
        netns: "/run/netns/pod1",
        config: CONFIG,
        ..RawCall::default()
    }
}

fn call(raw: &RawCall<'_>) -> Result<Call, Error> {
    match Operation::parse(raw)? {
        Operation::Attachment(call) => Ok(call),
        other => panic!("{other:?}"),
    }
}

fn gc(config: &Value) -> Result<GcCall, Error> {
    let config = config.to_string();
    match Operation::parse(&RawCall { verb: Verb::Gc, config: config.as_bytes(), ..RawCall::default() })? {
        Operation::Gc(call) => Ok(call),
        other => panic!("{other:?}"),
    }
}

fn config(extra: &Value) -> Vec<u8> {
    let mut all = json!({"cniVersion": "1.1.0", "name": "flock", "type": "flock"});
    for (key, value) in extra.as_object().unwrap() {
        all[key] = value.clone();
    }
    all.to_string().into_bytes()
}

mod versions {
    use super::*;

    #[test]
    fn five_are_spoken_and_ordered_by_age() {
        let texts = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        assert_eq!(SpecVersion::ALL.map(SpecVersion::as_str), texts);
        assert!(SpecVersion::ALL.is_sorted());
        for text in texts {
            assert_eq!(text.parse::<SpecVersion>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn any_other_is_refused_with_the_list_of_supported_ones() {
        for other in ["", "0.1.0", "0.2.0", "0.3.2", "1.2.0", "1.1", "v1.1.0", "1.1.0 "] {
            let error = other.parse::<SpecVersion>().unwrap_err();
            assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
            assert!(error.msg.contains(&format!("{other:?}")), "{error}");
            assert!(error.details.contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{error}");
        }
    }

    #[test]
    fn a_configuration_without_a_version_is_older_than_all_of_them() {
        let error = NetworkConfig::parse(br#"{"name": "flock"}"#).unwrap_err();
        assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
        assert!(error.details.contains("supported versions: 0.3.0"), "{error}");
    }

    #[test]
    fn the_answer_to_version_repeats_the_version_that_was_asked_with() {
        let supported = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
        for (input, expected) in [
            ("", "1.1.0"),
            (" \n", "1.1.0"),
            ("{}", "1.1.0"),
            (r#"{"cniVersion": null}"#, "1.1.0"),
            (r#"{"cniVersion": "0.4.0"}"#, "0.4.0"),
            (r#"{"cniVersion": "7.0.0"}"#, "7.0.0"),
        ] {
            let info = version_info(input.as_bytes()).unwrap();
            assert_eq!(info, json!({"cniVersion": expected, "supportedVersions": supported}), "{input}");
        }
        for garbage in ["{", "[]", "1", r#"{"cniVersion": 1}"#] {
            assert_eq!(version_info(garbage.as_bytes()).unwrap_err().code, Code::DECODING_FAILURE);
        }
    }

    #[test]
    fn check_needs_0_4_0_and_status_and_gc_need_1_1_0() {
        for (verb, since) in [
            (Verb::Add, "0.3.0"),
            (Verb::Del, "0.3.0"),
            (Verb::Check, "0.4.0"),
            (Verb::Gc, "1.1.0"),
            (Verb::Status, "1.1.0"),
        ] {
            let since: SpecVersion = since.parse().unwrap();
            for version in SpecVersion::ALL {
                let config = config(&json!({"cniVersion": version.as_str()}));
                let parsed = Operation::parse(&RawCall { verb, config: &config, ..add() });
                if version >= since {
                    assert_eq!(parsed.unwrap().config().cni_version, version);
                } else {
                    let error = parsed.unwrap_err();
                    assert_eq!(error.code, Code::INCOMPATIBLE_VERSION, "{verb} {version}");
                    assert_eq!(
                        error.msg,
                        format!("{verb} needs CNI version {since} or later, the configuration has {version}")
                    );
                }
            }
        }
    }

    #[test]
    fn an_error_is_written_in_the_configurations_version_where_it_can_be_told() {
        let told = |config: &[u8]| SpecVersion::for_errors(config).to_string();
        assert_eq!(told(br#"{"cniVersion": "0.4.0", "mtu": "x"}"#), "0.4.0");
        assert_eq!(told(b"{"), "1.1.0");
        assert_eq!(told(br#"{"cniVersion": "9.9.9"}"#), "1.1.0");
    }
}

mod environment {
    use super::*;

    #[test]
    fn a_complete_add_is_understood() {
        let call =
            call(&RawCall { args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b", ..add() }).unwrap();
        assert_eq!(call.verb, Verb::Add);
        assert_eq!(call.key.to_string(), "0123456789ab/eth0");
        assert_eq!(call.netns, Some(PathBuf::from("/run/netns/pod1")));
        assert_eq!(call.args.pod.unwrap().to_string(), "a/b");
        assert_eq!(call.remaining, Duration::from_secs(60));
    }

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        for verb in [Verb::Add, Verb::Check] {
            let error = call(&RawCall { verb, config: CONFIG, ..RawCall::default() }).unwrap_err();
            assert_eq!(error.code, Code::INVALID_ENVIRONMENT);
            assert_eq!(error.msg, "CNI_CONTAINERID is missing; CNI_NETNS is missing; CNI_IFNAME is missing");
        }
        let error = call(&RawCall { verb: Verb::Del, config: CONFIG, ..RawCall::default() }).unwrap_err();
        assert_eq!(error.msg, "CNI_CONTAINERID is missing; CNI_IFNAME is missing");
    }

    #[test]
    fn what_is_invalid_is_named_with_what_is_expected() {
        for (raw, expected) in [
            (
                RawCall { container_id: "../x", ..add() },
                "CNI_CONTAINERID: \"../x\" is not a valid container id",
            ),
            (RawCall { ifname: "a/b", ..add() }, "CNI_IFNAME: \"a/b\" is not a valid interface name"),
            (RawCall { ifname: "sixteen-bytes-xx", ..add() }, "CNI_IFNAME: \"sixteen-bytes-xx\" is not"),
            (RawCall { netns: "pod1", ..add() }, "CNI_NETNS: \"pod1\" is not the absolute path"),
        ] {
            let error = call(&raw).unwrap_err();
            assert_eq!(error.code, Code::INVALID_ENVIRONMENT);
            assert!(error.msg.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_is_long_is_cut_in_messages() {
        let long = "a b".repeat(100_000);
        let config = config(&json!({"name": long, "runDir": long, "cniVersion": long}));
        let many = (0..10_000).map(|number| format!("{number}=x")).collect::<Vec<_>>().join(";");
        for raw in [
            RawCall { container_id: &long, ifname: &long, netns: &long, ..add() },
            RawCall { args: &long, ..add() },
            RawCall { args: &many, ..add() },
            RawCall { config: &config, ..add() },
        ] {
            let error = call(&raw).unwrap_err();
            assert!(
                error.msg.contains("(cut)") && error.msg.len() < 1000,
                "{} bytes: {error:.400}",
                error.msg.len()
            );
        }
    }

    #[test]
    fn del_needs_no_namespace() {
        let call = call(&RawCall { verb: Verb::Del, netns: "", ..add() }).unwrap();
        assert_eq!(call.netns, None);
    }

    #[test]
    fn what_del_does_not_need_can_not_make_it_fail() {
        let config = config(&json!({"mtu": "x", "runtimeConfig": 7, "prevResult": {"ips": "none"}}));
        let broken = RawCall { verb: Verb::Del, args: "a;b;c", config: &config, ..add() };
        let del = call(&broken).unwrap();
        assert_eq!((del.config.mtu, del.config.pod_annotations, del.config.prev_result), (None, None, None));
        assert_eq!(del.args, Args::default());
        assert!(call(&RawCall { verb: Verb::Add, ..broken }).is_err());
    }

    #[test]
    fn the_environment_is_complained_about_before_the_configuration() {
        let error = call(&RawCall { ifname: "", config: b"{", ..add() }).unwrap_err();
        assert_eq!(error.code, Code::INVALID_ENVIRONMENT);
    }

    #[test]
    fn version_is_not_the_agents() {
        let error = Operation::parse(&RawCall { verb: Verb::Version, ..add() }).unwrap_err();
        assert!(error.msg.contains("expected the plugin to answer"), "{error}");
    }

    #[test]
    fn a_verb_is_written_in_capitals() {
        for verb in [Verb::Add, Verb::Check, Verb::Del, Verb::Gc, Verb::Status, Verb::Version] {
            assert_eq!(verb.as_str().parse::<Verb>().unwrap(), verb);
        }
        for bad in ["", "add", "Add", "UPDATE", " ADD"] {
            let error = bad.parse::<Verb>().unwrap_err();
            assert_eq!(error.code, Code::INVALID_ENVIRONMENT);
            assert!(error.msg.contains(&format!("CNI_COMMAND is {bad:?}, expected ADD,")), "{error}");
        }
    }
}

mod args {
    use super::*;

    #[test]
    fn those_of_containerd_are_understood() {
        let text = "IgnoreUnknown=1;K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns-0;\
                    K8S_POD_INFRA_CONTAINER_ID=0123abc;K8S_POD_UID=6d1f;K8S_POD_NEW_KEY=a=b";
        let args = Args::parse(text).unwrap();
        assert_eq!(args.pod.unwrap().to_string(), "kube-system/dns-0");
        assert_eq!(args.pod_uid.as_deref(), Some("6d1f"));
        assert_eq!(args.infra_container.as_deref(), Some("0123abc"));
        assert!(args.ignore_unknown);
        assert_eq!(args.unknown["K8S_POD_NEW_KEY"], "a=b");
    }

    #[test]
    fn none_are_needed() {
        for empty in ["", ";", "K8S_POD_NAME=;K8S_POD_NAMESPACE=", "IgnoreUnknown=0"] {
            assert_eq!(Args::parse(empty).unwrap(), Args::default(), "{empty}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_unless_it_is_to_be_ignored() {
        for strict in ["Foo=1;K8S_POD_UID=u", "IgnoreUnknown=0;Foo=1", "ignoreunknown=1;Foo=1"] {
            let error = Args::parse(strict).unwrap_err();
            assert_eq!(error.code, Code::INVALID_ENVIRONMENT);
            assert!(error.msg.contains("\"Foo\"") && error.details.contains("IgnoreUnknown=1"), "{error}");
        }
        for lax in ["IgnoreUnknown=1;Foo=1", "Foo=1;IgnoreUnknown=true", "IgnoreUnknown=TRUE;Foo="] {
            assert!(Args::parse(lax).unwrap().unknown.contains_key("Foo"), "{lax}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, expected) in [
            ("K8S_POD_NAME", "CNI_ARGS has \"K8S_POD_NAME\", expected KEY=VALUE"),
            ("=x", "CNI_ARGS has \"=x\", expected KEY=VALUE"),
            ("IgnoreUnknown=yes", "IgnoreUnknown in CNI_ARGS is \"yes\", expected 1, true, 0 or false"),
            ("K8S_POD_NAME=a", "CNI_ARGS has K8S_POD_NAME and no K8S_POD_NAMESPACE"),
            ("K8S_POD_NAMESPACE=a", "CNI_ARGS has K8S_POD_NAMESPACE and no K8S_POD_NAME"),
            ("K8S_POD_NAMESPACE=a;K8S_POD_NAME=A", "CNI_ARGS: \"A\" is not a valid pod name"),
            ("K8S_POD_UID=a;K8S_POD_UID=b", "CNI_ARGS has \"K8S_POD_UID\" twice, as \"a\" and as \"b\""),
        ] {
            let error = Args::parse(text).unwrap_err();
            assert_eq!(error.code, Code::INVALID_ENVIRONMENT);
            assert!(error.msg.contains(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in any::<String>()) {
            let _ = Args::parse(&text);
        }

        #[test]
        fn text_of_the_grammar_round_trips(
            pairs in proptest::collection::vec(
                ("(IgnoreUnknown|K8S_POD_(NAME|NAMESPACE|UID|INFRA_CONTAINER_ID)|[A-Z]{1,3})", "[a-z0-9=]{0,3}|1"),
                0..8,
            )
        ) {
            let text = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(";");
            if let Ok(args) = Args::parse(&text) {
                prop_assert_eq!(Args::parse(&args.to_string()).unwrap(), args);
            }
        }

        #[test]
        fn the_arguments_of_a_pod_round_trip(
            namespace in "[a-z0-9]{1,8}", name in "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", uid in "[a-f0-9-]{1,36}",
            unknown in "[^;=]{1,8}=[^;]{0,8}",
        ) {
            let text = format!(
                "{unknown};IgnoreUnknown=1;K8S_POD_UID={uid};K8S_POD_NAME={name};K8S_POD_NAMESPACE={namespace}"
            );
            let args = Args::parse(&text).unwrap();
            prop_assert_eq!(args.pod.as_ref().unwrap().to_string(), format!("{namespace}/{name}"));
            prop_assert_eq!(args.pod_uid.as_ref().unwrap(), &uid);
            prop_assert_eq!(Args::parse(&args.to_string()).unwrap(), args);
        }
    }
}

mod network_config {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let config = NetworkConfig::parse(CONFIG).unwrap();
        assert_eq!(config.cni_version, SpecVersion::V1_1_0);
        assert_eq!(config.name.as_str(), "flock");
        assert_eq!(config.run_dir, PathBuf::from("/run/flock"));
        assert_eq!(config.timeout, Duration::from_secs(60));
        assert_eq!((config.mtu, config.pod_annotations, config.prev_result), (None, None, None));
    }

    #[test]
    fn everything_can_be_set_and_unknown_keys_are_ignored() {
        let all = config(&json!({
            "cniVersion": "0.4.0", "runDir": "/srv/flock", "mtu": 9000, "timeoutSeconds": 110,
            "future": {"a": [1]}, "capabilities": {"portMappings": true},
            "runtimeConfig": {
                "portMappings": [{"HostPort": 1}],
                "io.kubernetes.cri.pod-annotations": {"flock.fritzlab.net/ipv4": "false"},
            },
            "prevResult": {"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "192.0.2.1/24"}]},
        }));
        let config = NetworkConfig::parse(&all).unwrap();
        assert_eq!(config.run_dir, PathBuf::from("/srv/flock"));
        assert_eq!((config.mtu, config.timeout), (Some(9000), Duration::from_secs(110)));
        assert_eq!(config.pod_annotations.unwrap()["flock.fritzlab.net/ipv4"], "false");
        assert_eq!(config.prev_result.unwrap().ips[0].address.to_string(), "192.0.2.1/24");
        let delivery = Delivery::parse(&all).unwrap();
        assert_eq!((delivery.run_dir, delivery.timeout), (config.run_dir, config.timeout));
    }

    #[test]
    fn no_annotations_told_differs_from_told_that_there_are_none() {
        let annotations = |runtime: Value| {
            NetworkConfig::parse(&config(&json!({"runtimeConfig": runtime}))).unwrap().pod_annotations
        };
        assert_eq!(annotations(json!(null)), None);
        assert_eq!(annotations(json!({})), None);
        assert_eq!(annotations(json!({"io.kubernetes.cri.pod-annotations": null})), None);
        assert!(annotations(json!({"io.kubernetes.cri.pod-annotations": {}})).unwrap().is_empty());
    }

    #[test]
    fn an_mtu_of_zero_is_the_nodes_own() {
        assert_eq!(NetworkConfig::parse(&config(&json!({"mtu": 0}))).unwrap().mtu, None);
    }

    #[test]
    fn what_can_not_be_decoded_is_code_6() {
        for (text, expected) in [
            ("", "the network configuration is empty"),
            ("{", "the network configuration is not valid JSON"),
            ("{} {}", "the network configuration is not valid JSON"),
            ("\u{feff}{}", "the network configuration is not valid JSON"),
            ("[]", "the network configuration is [], expected a JSON object"),
        ] {
            let error = NetworkConfig::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.code, Code::DECODING_FAILURE, "{error}");
            assert!(error.msg.contains(expected), "{error}");
        }
        for (extra, expected) in [
            (json!({"cniVersion": 1}), "\"cniVersion\" is 1, expected a string"),
            (json!({"name": ["a"]}), "\"name\" is [\"a\"], expected a string"),
            (json!({"name": ["a\u{7f}b"]}), "\"name\" is [\"a\\u{7f}b\"], expected a string"),
            (json!({"runDir": true}), "\"runDir\" is true, expected a string"),
            (json!({"mtu": "1500"}), "\"mtu\" is \"1500\", expected 0 (the node's own) or 68 to 65535 bytes"),
            (
                json!({"timeoutSeconds": {}}),
                "\"timeoutSeconds\" is {}, expected a whole number from 1 to 110",
            ),
            (json!({"runtimeConfig": []}), "\"runtimeConfig\" is [], expected an object"),
            (
                json!({"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"a": 1}}}),
                "the annotation \"a\" in \"io.kubernetes.cri.pod-annotations\" is 1, expected a string",
            ),
            (json!({"prevResult": "x"}), "\"prevResult\" is \"x\", expected an object"),
            (
                json!({"prevResult": {"ips": [{}]}}),
                "prevResult.ips[0] is {}, which can't be read: missing field `address`",
            ),
            (json!({"prevResult": {"interfaces": {}}}), "\"interfaces\" is {}, expected a list"),
            (
                json!({"prevResult": {"routes": [{"dst": "x"}]}}),
                "prevResult.routes[0] is {\"dst\":\"x\"}, which can't be read: ",
            ),
        ] {
            let error = NetworkConfig::parse(&config(&extra)).unwrap_err();
            assert_eq!(error.code, Code::DECODING_FAILURE, "{error}");
            assert!(error.msg.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_can_be_decoded_and_is_wrong_is_code_7() {
        for (extra, expected) in [
            (json!({"name": null}), "\"name\": \"\" is not a valid network name"),
            (json!({"name": "a/b"}), "\"name\": \"a/b\" is not a valid network name"),
            (json!({"runDir": "run/flock"}), "\"runDir\" is \"run/flock\", expected the absolute path"),
            (json!({"runDir": ""}), "\"runDir\" is \"\", expected the absolute path"),
            (json!({"mtu": 67}), "\"mtu\" is 67, expected 0 (the node's own) or 68 to 65535 bytes"),
            (json!({"mtu": 65536}), "\"mtu\" is 65536"),
            (json!({"mtu": -1}), "\"mtu\" is -1"),
            (json!({"mtu": 1500.5}), "\"mtu\" is 1500.5"),
            (json!({"timeoutSeconds": 0}), "\"timeoutSeconds\" is 0, expected a whole number from 1 to 110"),
            (json!({"timeoutSeconds": 111}), "\"timeoutSeconds\" is 111"),
            (
                json!({"prevResult": {"ips": [{"address": "192.0.2.1/24", "interface": 0}]}}),
                "prevResult.ips[0].interface is 0, expected an index into its 0 interfaces",
            ),
        ] {
            let error = NetworkConfig::parse(&config(&extra)).unwrap_err();
            assert_eq!(error.code, Code::INVALID_CONFIG, "{error}");
            assert!(error.msg.contains(expected), "{error}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            Just(json!("192.0.2.1/24")),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let key = "address|interface|name|ips|dns|io\\.kubernetes\\.cri\\.pod-annotations|[a-z]{0,2}";
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(key, inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in any::<Vec<u8>>()) {
            let _ = NetworkConfig::parse(&bytes);
            let _ = version_info(&bytes);
        }

        #[test]
        fn any_values_are_parsed_or_refused(
            fields in proptest::collection::btree_map(
                "mtu|runDir|timeoutSeconds|runtimeConfig|prevResult|cni\\.dev/valid-attachments", any_json(), 0..4
            ),
            prev in any_json(),
        ) {
            let mut extra = Value::Object(fields.into_iter().collect());
            let _ = NetworkConfig::parse(&config(&extra));
            let _ = gc(&serde_json::from_slice(&config(&extra)).unwrap());
            extra["prevResult"] = json!({"ips": prev});
            let _ = NetworkConfig::parse(&config(&extra));
        }

        #[test]
        fn what_can_be_set_is_read_back(mtu in 68..=65_535_u32, seconds in 1..=110_u64, dir in "/[a-z/]{0,9}") {
            let config = config(&json!({"mtu": mtu, "timeoutSeconds": seconds, "runDir": dir}));
            let config = NetworkConfig::parse(&config).unwrap();
            prop_assert_eq!(config.mtu, Some(mtu));
            prop_assert_eq!(config.timeout, Duration::from_secs(seconds));
            prop_assert_eq!(config.run_dir, PathBuf::from(dir));
        }
    }
}

mod garbage_collection {
    use super::*;

    fn base(extra: &Value) -> Value {
        serde_json::from_slice(&config(extra)).unwrap()
    }

    #[test]
    fn absent_and_empty_are_not_the_same() {
        assert_eq!(gc(&base(&json!({}))).unwrap().valid, None);
        assert_eq!(gc(&base(&json!({"cni.dev/valid-attachments": null}))).unwrap().valid, None);
        assert_eq!(
            gc(&base(&json!({"cni.dev/valid-attachments": []}))).unwrap().valid,
            Some(BTreeSet::new())
        );
    }

    #[test]
    fn both_keys_are_known_and_the_newer_one_counts() {
        let list = |id: &str| json!([{"containerID": id, "ifname": "eth0", "extra": 1}]);
        for (extra, expected) in [
            (json!({"cni.dev/valid-attachments": list("a")}), "a/eth0"),
            (json!({"cni.dev/attachments": list("b")}), "b/eth0"),
            (json!({"cni.dev/valid-attachments": list("a"), "cni.dev/attachments": list("b")}), "a/eth0"),
        ] {
            let valid = gc(&base(&extra)).unwrap().valid.unwrap();
            assert_eq!(valid.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
        }
    }

    #[test]
    fn a_list_that_can_not_be_read_deletes_nothing() {
        for (list, expected) in [
            (json!({}), "\"cni.dev/valid-attachments\" is {}, expected a list"),
            (json!(["a"]), "cni.dev/valid-attachments[0] is \"a\", expected an object"),
            (
                json!([{"containerID": "a"}]),
                "cni.dev/valid-attachments[0]: \"\" is not a valid interface name",
            ),
            (json!([{"containerID": "../a", "ifname": "eth0"}]), "\"../a\" is not a valid container id"),
        ] {
            let error = gc(&base(&json!({"cni.dev/valid-attachments": list}))).unwrap_err();
            assert!(error.msg.contains(expected), "{error}");
        }
    }
}

mod errors {
    use super::*;

    #[test]
    fn they_have_the_specifications_form() {
        let error = Error::new(Code::TRY_AGAIN_LATER, "not yet", "wait");
        assert_eq!(
            error.to_json(SpecVersion::V0_4_0),
            json!({"cniVersion": "0.4.0", "code": 11, "msg": "not yet", "details": "wait"})
        );
        assert_eq!(error.to_string(), "not yet (wait)");
        assert_eq!(Error::new(Code(7), "a", "").to_string(), "a");
    }

    /// CNI specification 1.1.0, section "Error codes".
    #[test]
    fn the_specifications_codes_have_its_numbers() {
        let codes = [
            Code::INCOMPATIBLE_VERSION,
            Code::UNSUPPORTED_FIELD,
            Code::UNKNOWN_CONTAINER,
            Code::INVALID_ENVIRONMENT,
            Code::IO_FAILURE,
            Code::DECODING_FAILURE,
            Code::INVALID_CONFIG,
            Code::TRY_AGAIN_LATER,
            Code::NOT_AVAILABLE,
            Code::LIMITED,
        ];
        assert_eq!(codes.map(|code| code.0), [1, 2, 3, 4, 5, 6, 7, 11, 50, 51]);
    }
}

#[test]
fn results_survive_their_own_versions() {
    let full = include_str!("golden/cni/chained-1.1.0.json");
    let result = CniResult::from_json(&serde_json::from_str(full).unwrap()).unwrap();
    for version in SpecVersion::ALL {
        let again = CniResult::from_json(&result.to_json(version)).unwrap();
        assert_eq!(again.to_json(version), result.to_json(version));
        assert_eq!(again == result, version == SpecVersion::V1_1_0, "only 1.1.0 says everything");
    }
}
