//! Nothing is lost and nothing is told twice, whatever happens to the connection.

use std::time::Duration;

use flock_core::pods::{PodError, PodSource, PodState};
use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use crate::fake::{FakeApi, Mode, Recorded};
use crate::pods::{PODS, named, next, pod, synced, told, within};

/// How the connection is lost.
#[derive(Debug, Clone, Copy)]
enum Loss {
    /// The other end closes it, as after its time.
    End,
    /// It is reset.
    Reset,
    /// It is reset, and nobody listens for five minutes.
    Away,
    /// It goes dead without a word.
    Dead,
}

const LOSSES: [Loss; 4] = [Loss::End, Loss::Reset, Loss::Away, Loss::Dead];

/// Loses the connection while `meanwhile` happens.
async fn lose(api: &FakeApi, loss: Loss, meanwhile: impl FnOnce()) {
    match loss {
        // Nothing runs between these, so the client can't be back before it happened.
        Loss::End => api.end_watches(),
        Loss::Reset => api.break_watches(),
        Loss::Away => api.set_mode(Mode::Away),
        Loss::Dead => api.mute_watches(),
    }
    meanwhile();
    if let Loss::Away = loss {
        tokio::time::sleep(Duration::from_secs(300)).await;
        api.set_mode(Mode::Up);
    }
}

