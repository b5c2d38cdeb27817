//! A box and a receiver in virtual time: everything real but the network, the disk and the store.
//!
//! The box is a [`Spool`] on a disk that forgets, [`Custody`] and the uplink's driver; the receiver is
//! its listener and library over a store that fails. Both speak quinn. Whoever makes a [`Hall`] moves
//! it through time and breaks it; the [`History`] judges.

use super::card::{self, Card};
use super::history::{Happening, History, Object};
use super::lecture::{Lecture, Plan};
use super::network::{BoxMachine, Link, Network, RECEIVER};
use super::random::Random;
use super::station::{Ends, Outcome, Station};
use super::store::{Objects, Store};
use crate::blocking;
use crate::clock;
use crate::media::{BoxId, Hash, Monotonic, SegmentKey};
use crate::receiver::archive::{self, Archive};
use crate::receiver::authority::Authority;
use crate::receiver::library::{self, Library};
use crate::receiver::listener::Listener;
use crate::receiver::roster::{Entry, Roster, fingerprint};
use crate::spool::twin::TwinDisk;
use crate::spool::{self, Spool};
use crate::station::custody;
use crate::uplink::Source;
use crate::uplink::identity::Identity;
use crate::uplink::quic::{self, Uplink};
use object_store::memory::InMemory;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Keys and certificates of one receiver and one box, made once for many runs.
pub(super) struct Keys {
    state: tempfile::TempDir,
    home: tempfile::TempDir,
}

impl Keys {
    pub fn make() -> Self {
        let (state, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Authority::create(state.path(), &["receiver.example.org".into()], false).unwrap();
        let authority = Authority::load(state.path()).unwrap();
        let identity = Identity::open(home.path()).unwrap();
        let request = state.path().join("box.csr");
        std::fs::write(&request, identity.certificate_request(None).unwrap()).unwrap();
        let signed = authority.sign(&request).unwrap();
        identity.install(&signed.chain_pem).unwrap();
        let entry = Entry {
            room: "Lecture hall 1".into(),
            certificate_blake3: fingerprint(&signed.certificate).to_string(),
            revoked: false,
        };
        Roster::new(state.path())
            .enter(signed.box_id, &entry)
            .unwrap();
        Self { state, home }
    }

    /// The box's files as they are before its first start.
    fn home(&self) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(self.home.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), home.path().join(entry.file_name())).unwrap();
        }
        home
    }
}

/// How the box ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crash {
    /// `kill -9`: the page cache stays.
    Process,
    /// Of what was not synced, this seed decides what stays, and in which order it was written.
    Power(u64),
}

struct RunningBox {
    station: JoinHandle<Outcome>,
    uplink: JoinHandle<()>,
    alive: Arc<AtomicBool>,
    _stop: watch::Sender<bool>,
    stats: Arc<quic::Stats>,
}

struct RunningReceiver {
    store: Arc<Store>,
    task: JoinHandle<()>,
    library: Arc<Library>,
    stats: Arc<crate::receiver::listener::Stats>,
}

/// How often what happened, over all runs of both programs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub reconnects: u64,
    pub box_starts: u64,
    pub box_crashes: u64,
    pub receiver_crashes: u64,
    pub bytes_again: u64,
    pub streams_refused: u64,
    pub erased: u64,
    pub stores_restored: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.reconnects += other.reconnects;
        self.box_starts += other.box_starts;
        self.box_crashes += other.box_crashes;
        self.receiver_crashes += other.receiver_crashes;
        self.bytes_again += other.bytes_again;
        self.streams_refused += other.streams_refused;
        self.erased += other.erased;
        self.stores_restored += other.stores_restored;
    }
}

