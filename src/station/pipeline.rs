//! The one place where the stages are joined.
//!
//! ```text
//!  source ── pump ──> pacer -> encoder -> segmenter ──> spool ──────> uplink
//!  device    thread   `video` or `sound` lane, one      `keeper`,     its own thread,
//!            + ring   thread per track                  one thread    tokio inside
//!                                                         │  ▲
//!                                                         ▼  │
//!                                                        sync thread
//! ```
//!
//! * device -> pacer: bounded, drops the oldest: what is fresh matters.
//! * encoder -> spool: bounded, blocks: nothing is dropped after the encoder.
//! * spool -> uplink: names only, not bounded: the bytes are on the disk and are read when they can
//!   be sent, so that a slow network holds nothing up.

use super::config::Config;
use super::control::{self, Reply, Request};
use super::custody::{self, Custody};
use super::darken;
use super::first_start;
use super::keeper::{Input, Keeper, Parts};
use super::lane::{Ends, LaneView};
use super::panel::{self, Panel};
use super::passing::PassingLane;
use super::sound::SoundLane;
use super::video::VideoLane;
use crate::clock;
use crate::media::{Hash, SegmentKey, TrackId, TrackKind};
use crate::spool::{LocalDisk, Spool, SyncJob};
use crate::uplink::identity::{Identity, Machine};
use crate::uplink::quic::{self, Uplink};
use crate::uplink::{Offer, Source};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Inputs that may wait for the keeper before lanes block.
const INPUTS: usize = 64;
/// Offers and reports that may wait for the uplink or the keeper.
const OFFERS: usize = 1024;

/// The tracks of a box, by number; 0 is the events track.
pub(super) const PRESENTER: (TrackId, &str) = (TrackId(1), "presenter");
pub(super) const SLIDES: (TrackId, &str) = (TrackId(2), "slides");
const MICROPHONE: (TrackId, &str) = (TrackId(3), "microphone");

/// What a track carries, by its number.
pub(super) fn kind_of(track: TrackId) -> TrackKind {
    match track {
        TrackId::EVENTS => TrackKind::Events,
        track if track == MICROPHONE.0 => TrackKind::Audio,
        _ => TrackKind::Video,
    }
}

/// What people call a track, by its number.
pub(super) fn name_of(track: TrackId) -> String {
    let tracks = [PRESENTER, SLIDES, MICROPHONE];
    let name = tracks.iter().find(|(known, _)| *known == track);
    name.map_or_else(|| format!("track {track}"), |(_, name)| (*name).to_owned())
}

/// Starts every stage and works until the process is asked to end.
pub(super) fn run(config: &Config) -> Result<(), super::Error> {
    let mut concerns = config.concerns.clone();
    let _lock = lock(&config.state_directory)?;
    let identity = identify(config, &mut concerns)?;
    let (box_id, epoch) = (identity.box_id(), identity.raise_epoch()?);
    // Devices open while the spool is read: nothing between here and the first chunk that is kept
    // waits for a network, a name or a clock.
    let (inputs, happenings) = sync_channel(INPUTS);
    let lanes = start_lanes(config, &inputs)?;
    start_panel(config, &inputs)?;
    let mut spool_config = crate::spool::Config::new(config.state_directory.join("spool"));
    spool_config.retention = config.retention;
    spool_config.quota_bytes = config.quota_bytes;
    spool_config.file_bytes = config.spool_file_bytes;
    let sync_interval = spool_config.sync_interval;
    let (spool, recovered) = Spool::open(Arc::new(LocalDisk), spool_config)?;
    let spool = Arc::new(Mutex::new(spool));
    let syncs = start_syncing(inputs.clone())?;
    let enrolling = identity.clone();
    let (offers, uplink) = match &config.receiver {
        Some(receiver) => {
            let mut driver = quic::Config::new(&receiver.address);
            driver.server_name = receiver.name.clone().unwrap_or(driver.server_name);
            driver.segmentation_offload = receiver.segmentation_offload;
            let source = Arc::new(SpoolReader(spool.clone()));
            let uplink = Uplink {
                config: driver,
                identity,
                epoch,
                source,
                stats: Arc::default(),
            };
            let (offers, ended) = start_uplink(uplink, inputs.clone())?;
            (Some(offers), Some(ended))
        }
        None => (None, None),
    };
    control::listen(&config.control_socket, {
        let (inputs, room) = (inputs.clone(), config.room.clone());
        move |request| match request {
            Request::CertificateRequest => {
                let made = enrolling.certificate_request(room.as_deref());
                made.map_or_else(
                    |error| Reply::Refused(error.to_string()),
                    Reply::CertificateRequest,
                )
            }
            Request::Install { chain } => install(&enrolling, &chain),
            request => ask(&inputs, request),
        }
    })?;
    // Before the lamp is lit the first time.
    darken::remember(&config.control_socket, Panel::of(config).as_ref());
    super::on_signal({
        let inputs = inputs.clone();
        move || drop(inputs.send(Input::Terminate))
    })?;

    let parts = Parts {
        custody: Custody::new(spool, epoch, custody::Config::default()),
        syncs,
        offers,
        lanes,
        box_id,
        room: config.room.clone(),
        concerns,
        board: config.board.clone(),
        rules: config.rules,
        lamp_needed: config.lines().map(|_| config.lamp_needed),
        network_commands: config.network_commands.clone(),
        resume_within: config.resume_within,
        sync_interval,
        wall: clock::wall,
    };
    super::notify_ready();
    Keeper::new(parts, &recovered).run(&happenings);
    // With the keeper went the last offer: the uplink takes leave of the receiver, in a second at most.
    drop(happenings);
    if let Some(uplink) = uplink {
        let _ = uplink.join();
    }
    Ok(())
}

