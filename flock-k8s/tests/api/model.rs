//! Random changes of pods over a connection that is lost at random: what readers were told adds
//! up to what is there.

use std::collections::BTreeMap;

use flock_core::pods::{PodSource, PodState};
use futures_util::{FutureExt, StreamExt};
use proptest::prelude::*;

use crate::fake::{FakeApi, Mode};
use crate::pods::{PODS, key, named, pod, synced, within};

#[derive(Debug, Clone)]
enum Step {
    Put {
        pod: u8,
        ready: bool,
        terminating: bool,
    },
    Delete {
        pod: u8,
    },
    Replace {
        pod: u8,
        ready: bool,
    },
    End,
    Reset,
    Mute,
    Away,
    Up,
    Compact,
    Bookmark,
    /// Lets the client do what it can, and time pass.
    Wait {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let pods = 0..3_u8;
    prop_oneof![
        4 => (pods.clone(), any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(pod, ready, terminating)| Step::Put { pod, ready, terminating }),
        2 => pods.clone().prop_map(|pod| Step::Delete { pod }),
        1 => (pods, any::<bool>()).prop_map(|(pod, ready)| Step::Replace { pod, ready }),
        1 => Just(Step::End),
        1 => Just(Step::Reset),
        1 => Just(Step::Mute),
        1 => Just(Step::Away),
        1 => Just(Step::Up),
        1 => Just(Step::Compact),
        1 => Just(Step::Bookmark),
        3 => (0..100_u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// What is there: UID, readiness, and whether it terminates.
type Pods = BTreeMap<u8, (u32, bool, bool)>;

fn take(api: &FakeApi, pods: &mut Pods, uids: &mut u32, step: &Step) {
    let mut new_uid = || {
        *uids += 1;
        *uids
    };
    match *step {
        Step::Put { pod, ready, terminating } => {
            let (uid, _, was_terminating) = *pods.entry(pod).or_insert_with(|| (new_uid(), false, false));
            // There is no way back from terminating.
            pods.insert(pod, (uid, ready, terminating || was_terminating));
            put(api, pod, pods[&pod]);
        }
        Step::Delete { pod } => {
            if pods.remove(&pod).is_some() {
                api.delete(PODS, "default", &name(pod));
            }
        }
        Step::Replace { pod, ready } => {
            take(api, pods, uids, &Step::Delete { pod });
            take(api, pods, uids, &Step::Put { pod, ready, terminating: false });
        }
        Step::End => api.end_watches(),
        Step::Reset => api.break_watches(),
        Step::Mute => api.mute_watches(),
        Step::Away => api.set_mode(Mode::Away),
        Step::Up => api.set_mode(Mode::Up),
        Step::Compact => api.compact(),
        Step::Bookmark => api.bookmark(),
        Step::Wait { .. } => {}
    }
}

fn name(pod: u8) -> String {
    format!("web-{pod}")
}

fn put(api: &FakeApi, number: u8, (uid, ready, terminating): (u32, bool, bool)) {
    let mut object = pod(&name(number), &uid.to_string(), ready);
    if terminating {
        object["metadata"]["deletionTimestamp"] = "2001-02-03T04:05:06Z".into();
    }
    api.put(PODS, object);
}

async fn told_adds_up(steps: Vec<Step>) {
    let api = FakeApi::new();
    let source = synced(&api).await;
    let mut changes = source.changes();
    let (mut pods, mut uids) = (Pods::new(), 0);
    for step in &steps {
        take(&api, &mut pods, &mut uids, step);
        if let Step::Wait { seconds } = step {
            tokio::time::sleep(std::time::Duration::from_secs(*seconds)).await;
        }
    }
    api.set_mode(Mode::Up);
    // The last of all: when it is there, all that was before is.
    api.put(PODS, pod("sentinel", "sentinel", false));
    source.pod(&named("sentinel"), within(600)).await.unwrap();

    let mut told = BTreeMap::new();
    while let Some(change) = changes.next().now_or_never().flatten() {
        let before = told.insert(change.pod.clone(), change.clone());
        assert_ne!(before.as_ref(), Some(&change), "told twice");
        let replaced = before.filter(|before| before.uid != change.uid);
        let ended = replaced.is_none_or(|before| before.state == PodState::Terminating);
        assert!(ended, "{change:?} was told before the end of the pod that it replaces");
    }
    for number in 0..3 {
        let told = told.get(&key(&name(number)));
        let Some((uid, ready, terminating)) = pods.get(&number) else {
            assert!(
                told.is_none_or(|told| told.state == PodState::Terminating),
                "{number} is gone: {told:?}"
            );
            continue;
        };
        let state = match (terminating, ready) {
            (true, _) => PodState::Terminating,
            (false, true) => PodState::Ready,
            (false, false) => PodState::NotReady,
        };
        let expected = crate::pods::told(&name(number), &uid.to_string(), state);
        assert_eq!(told, Some(&expected));
    }
    for number in 0..3 {
        let found = source.pod(&named(&name(number)), within(0)).await.ok();
        let uid = found.and_then(|found| found.uid);
        assert_eq!(uid, pods.get(&number).map(|(uid, ..)| uid.to_string()), "UID of {number}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn what_was_told_adds_up_to_what_is_there(steps in prop::collection::vec(step(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(told_adds_up(steps));
    }
}
