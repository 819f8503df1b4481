//! The client against sockets that behave and that do not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use flock_bird::control::{Client, Code, ControlError, ReplyError};
use flock_bird::{BirdAnnouncer, BirdConfig};
use flock_core::announcer::{AnnounceError, Announcements, RouteAnnouncer as _};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

const GREETING: &[u8] = b"0001 BIRD 2.0.12 ready.\n";

/// Serves each connection with `serve`, on the test's own runtime.
fn serving<F>(serve: impl Fn(UnixStream) -> F + Send + 'static) -> (TempDir, PathBuf)
where
    F: Future<Output = ()> + Send + 'static,
{
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("bird.ctl");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    (directory, socket)
}

/// Greets, reads one command, answers in small pieces.
async fn answer(mut stream: UnixStream, reply: &[u8]) {
    stream.write_all(GREETING).await.unwrap();
    let mut command = [0; 256];
    let count = stream.read(&mut command).await.unwrap();
    assert_eq!(command[..count].last(), Some(&b'\n'));
    for piece in reply.chunks(3) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
}

fn client(socket: &PathBuf) -> Client {
    Client::new(socket, Duration::from_secs(10))
}

#[tokio::test]
async fn a_reply_in_pieces_is_put_together() {
    let (_directory, socket) =
        serving(|stream| answer(stream, b"1000-BIRD 2.0.12\n1011-Router ID\n Hostname\n0013 Daemon is up\n"));
    let reply = client(&socket).ask("show status").await.unwrap();
    assert_eq!(reply.code(), Code(13));
    assert_eq!(reply.lines().count(), 4);
}

#[tokio::test]
async fn an_error_by_bird_is_a_reply() {
    let (_directory, socket) = serving(|stream| answer(stream, b"9001 syntax error\n"));
    let reply = client(&socket).ask("bogus").await.unwrap();
    assert!(!reply.is_success());
    assert_eq!(reply.text(), "syntax error");
}

#[tokio::test]
async fn a_connection_that_ends_early_is_not_a_reply() {
    let (_directory, socket) = serving(|stream| answer(stream, b"0002-Reading\n"));
    let error = client(&socket).ask("configure").await.unwrap_err();
    assert!(matches!(&error, ControlError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("closed before the answer ended"), "{error}");
}

#[tokio::test]
async fn what_is_not_bird_is_recognised() {
    for (greeting, source) in [
        (b"220 mail ESMTP\n".as_slice(), ReplyError::Malformed("220 mail ESMTP".to_owned())),
        (b"0000 \n".as_slice(), ReplyError::Greeting(String::new())),
    ] {
        let (_directory, socket) = serving(move |mut stream| async move {
            stream.write_all(greeting).await.unwrap();
        });
        let error = client(&socket).ask("show status").await.unwrap_err();
        assert_eq!(error, ControlError::Protocol { socket: socket.clone(), source });
    }
}

#[tokio::test]
async fn a_command_of_two_lines_is_not_sent() {
    let directory = tempfile::tempdir().unwrap();
    for command in ["show status\nconfigure", "a\0b", &"x".repeat(5_000)] {
        let error = client(&directory.path().join("none")).ask(command).await.unwrap_err();
        assert!(matches!(error, ControlError::Command { .. }), "{error}");
    }
}

#[tokio::test]
async fn no_socket_is_named_with_the_systems_answer() {
    let directory = tempfile::tempdir().unwrap();
    let error = client(&directory.path().join("bird.ctl")).ask("show status").await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("bird.ctl") && text.contains("No such file or directory"), "{text}");
}

#[tokio::test]
async fn a_bird_that_hangs_costs_no_more_than_the_timeout_and_leaves_the_file() {
    // Before the greeting, and after the command.
    for greets in [false, true] {
        let (directory, socket) = serving(move |mut stream| async move {
            if greets {
                stream.write_all(GREETING).await.unwrap();
            }
            let mut buffer = [0; 256];
            while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        });
        let config_path = directory.path().join("bird.conf");
        std::fs::write(&config_path, "# the last good one\n").unwrap();
        let announcer = BirdAnnouncer::start(&BirdConfig {
            config_path: config_path.clone(),
            socket_path: socket.clone(),
            timeout: Duration::from_millis(200),
            ..BirdConfig::new(70)
        })
        .unwrap();
        let started = Instant::now();
        announcer.sync(&Announcements::new(64512, "192.0.2.1".parse().unwrap())).await.unwrap();
        let error = announcer.applied().await.unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        let endpoint = socket.display().to_string();
        assert_eq!(error, AnnounceError::Timeout { endpoint, seconds: 1 });
        assert_eq!(std::fs::read_to_string(&config_path).unwrap(), "# the last good one\n");
        assert!(!directory.path().join("bird.conf.new").exists());
    }
}
