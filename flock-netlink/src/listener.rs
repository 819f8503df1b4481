//! Listens to what the kernel tells everybody of changes on the node, and keeps what
//! of it concerns Flock until somebody asks.
//!
//! It has a thread and a socket of its own, since it must read fast: what does not fit
//! into the socket's buffer is lost. That something was lost is known (`ENOBUFS`), and
//! then everything is worth a look. Between two looks into the socket it pauses for some
//! milliseconds, so that a flood of others' changes wakes it not more than so often.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use flock_core::dataplane::{DataplaneError, Disturbance};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use tokio::sync::Notify;

use crate::conversation::Conversation;

mod notice;
mod watched;

use watched::Watched;

/// Of linux/rtnetlink.h: links, neighbours, addresses and routes of both families, and
/// settings of both.
const GROUPS: [u32; 8] = [1, 3, 5, 7, 9, 11, 24, 25];

/// Of the socket, in bytes: some ten thousand changes of routes.
const BUFFER: usize = 8 * 1024 * 1024;

/// More than the kernel puts into one datagram of these groups.
const DATAGRAM: usize = 64 * 1024;

/// Between two looks into the socket.
const PAUSE: Duration = Duration::from_millis(5);

/// Of one look, so that it ends also when the kernel is faster.
const DATAGRAMS_AT_ONCE: usize = 16 * 1024;

/// After something was lost again so soon, the next look comes only after as long.
const OVERWHELMED: Duration = Duration::from_secs(1);

/// The numbers of this process's sockets, by which the kernel says who asked for a change.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnPorts(Arc<Mutex<HashSet<u32>>>);

impl OwnPorts {
    pub(crate) fn add(&self, port: u32) {
        self.lock().insert(port);
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the thread when it is dropped.
pub(crate) struct Listener {
    shared: Arc<Shared>,
    stop: Arc<OwnedFd>,
}

#[derive(Default)]
struct Shared {
    told: Mutex<Disturbance>,
    noticed: Notify,
    ended: AtomicBool,
}

impl Listener {
    /// Begins to listen in the network namespace of the calling thread.
    pub(crate) fn start(ports: OwnPorts) -> Result<Self, DataplaneError> {
        let failed = |source| DataplaneError::Kernel {
            action: "tell of changes to links, addresses and routes".to_owned(),
            source,
        };
        let socket = subscribe().map_err(failed)?;
        let mut conversation = Conversation::open().map_err(failed)?;
        // After the subscription: nothing can come in between.
        let watched = Watched::read(&mut conversation)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?);
        let shared = Arc::<Shared>::default();
        let mut ear = Ear {
            socket,
            conversation,
            watched,
            ports,
            shared: Arc::clone(&shared),
            stop: Arc::clone(&stop),
            datagram: Vec::with_capacity(DATAGRAM),
            lost_at: None,
        };
        let thread = thread::Builder::new().name("flock-listener".to_owned());
        thread.spawn(move || ear.listen()).map_err(failed)?;
        Ok(Self { shared, stop })
    }

    /// Waits for something to be told.
    pub(crate) async fn disturbed(&self) -> Result<Disturbance, DataplaneError> {
        loop {
            let told = std::mem::take(&mut *self.shared.told());
            if !told.is_empty() {
                return Ok(told);
            }
            if self.shared.ended.load(Ordering::Relaxed) {
                let said = "the thread that listens to the kernel has ended early; restart the agent";
                return Err(DataplaneError::Backend(said.to_owned()));
            }
            self.shared.noticed.notified().await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A counter that can't be raised is raised already.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }
}

impl Shared {
    fn tell(&self, disturbance: Disturbance) {
        if !disturbance.is_empty() {
            self.told().merge(disturbance);
            self.noticed.notify_one();
        }
    }

    fn told(&self) -> MutexGuard<'_, Disturbance> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("told", &*self.shared.told()).finish_non_exhaustive()
    }
}

fn subscribe() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    // Above the system's limit only with CAP_NET_ADMIN in the first user namespace.
    if set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
        set_socket_recv_buffer_size(&socket, BUFFER)?;
    }
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    Ok(socket)
}

fn is_overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error())
}

/// What the thread has.
struct Ear {
    socket: Socket,
    /// To read everything anew.
    conversation: Conversation,
    watched: Watched,
    ports: OwnPorts,
    shared: Arc<Shared>,
    stop: Arc<OwnedFd>,
    datagram: Vec<u8>,
    lost_at: Option<Instant>,
}

/// How a look into the socket has ended.
enum Heard {
    All,
    /// The buffer was full.
    TooMuch,
}

impl Ear {
    fn listen(&mut self) {
        let _ended = Ended(Arc::clone(&self.shared));
        loop {
            match self.wait() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return tracing::error!(%error, "can't wait for the kernel's notices"),
            }
            let mut told = Disturbance::default();
            let heard = self.hear(&mut told);
            self.shared.tell(told);
            let pause = match heard {
                Ok(Heard::All) => PAUSE,
                Ok(Heard::TooMuch) => self.begin_anew(),
                Err(error) => {
                    tracing::error!(%error, "the kernel's notices of changes can't be read");
                    self.begin_anew()
                }
            };
            if self.is_stopped_within(pause) {
                return;
            }
        }
    }

    /// Until there is something to read; false when it is time to stop.
    fn wait(&self) -> io::Result<bool> {
        let mut ready = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
        ];
        loop {
            match poll(&mut ready, None) {
                Ok(_) => return Ok(ready[1].revents().is_empty()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn is_stopped_within(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut ready = [PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN)];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout =
                Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            match poll(&mut ready, Some(&timeout)) {
                Ok(ready) => return ready > 0,
                Err(Errno::INTR) => {}
                Err(_) => return true,
            }
        }
    }

    /// Reads what there is.
    fn hear(&mut self, told: &mut Disturbance) -> io::Result<Heard> {
        for _ in 0..DATAGRAMS_AT_ONCE {
            self.datagram.clear();
            let (_, sender) = match self.socket.recv_from(&mut self.datagram, 0) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Heard::All),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if is_overrun(&error) => return Ok(Heard::TooMuch),
                Err(error) => return Err(error),
            };
            // Only the kernel has the number 0.
            if sender.port_number() == 0 {
                let own = self.ports.lock();
                for notice in notice::notices(&self.datagram) {
                    self.watched.see(notice, own.contains(&notice.port), told);
                }
            }
        }
        Ok(Heard::All)
    }

    /// After something was lost: forgets what was heard, and looks. Returns how long to pause.
    fn begin_anew(&mut self) -> Duration {
        let now = Instant::now();
        let is_again = self.lost_at.is_some_and(|before| now.duration_since(before) < 10 * OVERWHELMED);
        self.lost_at = Some(now);
        self.empty();
        match Watched::read(&mut self.conversation) {
            Ok(watched) => self.watched = watched,
            Err(error) => tracing::error!(%error, "links and routes can't be listed after notices were lost"),
        }
        self.shared.tell(Disturbance::of_everything());
        if is_again { OVERWHELMED } else { PAUSE }
    }

    /// A buffer that was full takes nothing until it is empty, and the kernel says only
    /// once that something was lost.
    fn empty(&mut self) {
        loop {
            self.datagram.clear();
            match self.socket.recv(&mut self.datagram, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_overrun(&error) || error.kind() == io::ErrorKind::Interrupted => {}
                // What it is, the next look says.
                Err(_) => return,
            }
        }
    }
}

/// Says so when the thread ends, however it does.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
        self.0.noticed.notify_one();
    }
}
