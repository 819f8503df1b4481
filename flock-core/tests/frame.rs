//! The frame between plugin and agent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

use std::io::Cursor;
use std::time::Duration;

use flock_core::cni::{self, Code, Operation, RawCall, Verb};
use flock_core::frame::{
    self, FrameError, HEADER_LEN, Incoming, Inquiry, InquiryFrame, MAX_LEN, PROTOCOL, Request, Response,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn request() -> Request {
    Request::new(&RawCall {
        verb: Verb::Add,
        container_id: "0123456789ab",
        ifname: "eth0",
        netns: "/run/netns/pod1",
        args: "IgnoreUnknown=1",
        config: br#"{"cniVersion": "1.1.0", "name": "flock"}"#,
        remaining: Duration::from_millis(59_990),
    })
    .unwrap()
}

fn json_of(request: &Request) -> Value {
    serde_json::to_value(request).unwrap()
}

#[test]
fn a_request_has_the_documented_form() {
    assert_eq!(
        json_of(&request()),
        json!({
            "protocol": 1, "verb": "ADD", "containerId": "0123456789ab", "ifname": "eth0",
            "netns": "/run/netns/pod1", "args": "IgnoreUnknown=1",
            "config": {"cniVersion": "1.1.0", "name": "flock"}, "remainingMs": 59_990,
        })
    );
}

#[test]
fn a_response_has_the_documented_form() {
    let error = cni::Error::new(Code(11), "a", "b");
    for (response, expected) in [
        (Response::EMPTY, json!({"result": null})),
        (Response::result(&json!({"cniVersion": "1.1.0"})), json!({"result": {"cniVersion": "1.1.0"}})),
        (Response::from(error), json!({"error": {"code": 11, "msg": "a", "details": "b"}})),
    ] {
        assert_eq!(serde_json::to_value(&response).unwrap(), expected);
        let again = Response::from_json(expected.to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), expected);
    }
}

#[test]
fn the_length_stands_in_front_in_network_byte_order() {
    let frame = frame::encode(&json!({"a": 1})).unwrap();
    assert_eq!(frame, b"\x00\x00\x00\x07{\"a\":1}");
}

#[test]
fn a_frame_that_is_not_complete_is_waited_for() {
    let frame = frame::encode(&request()).unwrap();
    for len in 0..frame.len() {
        assert!(frame::decode(&frame[..len]).unwrap().is_none(), "{len}");
    }
    assert_eq!(frame::decode(&frame).unwrap(), Some(&frame[HEADER_LEN..]));
}

#[tokio::test]
async fn the_largest_frame_passes_and_one_byte_more_does_not() {
    let largest = "x".repeat(MAX_LEN - 2);
    let mut wire = Vec::new();
    frame::write(&mut wire, &largest).unwrap();
    assert_eq!(frame::read(Cursor::new(&wire)).unwrap().len(), MAX_LEN);
    assert_eq!(frame::read_async(Cursor::new(&wire)).await.unwrap().len(), MAX_LEN);

    let larger = "x".repeat(MAX_LEN - 1);
    let refused = |error| matches!(error, FrameError::TooLong { len } if len == MAX_LEN + 1);
    assert!(refused(frame::write(Vec::new(), &larger).unwrap_err()));
    assert!(refused(frame::write_async(Vec::new(), &larger).await.unwrap_err()));
    let announced = u32::try_from(MAX_LEN + 1).unwrap().to_be_bytes();
    assert!(refused(frame::decode(&announced).unwrap_err()));
    assert!(refused(frame::read(Cursor::new(announced)).unwrap_err()));
    assert!(refused(frame::read_async(Cursor::new(announced)).await.unwrap_err()));
}

#[tokio::test]
async fn blocking_and_async_write_the_same_bytes() {
    let (mut blocking, mut other) = (Vec::new(), Vec::new());
    frame::write(&mut blocking, &request()).unwrap();
    frame::write_async(&mut other, &request()).await.unwrap();
    assert_eq!(blocking, other);
}

#[tokio::test]
async fn an_end_in_the_middle_says_how_far_it_came() {
    let frame = frame::encode(&json!({"a": 1})).unwrap();
    for (len, expected) in [(0, 0), (3, 0), (4, 4), (9, 9)] {
        let blocking = frame::read(Cursor::new(&frame[..len])).unwrap_err();
        let other = frame::read_async(Cursor::new(&frame[..len])).await.unwrap_err();
        for error in [blocking, other] {
            assert!(
                matches!(error, FrameError::Truncated { received } if received == expected),
                "{len}: {error}"
            );
        }
    }
}

#[test]
fn another_protocol_version_is_told_from_garbage() {
    for found in [0, 2, u32::MAX] {
        // A later version may change everything else.
        let json = json!({"protocol": found, "verb": {"new": "form"}}).to_string();
        let error = Request::from_json(json.as_bytes()).unwrap_err();
        assert!(matches!(error, FrameError::Protocol { found: f } if f == found));
        let error = cni::Error::from(error);
        assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
        assert!(error.msg.contains(&format!("protocol version {found}, expected {PROTOCOL}")), "{error}");
        assert!(error.details.contains("from one release"), "{error}");
    }
}

