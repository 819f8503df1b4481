use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Mutex;

use jiff::civil::{DateTime, datetime};

use super::*;
use crate::control::{ControlError, reply};

/// At BIRD, when it is asked first.
const NOON: DateTime = datetime(2026, 1, 1, 12, 0, 0, 0);

fn answer(after: Duration, rows: &str) -> Answer {
    Answer {
        status: Status { now: Some(NOON + after), ..Status::default() },
        protocols: protocols::parse(&reply(&format!("{rows}0000 \n"))).known,
    }
}

fn session(name: &str, state: &str, since: &str, info: &str) -> String {
    format!("1002-{name} BGP --- {state} {since}  {info}\n")
}

fn seen(seen: &mut Seen, rows: &str, after: Duration, wall: SystemTime) -> Vec<PeerStatus> {
    let start = *START.get_or_init(Instant::now);
    let protocols = protocols::parse(&reply(&format!("{rows}0000 \n"))).known;
    seen.take(&protocols, Some(NOON + after), start + after, wall)
}

static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

#[test]
fn only_flocks_peers_are_told_in_the_order_of_their_names() {
    let rows = "1002-peer_b BGP --- up 2026-01-01 11:59:00.000  Established\n\
        1006-  BGP state: Established\n     Neighbor address: 192.0.2.254\n     Neighbor AS: 64500\n   \
        Channel ipv4\n     State: UP\n     Routes: 4 imported, 3 exported\n   Channel ipv6\n     State: DOWN\n   \
        Channel flow4\n     State: UP\n     Routes: 9 imported, 9 exported\n\
        1002-peer_a BGP --- start 2026-01-01 11:59:30.000  Active        Socket: Connection refused\n\
        1002-other BGP --- up 10:00:00.000  Established\n1002-peer_k Kernel master4 up 10:00:00.000  \n";
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let family = |family, received, advertised| FamilyRoutes { family, received, advertised };
    let expected = [
        PeerStatus {
            name: "a".into(),
            address: None,
            asn: None,
            state: SessionState::Active,
            since: Some(wall - Duration::from_secs(30)),
            families: Vec::new(),
            last_error: Some("Socket: Connection refused".into()),
        },
        PeerStatus {
            name: "b".into(),
            address: Some("192.0.2.254".parse().unwrap()),
            asn: Some(64500),
            state: SessionState::Established,
            since: Some(wall - Duration::from_secs(60)),
            families: vec![family(Family::Ipv4, 4, 3), family(Family::Ipv6, 0, 0)],
            last_error: None,
        },
    ];
    assert_eq!(seen(&mut Seen::default(), rows, Duration::ZERO, wall), expected);
}

#[test]
fn the_session_with_an_unnumbered_peer_is_told_in_place_of_the_wait_for_it() {
    let row = |name: &str, state: &str| {
        let state_of_protocol = if state == "Established" { "up" } else { "start" };
        session(name, state_of_protocol, "2026-01-01 11:59:00.000", state)
    };
    let state = |rows: &str| {
        let peers = seen(
            &mut Seen::default(),
            rows,
            Duration::ZERO,
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_000),
        );
        let [peer] = &peers[..] else { panic!("{peers:?}") };
        (peer.name.clone(), peer.state.clone())
    };
    let waiting = row("peer_tor-1", "Passive");
    let (first, up) = (row("session_tor-1_9", "OpenSent"), row("session_tor-1_10", "Established"));
    let is = |state: SessionState| ("tor-1".to_owned(), state);
    assert_eq!(state(&waiting), is(SessionState::Passive));
    for rows in [format!("{first}{waiting}"), format!("{waiting}{first}")] {
        assert_eq!(state(&rows), is(SessionState::OpenSent));
    }
    for rows in [format!("{first}{waiting}{up}"), format!("{up}{first}{waiting}")] {
        assert_eq!(state(&rows), is(SessionState::Established));
    }
    // Of others that Flock has not made.
    let others: String =
        ["session_tor-1_x", "session_9", "session_tor_1_9"].map(|name| row(name, "Established")).concat();
    assert_eq!(state(&format!("{waiting}{others}")), is(SessionState::Passive));
}

