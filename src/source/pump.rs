//! One thread per device, and the bounded ring between it and its one reader.
//!
//! The ring is a `heapless` deque behind a mutex, with a [`Bell`] for the reader's absolute deadline. A lock-free single-producer ring would not do: dropping the *oldest* block means that
//! the device's thread takes from the reader's end. The lock is held only while a block's few words
//! are moved, never while a device is waited for or bytes are copied.
//!
//! Buffers come back through a second ring, so that in steady state nothing is allocated per block.

use super::{AudioSettings, Error, Losses, Source, VideoSettings};
use crate::clock::{self, Bell};
use crate::media::{Monotonic, Picture, Samples};
use heapless::Deque;
use std::any::Any;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Something that devices deliver in pieces.
pub trait Block: Send + 'static {
    /// What a device of this kind reports after it was configured.
    type Settings: Copy + Debug + PartialEq + Send;

    /// A block without a buffer yet.
    fn empty() -> Self;

    /// Notes in `self` that `dropped`, which came just before it, was thrown away.
    fn follows_dropped(&mut self, dropped: &Self, settings: Self::Settings);
}

impl Block for Picture {
    type Settings = VideoSettings;

    fn empty() -> Self {
        Self {
            captured: Monotonic::default(),
            sequence: 0,
            data: Vec::new(),
        }
    }

    fn follows_dropped(&mut self, _: &Self, _: VideoSettings) {}
}

impl Block for Samples {
    type Settings = AudioSettings;

    fn empty() -> Self {
        Self {
            captured: Monotonic::default(),
            lost_before: 0,
            hears: false,
            data: Vec::new(),
        }
    }

    fn follows_dropped(&mut self, dropped: &Self, settings: AudioSettings) {
        let frames = dropped.data.len() as u64 / u64::from(settings.channels.max(1));
        self.lost_before += dropped.lost_before + frames;
    }
}

/// A camera's pump: 8 pictures, about a quarter of a second.
pub type VideoPump = Pump<Picture, 8>;

/// The pump of a camera that encodes: what is dropped would cost all up to the next keyframe, so it
/// holds seconds; the pictures are small.
pub type PassingPump = Pump<Picture, 128>;

/// A microphone's pump: 64 blocks, more than a second of the usual 20 ms periods.
pub type AudioPump = Pump<Samples, 64>;

/// What a [`Pump`] tells its reader.
#[derive(Debug)]
pub enum Received<B: Block> {
    /// The device is open with these settings and has given its first block, which follows: one that
    /// opens and gives nothing fails without this. The blocks that follow are of this run.
    Opened(B::Settings),
    /// A block. Give it back with [`Pump::recycle`].
    Block(B),
    /// The device could not be opened, or the run is over; all its blocks were received. Nothing
    /// more comes until [`Pump::reopen_at`].
    Failed(Error),
    /// The deadline passed.
    Timeout,
}

/// What went through a pump since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blocks that the device delivered.
    pub delivered: u64,
    /// Blocks thrown away because the reader was late.
    pub dropped: u64,
    /// What the device lost by its own account, over all runs.
    pub losses: Losses,
    /// How often the device was opened and gave something.
    pub opened: u64,
}

/// A device's thread and the ring of its last `N` blocks.
#[derive(Debug)]
pub struct Pump<B: Block, const N: usize> {
    shared: Arc<Shared<B, N>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared<B: Block, const N: usize> {
    state: Mutex<State<B, N>>,
    /// The reader waits here for blocks and events.
    for_reader: Bell,
    /// The device's thread waits here for the time to reopen.
    for_device: Bell,
}

#[derive(Debug)]
struct State<B: Block, const N: usize> {
    /// Delivered before the blocks.
    opened: Option<B::Settings>,
    blocks: Deque<B, N>,
    /// Delivered after the blocks.
    failed: Option<Error>,
    free: Deque<B, N>,
    reopen_at: Option<Monotonic>,
    stop: bool,
    stats: Stats,
}

impl<B: Block, const N: usize> Shared<B, N> {
    /// A panic elsewhere leaves the state whole: each change to it is complete under one lock.
    fn lock(&self) -> MutexGuard<'_, State<B, N>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Block, const N: usize> Pump<B, N> {
    /// Starts a thread called `name` (15 characters show in `top`), which opens the device at once.
    pub fn start<S, O>(name: &str, open: O) -> std::io::Result<Self>
    where
        S: Source<Block = B> + ?Sized,
        O: FnMut() -> Result<Box<S>, Error> + Send + 'static,
    {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                opened: None,
                blocks: Deque::new(),
                failed: None,
                free: Deque::new(),
                reopen_at: None,
                stop: false,
                stats: Stats::default(),
            }),
            for_reader: Bell::default(),
            for_device: Bell::default(),
        });
        let theirs = Arc::clone(&shared);
        let own_name = name.to_owned();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || theirs.run(&own_name, open))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Waits for the next thing to happen, until `deadline` at most.
    pub fn receive(&self, deadline: Monotonic) -> Received<B> {
        loop {
            let heard = self.shared.for_reader.rings();
            let mut state = self.shared.lock();
            if let Some(settings) = state.opened.take() {
                return Received::Opened(settings);
            }
            if let Some(block) = state.blocks.pop_front() {
                return Received::Block(block);
            }
            if let Some(error) = state.failed.take() {
                return Received::Failed(error);
            }
            drop(state);
            if clock::now() >= deadline {
                return Received::Timeout;
            }
            self.shared.for_reader.wait(heard, Some(deadline));
        }
    }

    /// Gives a block's buffer back to the device.
    pub fn recycle(&self, block: B) {
        // A full ring means more buffers than can ever wait: the surplus is freed.
        let _ = self.shared.lock().free.push_back(block);
    }

    /// After [`Received::Failed`]: opens the device again at `when`. How long to wait is the
    /// caller's to decide.
    pub fn reopen_at(&self, when: Monotonic) {
        self.shared.lock().reopen_at = Some(when);
        self.shared.for_device.ring();
    }

    /// Blocks that wait for their reader.
    pub fn waiting(&self) -> usize {
        self.shared.lock().blocks.len()
    }

    /// What went through so far.
    pub fn stats(&self) -> Stats {
        self.shared.lock().stats
    }
}