/// See the module.
pub(super) struct Hall {
    pub network: Network,
    pub history: Arc<Mutex<History>>,
    pub objects: Objects,
    pub disk: TwinDisk,
    pub plan: Arc<Mutex<Plan>>,
    pub counts: Counts,
    /// Settings that a test may change before the first start.
    pub uplink: quic::Config,
    pub custody: custody::Config,
    /// For so long the box keeps what the receiver has.
    pub retention: Duration,
    store_copy: Option<InMemory>,
    random: Random,
    home: tempfile::TempDir,
    authority: Authority,
    roster: Roster,
    running: Option<RunningBox>,
    receiver: Option<RunningReceiver>,
}

impl Hall {
    /// A hall with nothing running; call it within the runtime of the run.
    pub fn new(keys: &Keys, random: &mut Random, up: Link, down: Link) -> Self {
        blocking::inline();
        clock::set_wall_off_by(0);
        let network = Network::new(random.fork(), up, down);
        let mut uplink = quic::Config::new("receiver.example.org:4433");
        uplink.machine = Arc::new(BoxMachine(network.clone()));
        Self {
            plan: Arc::new(Mutex::new(Plan::new(network.now()))),
            network,
            history: Arc::default(),
            objects: Objects::new(random),
            disk: TwinDisk::default(),
            counts: Counts::default(),
            uplink,
            custody: custody::Config::default(),
            retention: Duration::from_secs(7 * 86_400),
            store_copy: None,
            random: random.fork(),
            home: keys.home(),
            authority: Authority::load(keys.state.path()).unwrap(),
            roster: Roster::new(keys.state.path()),
            running: None,
            receiver: None,
        }
    }

    /// Plans a lecture.
    pub fn lecture(&self, lecture: Lecture) {
        self.plan.lock().unwrap().lectures.push(lecture);
    }

    pub fn note(&self, happening: Happening) {
        self.history.lock().unwrap().note(happening);
    }

    /// Starts the box's process; nothing if it runs, or if its spool cannot be opened.
    pub fn start_box(&mut self) {
        if self.running.is_some() {
            return;
        }
        let config = spool::Config {
            file_bytes: 64 * 1024,
            reserve_bytes: 1 << 20,
            retention: self.retention,
            ..spool::Config::new("/spool")
        };
        let Ok((spool, recovered)) = Spool::open(Arc::new(self.disk.clone()), config) else {
            return;
        };
        let disk = Arc::new(self.disk.clone());
        card::note_state(
            disk,
            &self.disk,
            &recovered,
            &mut self.history.lock().unwrap(),
        );
        self.counts.box_starts += 1;
        let identity = Identity::open(self.home.path()).unwrap();
        let epoch = identity.raise_epoch().unwrap();
        let box_id: BoxId = identity.box_id();
        let spool = Arc::new(Mutex::new(spool));
        let alive = Arc::new(AtomicBool::new(true));
        let source = Arc::new(Reader {
            spool: spool.clone(),
            alive: alive.clone(),
            history: self.history.clone(),
        });
        let stats: Arc<quic::Stats> = Arc::default();
        let uplink = Uplink {
            config: self.uplink.clone(),
            identity,
            epoch,
            source,
            stats: stats.clone(),
        };
        let (offers, offered) = mpsc::channel(1024);
        let (give_reports, reports) = mpsc::channel(1024);
        let (stop, stopped) = watch::channel(false);
        let uplink = tokio::spawn(uplink.run(offered, give_reports, stopped));
        let ends = Ends {
            network: self.network.clone(),
            history: self.history.clone(),
            plan: self.plan.clone(),
            random: self.random.fork(),
            offers,
            reports,
            card: Card::default(),
            disk: self.disk.clone(),
        };
        let station = Station::new(ends, spool, &recovered, box_id, (epoch, self.custody));
        self.running = Some(RunningBox {
            station: tokio::spawn(station.run()),
            uplink,
            alive,
            _stop: stop,
            stats,
        });
    }