/// The session is the same one although BIRD is off by a millisecond, and although the machine's clock
/// was set; it is another one if it began later.
#[test]
fn since_stays_while_the_session_does() {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let up = |since: &str| session("peer_a", "up", since, "Established");
    let secs = Duration::from_secs;
    let mut before = Seen::default();
    let mut since = |rows: &str, after, wall| seen(&mut before, rows, after, wall)[0].since;
    let first = since(&up("2026-01-01 11:59:00.000"), secs(0), wall);
    assert_eq!(first, Some(wall - secs(60)));
    assert_eq!(since(&up("2026-01-01 11:59:00.001"), secs(3), wall + secs(3)), first);
    assert_eq!(since(&up("2026-01-01 11:58:59.999"), secs(6), wall + secs(5000)), first);
    let again = since(&up("2026-01-01 12:00:07.000"), secs(9), wall + secs(9));
    assert_eq!(again, Some(wall + secs(7)));
    assert_eq!(since(&up("2026-01-01"), secs(12), wall + secs(12)), None);
}

/// Answers in turn, each with how long it takes; and what was asked when.
struct Script {
    answers: Mutex<VecDeque<Result<String, ControlError>>>,
    asked: Mutex<Vec<Duration>>,
    start: Instant,
}

impl Script {
    fn new(answers: impl IntoIterator<Item = Result<String, ControlError>>) -> Self {
        let answers = Mutex::new(answers.into_iter().collect());
        Self { answers, asked: Mutex::default(), start: Instant::now() }
    }
}

#[async_trait]
impl Ask for Script {
    /// After the last answer, none comes.
    async fn ask(&self) -> Result<Answer, QueryError> {
        self.asked.lock().unwrap().push(self.start.elapsed());
        let next = self.answers.lock().unwrap().pop_front();
        match next {
            Some(Ok(rows)) => Ok(answer(self.start.elapsed(), &rows)),
            Some(Err(error)) => Err(error.into()),
            None => std::future::pending().await,
        }
    }
}

fn away() -> ControlError {
    ControlError::Unreachable { socket: PathBuf::from("bird.ctl"), reason: "of this test".into() }
}

fn up() -> String {
    session("peer_a", "up", "2026-01-01 11:59:00.000", "Established")
}

#[tokio::test(start_paused = true)]
async fn a_node_without_bgp_asks_nobody_and_one_with_it_asks_in_rounds() {
    let script = Script::new([Ok(up()), Ok(up()), Ok(up())]);
    let (announcer, peers) = (watch::Sender::new(Applied::Idle), watch::Sender::new(Peers::Unknown));
    let following = follow(&script, announcer.subscribe(), &peers);
    tokio::select! {
        () = following => unreachable!("it ended"),
        () = async {
            tokio::time::sleep(ROUND * 3).await;
            assert_eq!(*script.asked.lock().unwrap(), [], "nothing is announced");
            announcer.send_replace(Applied::Pending { generation: 1 });
            tokio::time::sleep(ROUND * 5).await;
        } => {}
    }
    let first = ROUND * 3;
    assert_eq!(*script.asked.lock().unwrap(), [first, first + ROUND, first + ROUND * 2, first + ROUND * 3]);
}

#[tokio::test(start_paused = true)]
async fn a_bird_that_does_not_answer_leaves_nothing_of_what_it_said() {
    let script = Script::new([Ok(up()), Err(away()), Err(away()), Ok(up()), Ok(up())]);
    let announcer = watch::Sender::new(Applied::Applied { generation: 1 });
    let peers = watch::Sender::new(Peers::Unknown);
    let mut told = peers.subscribe();
    let following = follow(&script, announcer.subscribe(), &peers);
    let mut history = Vec::new();
    tokio::select! {
        () = following => unreachable!("it ended"),
        () = async {
            while tokio::time::timeout(ROUND * 3, told.changed()).await.is_ok() {
                history.push(told.borrow_and_update().clone());
            }
        } => {}
    }
    let known: Vec<bool> = history.iter().map(|peers| matches!(peers, Peers::Known(_))).collect();
    assert_eq!(known, [true, false, true], "each change is told once: {history:?}");
    assert_eq!(history[1], Peers::Away(away().into()));
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_after_the_announcer_has_ended() {
    let script = Script::new([Ok(up()), Ok(up())]);
    let announcer = watch::Sender::new(Applied::Idle);
    let peers = watch::Sender::new(Peers::Unknown);
    let receiver = announcer.subscribe();
    drop(announcer);
    let following = follow(&script, receiver, &peers);
    assert!(tokio::time::timeout(ROUND * 5, following).await.is_err(), "it ended");
    assert_eq!(*script.asked.lock().unwrap(), [Duration::ZERO, ROUND, ROUND * 2]);
}
