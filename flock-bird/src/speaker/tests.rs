//! Against sockets that answer as told, and against a real BIRD in a network namespace of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::*;

/// A directory with a file that is in place, and a speaker of the BIRD that listens there.
struct Place {
    directory: TempDir,
    speaker: Speaker,
}

impl Place {
    fn new(in_place: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("bird.conf"), in_place).unwrap();
        let file = ConfigFile::new(&directory.path().join("bird.conf")).unwrap();
        let client = Client::new(directory.path().join("bird.ctl"), Duration::from_secs(10));
        Self { speaker: Speaker::new(file, client), directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("bird.ctl")
    }

    /// What is in place; nothing else may be left there but the socket.
    fn file(&self) -> String {
        let mut others = fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(others.all(|name| name == "bird.conf" || name == "bird.ctl"));
        fs::read_to_string(self.directory.path().join("bird.conf")).unwrap()
    }
}

/// Listens and answers each command by its beginning; returns what was asked.
fn answering(socket: &Path, answers: &[(&'static str, &'static str)]) -> Arc<Mutex<Vec<String>>> {
    let listener = UnixListener::bind(socket).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (noted, answers) = (Arc::clone(&asked), answers.iter().copied().collect::<BTreeMap<_, _>>());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"0001 BIRD 2.0.12 ready.\n").await.unwrap();
            let mut buffer = [0; 512];
            let count = stream.read(&mut buffer).await.unwrap();
            let command = String::from_utf8(buffer[..count].to_vec()).unwrap();
            // The last that fits: "configure check" comes after "configure".
            let answer = answers.iter().rev().find(|(begin, _)| command.starts_with(*begin)).unwrap().1;
            noted.lock().unwrap().push(command);
            stream.write_all(format!("0002-Reading\n{answer}\n").as_bytes()).await.unwrap();
        }
    });
    asked
}

#[tokio::test]
async fn a_configuration_is_checked_put_in_place_and_taken_once() {
    let mut place = Place::new("old");
    let asked =
        answering(&place.socket(), &[("configure", "0003 Reconfigured"), ("configure check", "0020 OK")]);
    for _ in 0..2 {
        place.speaker.apply(&Arc::from("new")).await.unwrap();
    }
    assert_eq!(place.file(), "new");
    let path = place.directory.path().join("bird.conf");
    let expected = [
        format!("configure check \"{0}.new\"\n", path.display()),
        format!("configure \"{}\"\n", path.display()),
    ];
    assert_eq!(*asked.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_file_that_is_in_place_already_is_not_written_but_taken() {
    let mut place = Place::new("same");
    let path = place.directory.path().join("bird.conf");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let asked = answering(&place.socket(), &[("configure", "0003 Reconfigured")]);
    place.speaker.apply(&Arc::from("same")).await.unwrap();
    assert_eq!(asked.lock().unwrap().len(), 1);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
}

#[tokio::test]
async fn answers_that_mean_taken() {
    for answer in ["0003 Reconfigured", "0004 Reconfiguration in progress", "0005 queued"] {
        let mut place = Place::new("same");
        answering(&place.socket(), &[("configure", answer)]);
        assert_eq!(place.speaker.apply(&Arc::from("same")).await, Ok(()), "{answer}");
    }
}

#[tokio::test]
async fn a_bird_that_is_ending_is_as_one_that_is_away() {
    let mut place = Place::new("same");
    answering(&place.socket(), &[("configure", "0006 Reconfiguration ignored, shutting down")]);
    let error = place.speaker.apply(&Arc::from("same")).await.unwrap_err();
    assert!(error.to_string().contains("it is shutting down"), "{error}");
}

#[tokio::test]
async fn an_answer_that_means_nothing_is_quoted() {
    let mut place = Place::new("old");
    answering(&place.socket(), &[("configure check", "0013 Daemon is up")]);
    let error = place.speaker.apply(&Arc::from("new")).await.unwrap_err();
    assert!(matches!(&error, AnnounceError::Backend(text) if text.contains("0013 Daemon is up")), "{error}");
    assert_eq!(place.file(), "old");
}

/// What BIRD says may quote the configuration, be long, and act on a terminal.
#[tokio::test]
async fn what_bird_says_of_a_refusal_is_one_short_line() {
    let said: &str = Box::leak(format!("8002 bird.conf:1:1 \u{1b}[2J{}", "word\r".repeat(3_000)).into());
    for answers in [[("configure", said), ("configure check", "0020 OK")], [("configure check", said); 2]] {
        let mut place = Place::new("old");
        answering(&place.socket(), &answers);
        let AnnounceError::Refused { message } = place.speaker.apply(&Arc::from("new")).await.unwrap_err()
        else {
            panic!("not refused")
        };
        assert!(message.starts_with("bird.conf:1:1 \\u{1b}[2Jword\\rword"), "{message:.1000}");
        assert!(!message.contains(char::is_control) && message.len() < 1_000, "{message:.2000}");
    }
}

#[tokio::test]
async fn what_came_in_place_unchecked_and_is_refused_gives_way_to_what_was_there() {
    let mut place = Place::new("old");
    let error = place.speaker.apply(&Arc::from("unchecked")).await.unwrap_err();
    assert!(matches!(error, AnnounceError::Unreachable { .. }), "{error}");
    place.speaker.apply(&Arc::from("unchecked too")).await.unwrap_err();
    assert_eq!(place.file(), "unchecked too", "a BIRD that starts now starts with it");

    answering(&place.socket(), &[("configure", "8002 bird.conf:1:1 no")]);
    let error = place.speaker.apply(&Arc::from("unchecked too")).await.unwrap_err();
    assert_eq!(error, AnnounceError::Refused { message: "bird.conf:1:1 no".to_owned() });
    assert_eq!(place.file(), "old");
}

#[tokio::test]
async fn a_real_bird_refuses_with_its_own_words_and_line_and_the_last_good_file_stays() {
    let good = "router id 192.0.2.1;\nprotocol device {}\n";
    let mut place = Place::new(good);
    let bird = RealBird::start(&place);
    bird.answers(&place).await;
    place.speaker.apply(&Arc::from(good)).await.unwrap();
    let bad = format!("{good}protocol bgp 'a b' {{}}\n");
    let AnnounceError::Refused { message } = place.speaker.apply(&Arc::from(bad)).await.unwrap_err() else {
        panic!("not refused")
    };
    let path = place.directory.path().join("bird.conf");
    assert!(message.starts_with(&format!("{}:3:", path.display())), "{message}");
    assert_eq!(place.file(), good);
    let other = "router id 192.0.2.2;\nprotocol device {}\n";
    place.speaker.apply(&Arc::from(other)).await.unwrap();
    assert_eq!(place.file(), other);
}

/// Killed when dropped, and by the kernel when the test is killed.
struct RealBird(Child);

impl RealBird {
    fn start(place: &Place) -> Self {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "bird", "-f", "-c"])
            .arg(place.directory.path().join("bird.conf"))
            .arg("-s")
            .arg(place.socket())
            .spawn()
            .unwrap();
        Self(child)
    }

    async fn answers(&self, place: &Place) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while place.speaker.client.ask("show status").await.is_err() {
            assert!(Instant::now() < deadline, "BIRD did not start; it needs root and bird2");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for RealBird {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