#[test]
fn what_is_no_request_is_code_6() {
    let mut unknown_verb = json_of(&request());
    unknown_verb["verb"] = json!("UPDATE");
    let mut no_config = json_of(&request());
    no_config.as_object_mut().unwrap().remove("config");
    for json in ["", "{", "[]", "{}", &unknown_verb.to_string(), &no_config.to_string()] {
        let error = cni::Error::from(Request::from_json(json.as_bytes()).unwrap_err());
        assert_eq!(error.code, Code::DECODING_FAILURE, "{json}: {error}");
    }
}

/// What a client sends is no part of the log's form, nor of a terminal's.
#[test]
fn what_a_message_repeats_is_escaped_and_cut() {
    for (name, shown) in [("\\r\\u001b[2J", "`\\r\\u{1b}[2J`"), (&"x".repeat(100_000), "(cut)")] {
        let json = format!("{{\"{name}\": null}}");
        let message = Response::from_json(json.as_bytes()).unwrap_err().to_string();
        assert!(message.contains(shown) && message.len() < 1000, "{message}");
        assert!(!message.contains(char::is_control), "{message:?}");
    }
}

#[test]
fn an_inquiry_is_told_from_a_request() {
    for (inquiry, verb) in [(Inquiry::View, "VIEW"), (Inquiry::Repair, "REPAIR")] {
        let json = serde_json::to_value(InquiryFrame::new(inquiry)).unwrap();
        assert_eq!(json, json!({"protocol": 1, "verb": verb}));
        let read = Incoming::from_json(json.to_string().as_bytes()).unwrap();
        assert!(matches!(read, Incoming::Inquiry(found) if found == inquiry), "{read:?}");
        // What an agent of before says, which knows only requests.
        let error = cni::Error::from(Request::from_json(json.to_string().as_bytes()).unwrap_err());
        assert!(error.msg.contains(&format!("unknown variant `{verb}`, expected one of `ADD`")), "{error}");
        assert!(error.details.contains("from one release"), "{error}");

        let later = json!({"protocol": 2, "verb": verb}).to_string();
        let error = Incoming::from_json(later.as_bytes()).unwrap_err();
        assert!(matches!(error, FrameError::Protocol { found: 2 }), "{error}");
    }
    let read = Incoming::from_json(json_of(&request()).to_string().as_bytes()).unwrap();
    assert!(matches!(read, Incoming::Request(found) if found.verb == Verb::Add));
    assert!(Incoming::from_json(b"{}").is_err());
}

#[test]
fn further_fields_do_not_disturb() {
    let mut json = json_of(&request());
    json["later"] = json!(1);
    assert!(Request::from_json(json.to_string().as_bytes()).is_ok());
}

#[test]
fn the_agent_validates_again_what_the_plugin_was_told() {
    let Operation::Attachment(call) = request().operation().unwrap() else { panic!("an ADD") };
    assert_eq!(call.key.to_string(), "0123456789ab/eth0");
    assert_eq!(call.remaining, Duration::from_millis(59_990));
    for (field, value, code) in [
        ("containerId", json!("../etc"), Code::INVALID_ENVIRONMENT),
        ("ifname", json!("a/b"), Code::INVALID_ENVIRONMENT),
        ("netns", json!(""), Code::INVALID_ENVIRONMENT),
        ("args", json!("x=1"), Code::INVALID_ENVIRONMENT),
        ("config", json!(null), Code::DECODING_FAILURE),
        ("config", json!({"cniVersion": "0.2.0", "name": "flock"}), Code::INCOMPATIBLE_VERSION),
    ] {
        let mut json = json_of(&request());
        json[field] = value;
        let request = Request::from_json(json.to_string().as_bytes()).unwrap();
        assert_eq!(Operation::try_from(&request).unwrap_err().code, code, "{field}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in any::<Vec<u8>>()) {
        if let Ok(Some(json)) = frame::decode(&bytes) {
            prop_assert!(json.len() + HEADER_LEN <= bytes.len());
        }
        let _ = frame::read(Cursor::new(&bytes));
        let _ = Request::from_json(&bytes).map(|request| request.operation());
        let _ = Response::from_json(&bytes);
    }

    #[test]
    fn what_was_told_arrives(
        container in any::<String>(), ifname in any::<String>(), netns in any::<String>(), args in any::<String>(),
        remaining in any::<u64>(),
    ) {
        let sent = Request {
            container_id: container, ifname, netns, args, remaining_ms: remaining, ..request()
        };
        let wire = frame::encode(&sent).unwrap();
        let received = Request::from_json(frame::decode(&wire).unwrap().unwrap()).unwrap();
        prop_assert_eq!(json_of(&received), json_of(&sent));
        let _ = received.operation();
    }
}
