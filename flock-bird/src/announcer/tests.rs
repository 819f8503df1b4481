//! The task's timing on tokio's paused clock: no test here waits for real time.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use flock_core::node_config::Peer;
use tokio::time::Instant;

use super::*;

/// Milliseconds since the start, and the text.
type Applied = Arc<Mutex<Vec<(u128, Arc<str>)>>>;

/// Notes when it was asked for what, and answers as told.
#[derive(Debug, Default, Clone)]
struct Recorder {
    started: Option<Instant>,
    takes: Duration,
    answers: Arc<Mutex<VecDeque<Result<(), AnnounceError>>>>,
    applied: Applied,
}

impl Recorder {
    fn new(answers: impl IntoIterator<Item = Result<(), AnnounceError>>) -> Self {
        Self {
            started: Some(Instant::now()),
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            ..Self::default()
        }
    }

    /// When something was applied, in milliseconds since the start.
    fn times(&self) -> Vec<u128> {
        lock(&self.applied).iter().map(|(time, _)| *time).collect()
    }

    fn last(&self) -> Arc<str> {
        Arc::clone(&lock(&self.applied).last().unwrap().1)
    }
}

#[async_trait]
impl Target for Recorder {
    async fn apply(&mut self, text: &Arc<str>) -> Result<(), AnnounceError> {
        lock(&self.applied).push((self.started.unwrap().elapsed().as_millis(), Arc::clone(text)));
        tokio::time::sleep(self.takes).await;
        lock(&self.answers).pop_front().unwrap_or(Ok(()))
    }

    fn forget(&mut self) {}
}

fn announcer(recorder: &Recorder) -> BirdAnnouncer {
    BirdAnnouncer::with_target(recorder.clone(), &BirdConfig::new(70)).unwrap()
}

/// A state that differs from every other `number`.
fn state(number: u8) -> Announcements {
    Announcements {
        summaries: ["10.0.1.0/24".parse().unwrap()].into(),
        anycast: [IpAddr::from([198, 51, 100, number])].into(),
        ..Announcements::new(64512, Ipv4Addr::new(192, 0, 2, 1))
    }
}

fn text_of(state: &Announcements) -> String {
    Renderer::new(70).unwrap().render(state).unwrap()
}

fn away() -> AnnounceError {
    AnnounceError::Unreachable { endpoint: "/x".to_owned(), reason: "gone".to_owned() }
}