impl<B: Block, const N: usize> Drop for Pump<B, N> {
    /// Ends the thread; takes as long as the device's own bounded wait at most.
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.for_device.ring();
        if let Some(thread) = self.thread.take() {
            // Its only panics are caught, and if one was not, it is over all the same.
            let _ = thread.join();
        }
    }
}

impl<B: Block, const N: usize> Shared<B, N> {
    fn run<S, O>(&self, name: &str, mut open: O)
    where
        S: Source<Block = B> + ?Sized,
        O: FnMut() -> Result<Box<S>, Error>,
    {
        loop {
            // Device libraries panic where a driver answers what they do not know (v4l on a colour
            // space of a later kernel, or when a stream is closed); that is one more failed run.
            let run = catch_unwind(AssertUnwindSafe(|| match open() {
                Ok(mut source) => self.pump(&mut *source),
                Err(error) => Some(error),
            }));
            let error = match run {
                Ok(None) => return,
                Ok(Some(error)) => error,
                Err(panic) => Error::other(&name, "its library", &panic_message(&*panic)),
            };
            self.lock().failed = Some(error);
            self.for_reader.ring();
            if !self.wait_to_reopen() {
                return;
            }
        }
    }

    /// Moves blocks until the device fails; `None` when asked to stop.
    fn pump<S: Source<Block = B> + ?Sized>(&self, source: &mut S) -> Option<Error> {
        let settings = source.settings();
        let earlier = self.lock().stats.losses;
        let mut is_first = true;
        loop {
            let mut state = self.lock();
            if state.stop {
                return None;
            }
            let mut block = state.free.pop_front().unwrap_or_else(B::empty);
            drop(state);
            let outcome = source.next(&mut block);
            let losses = source.losses();
            let mut state = self.lock();
            state.stats.losses = Losses {
                lost: earlier.lost + losses.lost,
                damaged: earlier.damaged + losses.damaged,
            };
            if let Err(error) = outcome {
                let _ = state.free.push_back(block);
                return Some(error);
            }
            if std::mem::take(&mut is_first) {
                state.opened = Some(settings);
                state.stats.opened += 1;
            }
            state.push(block, settings);
            drop(state);
            self.for_reader.ring();
        }
    }

    /// Waits for the reader's word; false when asked to stop.
    fn wait_to_reopen(&self) -> bool {
        loop {
            let heard = self.for_device.rings();
            let mut state = self.lock();
            if state.stop {
                return false;
            }
            let when = state.reopen_at;
            if when.is_some_and(|when| clock::now() >= when) {
                state.reopen_at = None;
                return true;
            }
            drop(state);
            self.for_device.wait(heard, when);
        }
    }
}

impl<B: Block, const N: usize> State<B, N> {
    fn push(&mut self, block: B, settings: B::Settings) {
        self.stats.delivered += 1;
        let dropped = if self.blocks.is_full() {
            self.blocks.pop_front()
        } else {
            None
        };
        // There is room: one was just taken out if there was none.
        let _ = self.blocks.push_back(block);
        if let Some(dropped) = dropped {
            self.stats.dropped += 1;
            if let Some(oldest) = self.blocks.front_mut() {
                oldest.follows_dropped(&dropped, settings);
            }
            let _ = self.free.push_back(dropped);
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").into()
}

#[cfg(test)]
#[path = "pump_tests.rs"]
mod tests;