#[tokio::test(start_paused = true)]
async fn what_happened_meanwhile_is_told_once() {
    for loss in LOSSES {
        // Whether the API server still knows what happened, or only how it is now.
        for compacted in [false, true] {
            let api = FakeApi::new();
            for (name, ready) in [("stays", true), ("goes", true), ("starts", false), ("replaced", true)] {
                api.put(PODS, pod(name, "1", ready));
            }
            let pods = synced(&api).await;
            let mut changes = pods.changes();
            for _ in 0..4 {
                next(&mut changes).await;
            }
            lose(&api, loss, || {
                api.delete(PODS, "default", "goes");
                api.put(PODS, pod("starts", "1", true));
                api.delete(PODS, "default", "replaced");
                api.put(PODS, pod("replaced", "2", true));
                api.put(PODS, pod("new", "1", true));
                if compacted {
                    api.compact();
                }
            })
            .await;
            let mut heard = Vec::new();
            for _ in 0..5 {
                heard.push(next(&mut changes).await);
            }
            // The order is that of the changes, or of their names: in each, the old pod first.
            heard.sort_by(|one, other| one.pod.cmp(&other.pod));
            let expected = [
                told("goes", "1", PodState::Terminating),
                told("new", "1", PodState::Ready),
                told("replaced", "1", PodState::Terminating),
                told("replaced", "2", PodState::Ready),
                told("starts", "1", PodState::Ready),
            ];
            assert_eq!(heard, expected, "{loss:?}, compacted: {compacted}");
            api.until("the watch stands again", |state| state.watches.count(PODS) >= 1).await;
            assert_eq!(changes.next().now_or_never(), None, "{loss:?}, compacted: {compacted}");
            assert!(pods.health().connected);
            let lists = if compacted { 2 } else { 1 };
            assert_eq!(api.count(Recorded::is_list), lists, "{loss:?}, compacted: {compacted}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_noticed_soon_after_its_time() {
    let api = FakeApi::new();
    let pods = synced(&api).await;
    let started = Instant::now();
    api.mute_watches();
    api.put(PODS, pod("web", "1", false));
    assert!(pods.pod(&named("web"), within(120)).await.is_ok());
    assert!(started.elapsed() <= Duration::from_secs(66), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_comes_to_its_end_goes_on_from_the_last_bookmark() {
    let api = FakeApi::new();
    let pods = synced(&api).await;
    // Pods of other nodes count the version up.
    let mut other = pod("other", "1", false);
    other["spec"]["nodeName"] = "host002".into();
    api.put(PODS, other);
    api.bookmark();
    api.until("the next watch", |state| state.requests.len() == 3).await;
    api.see(|state| {
        let last = state.requests.last().unwrap();
        assert!(last.is_watch());
        assert_eq!(last.query["resourceVersion"], state.store.version().to_string());
    });
    let health = pods.health();
    assert!(health.connected && health.restarts == 0, "an end that was asked for is no failure: {health:?}");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_back_is_heard_though_nothing_happens() {
    let api = FakeApi::new();
    let pods = synced(&api).await;
    api.set_mode(Mode::Away);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let error = pods.pod(&named("web"), within(0)).await.unwrap_err().to_string();
    assert!(error.contains("has not been heard for 60 s"), "{error}");
    api.set_mode(Mode::Up);
    let error = pods.pod(&named("web"), within(10)).await.unwrap_err();
    assert!(matches!(error, PodError::NotFound { .. }), "{error}");
    let health = pods.health();
    assert!(health.connected && health.error.is_none() && health.failing_for.is_none(), "{health:?}");
    assert_eq!(api.count(Recorded::is_list), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_410_the_list_is_as_recent_as_can_be() {
    let api = FakeApi::new();
    api.put(PODS, pod("web", "1", false));
    let _pods = synced(&api).await;
    api.compact();
    api.break_watches();
    api.until("the second list", |state| state.requests.iter().filter(|it| it.is_list()).count() == 2).await;
    assert_is_recent(&api);
}

/// Any other version may be older than what was seen already: another API server may lag behind.
fn assert_is_recent(api: &FakeApi) {
    api.see(|state| {
        let list = state.requests.iter().rfind(|request| request.is_list()).unwrap();
        assert!(!list.query.contains_key("resourceVersion"), "{list:?}");
    });
}

#[tokio::test(start_paused = true)]
async fn a_version_that_the_api_server_does_not_have_yet_is_not_insisted_on() {
    let api = FakeApi::new();
    let pods = synced(&api).await;
    api.refuse_next(Recorded::is_watch, 504, "Too large resource version: 7, current: 3");
    api.break_watches();
    api.put(PODS, pod("web", "1", false));
    assert!(pods.pod(&named("web"), within(60)).await.is_ok());
    assert_eq!(api.count(Recorded::is_list), 2);
    assert_is_recent(&api);
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_read_is_not_passed_over() {
    let api = FakeApi::new();
    let pods = synced(&api).await;
    api.garble_next();
    api.put(PODS, pod("web", "1", false));
    api.put(PODS, pod("later", "2", false));
    assert!(pods.pod(&named("later"), within(60)).await.is_ok());
    assert!(pods.pod(&named("web"), within(60)).await.is_ok());
    assert_is_recent(&api);
}

#[tokio::test(start_paused = true)]
async fn a_410_to_the_request_itself_lists_anew_too() {
    let api = FakeApi::new();
    let pods = synced(&api).await;
    api.refuse_next(Recorded::is_watch, 410, "The resourceVersion for the provided watch is too old");
    api.break_watches();
    api.put(PODS, pod("web", "1", false));
    assert!(pods.pod(&named("web"), within(60)).await.is_ok());
    assert_eq!(api.count(Recorded::is_list), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_nothing_is_given_up_and_tried_again() {
    let api = FakeApi::new();
    api.set_mode(Mode::Silent);
    let pods = api.cluster().pods();
    api.until("it was tried again", |state| state.requests.len() == 2).await;
    let error = pods.health().error.unwrap();
    assert_eq!(error, "the API server has not answered within 15 s");
    api.set_mode(Mode::Up);
    pods.synced().await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_never_begun_is_given_up_and_tried_again() {
    let api = FakeApi::new();
    let pods = synced(&api).await;
    api.set_mode(Mode::Silent);
    api.end_watches();
    api.until("it was tried twice", |state| state.requests.len() == 4).await;
    assert!(!pods.health().connected);
    api.set_mode(Mode::Up);
    api.put(PODS, pod("web", "1", false));
    assert!(pods.pod(&named("web"), within(60)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_end_is_given_up_and_tried_again() {
    // As from a proxy that lost the API server meanwhile.
    let api = FakeApi::new();
    api.set_mode(Mode::Unfinished(200));
    let pods = api.cluster().pods();
    api.until("the list was tried again", |state| state.requests.len() == 2).await;
    assert_eq!(pods.health().error.unwrap(), "the API server has not answered within 15 s");
    api.set_mode(Mode::Up);
    api.until("the watch stands", |state| state.watches.count(PODS) == 1).await;

    api.set_mode(Mode::Unfinished(503));
    api.break_watches();
    let requests = api.count(|_| true);
    api.until("the watch was tried twice", |state| state.requests.len() == requests + 2).await;
    assert!(!pods.health().connected);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_each_watch_is_not_asked_in_a_circle() {
    let api = FakeApi::new();
    let pods = synced(&api).await;
    let started = Instant::now();
    for _ in 0..10 {
        api.until("a watch stands", |state| state.watches.count(PODS) == 1).await;
        api.end_watches();
    }
    assert!(started.elapsed() > Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(pods.health().restarts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_breaks_each_watch_is_not_asked_in_a_circle() {
    let api = FakeApi::new();
    let _pods = synced(&api).await;
    let started = Instant::now();
    for _ in 0..10 {
        api.until("a watch stands", |state| state.watches.count(PODS) == 1).await;
        api.break_watches();
    }
    assert!(started.elapsed() > Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn after_a_watch_that_stood_the_pauses_begin_anew() {
    for loss in [Loss::End, Loss::Reset] {
        let api = FakeApi::new();
        let _pods = synced(&api).await;
        // Until the pauses are long.
        api.set_mode(Mode::Away);
        tokio::time::sleep(Duration::from_secs(300)).await;
        api.set_mode(Mode::Up);
        api.until("the watch stands", |state| state.watches.count(PODS) == 1).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let started = Instant::now();
        lose(&api, loss, || {}).await;
        api.until("the watch stands again", |state| state.watches.count(PODS) == 1).await;
        assert!(started.elapsed() <= Duration::from_millis(200), "{loss:?}: {:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_not_asked_too_often() {
    let api = FakeApi::new();
    let _pods = synced(&api).await;
    api.set_mode(Mode::Away);
    tokio::time::sleep(Duration::from_secs(300)).await;
    let requests = api.see(|state| state.requests.len());
    assert!((60..=130).contains(&requests), "{requests} requests in five minutes");
}