    /// The box's process ends at this instant.
    pub async fn crash_box(&mut self, crash: Crash) {
        let Some(running) = self.running.take() else {
            return;
        };
        running.alive.store(false, Ordering::Relaxed);
        self.network.kill_box();
        running.station.abort();
        running.uplink.abort();
        self.note(Happening::BoxCrashed);
        if let Err(gone) = running.station.await
            && gone.is_panic()
        {
            std::panic::resume_unwind(gone.into_panic());
        }
        let _ = running.uplink.await;
        let stats = running.stats.snapshot();
        self.counts.reconnects += stats.reconnects;
        self.counts.bytes_again += stats.bytes_again;
        self.counts.box_crashes += 1;
        if let Crash::Power(seed) = crash {
            self.disk = self.disk.crash(seed);
        }
        self.plan.lock().unwrap().gone = self.network.now();
    }

    /// Starts the receiver's process, and has the history look at what its store holds.
    pub async fn start_receiver(&mut self) {
        if self.receiver.is_some() {
            return;
        }
        let store = self.objects.opened();
        let library = match Library::over(Archive::over(store.clone(), "simulated")).await {
            Ok(library) => Arc::new(library),
            Err(error) => {
                log::info!("the receiver does not start: {error}");
                return;
            }
        };
        self.look(&library).await;
        let network = self.network.clone();
        let listener = Listener::on_endpoint(
            RECEIVER,
            |config| network.receiver(config),
            &self.authority,
            library.clone(),
            self.roster.clone(),
        )
        .unwrap();
        let stats = listener.stats();
        let erasing = library.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                biased;
                () = listener.run() => {}
                () = erasing.watch_erased() => {}
            }
        });
        self.receiver = Some(RunningReceiver {
            store,
            task,
            library,
            stats,
        });
    }

    /// The receiver's process ends at this instant.
    pub async fn crash_receiver(&mut self) {
        let Some(receiver) = self.receiver.take() else {
            return;
        };
        receiver.store.kill();
        self.network.kill_receiver();
        receiver.task.abort();
        if let Err(gone) = receiver.task.await
            && gone.is_panic()
        {
            std::panic::resume_unwind(gone.into_panic());
        }
        self.counts.receiver_crashes += 1;
        self.counts.streams_refused += receiver.stats.streams_refused.load(Ordering::Relaxed);
    }

    /// Somebody erases the latest recording of which anything is stored. The store may refuse.
    pub async fn erase(&mut self) {
        let archive = Archive::over(self.objects.opened(), "simulated");
        let Some(recording) = archive.list().await.unwrap().into_keys().next_back() else {
            return;
        };
        if let Err(error) = library::erase(&archive, recording, None).await {
            log::info!("not erased, or not to the end: {error}");
        }
        if archive.is_erased(recording).await.unwrap() {
            self.counts.erased += 1;
            self.note(Happening::Erased { recording });
        }
    }

    /// A copy of the receiver's store is made.
    pub fn copy_store(&mut self) {
        self.store_copy = Some(self.objects.copy());
    }

    /// The receiver ends, and its store is replaced by the copy, if there is one.
    pub async fn restore_store(&mut self) {
        self.crash_receiver().await;
        if let Some(copy) = self.store_copy.take() {
            self.objects.restore(copy).await;
            self.counts.stores_restored += 1;
            self.note(Happening::ReceiverRestored);
            self.plan.lock().unwrap().restored = true;
        }
    }

    /// UTC steps, at both ends.
    pub fn step_clock(&self, nanos: i64) {
        let mut plan = self.plan.lock().unwrap();
        plan.wall_off_by += nanos;
        clock::set_wall_off_by(plan.wall_off_by);
    }

    /// What the store holds, for the history: listed and read as a reader does.
    async fn look(&self, library: &Library) {
        let archive = &library.archive;
        let mut objects: Vec<Object> = Vec::new();
        let mut complete = Vec::new();
        for (recording, listing) in archive.list().await.unwrap() {
            if listing.manifest {
                complete.push(recording);
            }
            for (track, sequences) in listing.segments {
                for sequence in sequences.into_keys() {
                    let key = SegmentKey {
                        recording,
                        track,
                        sequence,
                    };
                    let bytes = archive.read(&archive::segment_path(&key)).await.unwrap();
                    let hash = archive::hash(&bytes);
                    objects.push((key, bytes.len() as u64, hash));
                    self.note(Happening::Read {
                        key,
                        offset: 0,
                        bytes: bytes.into(),
                    });
                }
            }
        }
        self.note(Happening::Store { objects, complete });
    }

    /// Lets virtual time pass until `until`. A box whose process ended by itself is started again,
    /// as its service manager does.
    pub async fn pass(&mut self, until: Monotonic) {
        loop {
            let wait = until.since(self.network.now());
            let Some(running) = &mut self.running else {
                return clock::pause(wait).await;
            };
            match clock::within(wait, &mut running.station).await {
                None => return,
                Some(Err(gone)) if gone.is_panic() => std::panic::resume_unwind(gone.into_panic()),
                Some(ended) => log::info!("the station ended: {ended:?}"),
            }
            // The handle gave its result: the abort below finds nothing to do.
            let gone = self.running.take();
            if let Some(gone) = gone {
                gone.alive.store(false, Ordering::Relaxed);
                self.network.kill_box();
                gone.uplink.abort();
                let _ = gone.uplink.await;
                self.counts.box_crashes += 1;
                self.note(Happening::BoxCrashed);
                self.plan.lock().unwrap().gone = self.network.now();
            }
            clock::pause(Duration::from_secs(1)).await;
            self.start_box();
        }
    }

    /// Everything is well from now on: waits until every recording is complete, at most `patience`.
    pub async fn settle(&mut self, patience: Duration) -> bool {
        let deadline = self.network.now().plus(patience);
        while self.network.now() < deadline {
            self.start_receiver().await;
            self.start_box();
            self.pass(self.network.now().plus(Duration::from_secs(1)))
                .await;
            if self.plan.lock().unwrap().is_done(self.network.now()) {
                return true;
            }
        }
        false
    }

    /// For people: what a hall that did not settle waits for.
    pub fn why_not(&self) -> String {
        let plan = self.plan.lock().unwrap();
        let stats = self
            .running
            .as_ref()
            .map(|running| running.stats.snapshot());
        format!(
            "not settled: recording {}, incomplete {:?}, connections ended {:?}, uplink {stats:?}",
            plan.recording, plan.incomplete, plan.ends
        )
    }

    /// The last look, and the verdict.
    pub async fn judge(&mut self) -> Result<(), Vec<String>> {
        if let Some(receiver) = &self.receiver {
            let library = receiver.library.clone();
            self.look(&library).await;
        }
        if let Some(running) = &self.running {
            let stats = running.stats.snapshot();
            self.counts.reconnects += stats.reconnects;
            self.counts.bytes_again += stats.bytes_again;
        }
        let mut found = std::mem::take(&mut self.plan.lock().unwrap().breaches);
        if let Err(more) = self.history.lock().unwrap().judge() {
            found.extend(more);
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    }
}

/// The uplink's view of the spool: what it reads, it sends.
struct Reader {
    spool: Arc<Mutex<Spool>>,
    alive: Arc<AtomicBool>,
    history: Arc<Mutex<History>>,
}

impl Source for Reader {
    fn segment(&self, key: SegmentKey, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        let spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = spool
            .read(key, offset, length.into())
            .map_err(io::Error::from)?;
        if self.alive.load(Ordering::Relaxed) {
            self.history.lock().unwrap().note(Happening::Sent {
                key,
                offset,
                bytes: bytes.clone(),
                bulk: false,
            });
        }
        Ok(bytes)
    }

    fn init(&self, hash: &Hash) -> io::Result<Vec<u8>> {
        let spool = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = spool.read_init(hash).map_err(io::Error::from)?;
        bytes.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Runs `work` in a runtime of its own whose clock only moves when everything waits.
pub(super) fn in_virtual_time<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let result = runtime.block_on(work);
    // What a crash left behind ends with the runtime.
    runtime.shutdown_background();
    result
}