/// Who the box is; what is wrong with that is added to the concerns.
fn identify(
    config: &Config,
    concerns: &mut Vec<(&'static str, String)>,
) -> Result<Identity, super::Error> {
    let state = &config.state_directory;
    let is_unused = first_start::is_unused(&state.join("spool"));
    let machine = Machine {
        serial: config.serial.as_deref(),
        is_unused,
    };
    let identity = Identity::open_on(state, machine)?;
    if let (Some(before), Some(serial)) = (identity.made_on(), machine.serial) {
        let what = format!(
            "{}: this box's key was made or enrolled on the machine {before}, and this is {serial}. If the card was \
             moved, enrol it here again (`hallcast enroll --csr`, then `--install`). If it was copied, two boxes \
             have one key: stop hallcast, move this directory away, start and enrol; \
             `hallcast spool export` reads what is in it",
            state.display()
        );
        log::warn!("{what}");
        concerns.push((first_start::OTHER_MACHINE, what));
    }
    Ok(identity)
}

/// Makes this the only box that works on the state directory, which is made where it is missing, until the
/// file is closed.
fn lock(state: &Path) -> Result<File, super::Error> {
    let path = state.join("lock");
    let refused = |path: &Path, error: io::Error| {
        super::Error::Refused(format!(
            "{}: cannot be made: {error}; make the state directory writable for the user of hallcast",
            path.display()
        ))
    };
    let mut directory = DirBuilder::new();
    let made = directory.recursive(true).mode(0o700).create(state);
    made.map_err(|error| refused(state, error))?;
    let file = File::create(&path).map_err(|error| refused(&path, error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(error) => Err(super::Error::Refused(format!(
            "{}: cannot lock the state directory ({error}): another hallcast works on it; stop it, or name another one with --state-directory",
            path.display()
        ))),
    }
}

fn start_lanes(config: &Config, keeper: &SyncSender<Input>) -> io::Result<Vec<LaneView>> {
    let mut lanes = Vec::new();
    for ((id, name), track) in [(PRESENTER, &config.presenter), (SLIDES, &config.slides)] {
        if let Some(track) = track.clone() {
            let (ends, view) = Ends::new(id, name, keeper.clone());
            if track.camera.is_passthrough() {
                spawn(&format!("{name} lane"), move || {
                    PassingLane { ends, track }.run()
                })?;
            } else {
                let lane = VideoLane::new(ends, track);
                spawn(&format!("{name} lane"), move || lane.run())?;
            }
            lanes.push(view);
        }
    }
    if let Some(track) = config.microphone.clone() {
        let (id, name) = MICROPHONE;
        let (ends, view) = Ends::new(id, name, keeper.clone());
        spawn(&format!("{name} lane"), move || {
            SoundLane { ends, track }.run()
        })?;
        lanes.push(view);
    }
    Ok(lanes)
}

/// Starts what hears the button and what keeps the lamp's guard.
fn start_panel(config: &Config, keeper: &SyncSender<Input>) -> io::Result<()> {
    if let Some(settings) = Panel::of(config) {
        let settings = Arc::new(settings);
        let keeper = keeper.clone();
        spawn("lamp", {
            let (settings, keeper) = (settings.clone(), keeper.clone());
            move || panel::keep_guard(&settings, &keeper)
        })?;
        spawn("button", move || panel::hear_button(&settings, &keeper))?;
    }
    Ok(())
}

/// Runs syncs one after the other on a thread that may wait for the disk.
fn start_syncing(keeper: SyncSender<Input>) -> io::Result<std::sync::mpsc::Sender<SyncJob>> {
    let (jobs, waiting): (_, Receiver<SyncJob>) = channel();
    spawn("sync", move || {
        for job in waiting {
            let began = clock::now();
            let result = job.run();
            let took = clock::now().since(began);
            if keeper.send(Input::Synced(result, took)).is_err() {
                return;
            }
        }
    })?;
    Ok(jobs)
}

/// Runs the uplink on a thread of its own: whatever the network does, nothing else waits for it.
fn start_uplink(
    uplink: Uplink,
    keeper: SyncSender<Input>,
) -> io::Result<(tokio::sync::mpsc::Sender<Offer>, JoinHandle<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // The uplink takes every offer at once, so this is never full for long.
    let (offers, offered) = tokio::sync::mpsc::channel(OFFERS);
    let (reports, mut reported) = tokio::sync::mpsc::channel(OFFERS);
    spawn("uplink reports", move || {
        while let Some(report) = reported.blocking_recv() {
            if keeper.send(Input::Report(report)).is_err() {
                return;
            }
        }
    })?;
    let ended = spawn("uplink", move || {
        // It ends when nobody offers any more: what it has not sent by then is still in the spool.
        let (_running, stop) = tokio::sync::watch::channel(false);
        runtime.block_on(uplink.run(offered, reports, stop));
        // A look-up of a name may hang on a thread of its own.
        runtime.shutdown_background();
    })?;
    Ok((offers, ended))
}

/// The uplink's view of the spool.
struct SpoolReader(Arc<Mutex<Spool>>);

impl SpoolReader {
    fn lock(&self) -> MutexGuard<'_, Spool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for SpoolReader {
    fn segment(&self, key: SegmentKey, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        // The lock is held for the plan only: a disk that is slow to read holds no recording up.
        let plan = self.lock().plan_read(key, offset, length.into());
        plan.and_then(|plan| plan.read()).map_err(io::Error::from)
    }

    fn init(&self, hash: &Hash) -> io::Result<Vec<u8>> {
        let plan = self.lock().plan_read_init(hash);
        let plan = plan.ok_or_else(|| {
            let text = "the spool does not hold the init (any more)";
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?;
        plan.read().map_err(io::Error::from)
    }
}

/// Installs a certificate; the uplink sees it.
fn install(identity: &Identity, chain: &str) -> Reply {
    match identity.install(chain) {
        Ok(()) => {
            let box_id = identity.box_id().to_string();
            log::info!("box {box_id} is enrolled");
            Reply::Enrolled { box_id }
        }
        Err(error) => Reply::Refused(error.to_string()),
    }
}

/// Carries a request to the keeper and its answer back.
fn ask(keeper: &SyncSender<Input>, request: Request) -> Reply {
    let (reply, answer) = channel();
    if keeper.send(Input::Request(request, reply)).is_err() {
        return Reply::Refused("the box is ending".into());
    }
    // Stopping waits for the disk, and a disk may hang.
    answer
        .recv_timeout(Duration::from_secs(20))
        .unwrap_or_else(|_| {
            Reply::Refused(
                "the box did not answer within 20 s: its disk may hang; see the log".into(),
            )
        })
}

/// Starts a thread of the station. The box is not what it says it is when one of them is gone, so a panic
/// ends the process: whoever started it starts it again, and the recording goes on.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.into()).spawn({
        let name = name.to_owned();
        move || {
            // What it panicked with, and where, is in the log already.
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                log::error!("the thread `{name}` has panicked: the box ends, to be started again");
                std::process::abort();
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::station::config::{Flags, load};
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    /// Set for the process that is to end.
    const PANICS: &str = "HALLCAST_TEST_PANICS";

    #[test]
    fn a_thread_that_panics_ends_the_process() {
        if std::env::var_os(PANICS).is_some() {
            let thread = spawn("doomed", || panic!("as a library might")).unwrap();
            thread.join().unwrap();
            return;
        }
        let name = "station::pipeline::tests::a_thread_that_panics_ends_the_process";
        let mut again = Command::new(std::env::current_exe().unwrap());
        let again = again
            .args(["--exact", name, "--nocapture"])
            .env(PANICS, "1");
        let output = again.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(6), "SIGABRT: {said}");
        assert!(said.contains("'doomed'") && said.contains("as a library might"));
    }

    #[test]
    fn a_second_box_on_a_state_directory_makes_no_identity_there() {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        let flags = Flags {
            board: Some("bench".into()),
            boot_directory: Some(home.path().into()),
            state_directory: Some(state.clone()),
            ..Flags::default()
        };
        let config = load(&flags).unwrap();
        let _first = lock(&state).unwrap();
        let error = run(&config).unwrap_err().to_string();
        assert!(error.contains("another hallcast works on it"), "{error}");
        assert!(!state.join("box-id").exists());
    }
}