async fn pass(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_change_is_applied_at_once_and_the_following_together() {
    let recorder = Recorder::new([]);
    let announcer = announcer(&recorder);
    for number in 1..=10 {
        announcer.sync(&state(number)).await.unwrap();
        pass(30).await;
    }
    pass(2_000).await;
    assert_eq!(recorder.times(), [0, 500]);
    assert_eq!(*recorder.last(), *text_of(&state(10)), "the last state wins");
    announcer.sync(&state(11)).await.unwrap();
    announcer.applied().await.unwrap();
    assert_eq!(recorder.times(), [0, 500, 2_300], "after a pause the next one is a first one again");
}

#[tokio::test(start_paused = true)]
async fn two_thousand_changes_in_ten_seconds_are_few_applications_and_end_with_the_last() {
    let recorder = Recorder::new([]);
    let announcer = announcer(&recorder);
    for number in 0..2_000_u32 {
        announcer.sync(&state(u8::try_from(number % 251).unwrap())).await.unwrap();
        pass(5).await;
    }
    announcer.applied().await.unwrap();
    let times = recorder.times();
    assert!((20..=21).contains(&times.len()), "{times:?}");
    assert_eq!(*recorder.last(), *text_of(&state(u8::try_from(1_999 % 251).unwrap())));
}

#[tokio::test(start_paused = true)]
async fn a_change_during_an_application_is_not_lost() {
    let recorder = Recorder { takes: Duration::from_secs(2), ..Recorder::new([]) };
    let announcer = announcer(&recorder);
    announcer.sync(&state(1)).await.unwrap();
    pass(1_000).await;
    announcer.sync(&state(2)).await.unwrap();
    announcer.applied().await.unwrap();
    assert_eq!(recorder.times(), [0, 2_000]);
    assert_eq!(*announcer.status().borrow(), Status::Applied { generation: 2 });
}

#[tokio::test(start_paused = true)]
async fn a_call_that_changes_nothing_does_nothing() {
    let recorder = Recorder::new([]);
    let announcer = announcer(&recorder);
    for _ in 0..3 {
        announcer.sync(&state(1)).await.unwrap();
        pass(1_000).await;
    }
    assert_eq!(recorder.times(), [0]);
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_trying_while_bird_is_away() {
    let recorder = Recorder::new([Err(away()), Err(away()), Err(away())]);
    let announcer = announcer(&recorder);
    announcer.sync(&state(1)).await.unwrap();
    assert_eq!(announcer.applied().await, Err(away()));
    pass(60_000).await;
    assert_eq!(recorder.times(), [0, 200, 600, 1_400]);
    assert_eq!(announcer.counts(), Counts { applied: 1, refused: 0, failed: 3 });
    assert_eq!(*announcer.status().borrow(), Status::Applied { generation: 1 });
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_not_tried_again_by_itself() {
    let refused = AnnounceError::Refused { message: "x:1:1 no".to_owned() };
    let recorder = Recorder::new([Err(refused.clone())]);
    let announcer = announcer(&recorder);
    announcer.sync(&state(1)).await.unwrap();
    assert_eq!(announcer.applied().await, Err(refused));
    pass(60_000).await;
    assert_eq!(recorder.times(), [0]);
    announcer.sync(&state(1)).await.unwrap();
    announcer.applied().await.unwrap();
    assert_eq!(recorder.times(), [0, 60_000], "asked for again, it is tried again");
    assert_eq!(announcer.counts(), Counts { applied: 1, refused: 1, failed: 0 });
}

#[tokio::test(start_paused = true)]
async fn an_invalid_state_is_refused_at_once_and_not_handed_over() {
    let recorder = Recorder::new([]);
    let announcer = announcer(&recorder);
    announcer.sync(&state(1)).await.unwrap();
    announcer.applied().await.unwrap();
    let invalid = Announcements { router_id: Ipv4Addr::UNSPECIFIED, ..state(2) };
    assert!(matches!(announcer.sync(&invalid).await, Err(AnnounceError::Invalid(_))));
    pass(2_000).await;
    assert_eq!(recorder.times(), [0]);
    assert_eq!(*announcer.status().borrow(), Status::Applied { generation: 1 });
}

#[tokio::test(start_paused = true)]
async fn shutdown_applies_what_waits_and_then_nothing_is_taken() {
    let recorder = Recorder::new([]);
    let announcer = announcer(&recorder);
    announcer.sync(&state(1)).await.unwrap();
    announcer.applied().await.unwrap();
    announcer.sync(&state(2)).await.unwrap();
    announcer.shutdown().await;
    assert_eq!(*recorder.last(), *text_of(&state(2)));
    assert_eq!(recorder.times(), [0, 0], "it does not wait for the window to end");
    assert!(matches!(announcer.sync(&state(3)).await, Err(AnnounceError::Backend(_))));
    announcer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn dropping_ends_the_task() {
    let recorder = Recorder::new([]);
    let announcer = announcer(&recorder);
    announcer.sync(&state(1)).await.unwrap();
    let mut status = announcer.status();
    drop(announcer);
    while status.changed().await.is_ok() {}
    assert_eq!(*status.borrow(), Status::Failed { generation: 1, error: ended() }, "nobody waits for ever");
    assert_eq!(Arc::strong_count(&recorder.applied), 1, "the task's copy is gone");
}

#[test]
fn families_that_no_peer_carries_are_found() {
    let mut wanted = state(1);
    wanted.summaries.insert("2001:db8:1::/64".parse().unwrap());
    assert_eq!(families_without_peer(&wanted), Vec::<&str>::new(), "no peers at all is meant so");
    wanted.peers.push(Peer::new("tor", "192.0.2.254".parse().unwrap(), 64500));
    assert_eq!(families_without_peer(&wanted), ["IPv6"]);
    wanted
        .peers
        .push(Peer { families: Family::ALL.into(), ..Peer::new("b", "192.0.2.253".parse().unwrap(), 64500) });
    assert_eq!(families_without_peer(&wanted), Vec::<&str>::new());
    wanted.peers.pop();
    assert_eq!(families_without_peer(&wanted), ["IPv6"]);
}
