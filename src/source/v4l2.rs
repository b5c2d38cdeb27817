//! Cameras that Linux drives (V4L2), captured by mapped buffers.
//!
//! The size must be one that the device offers; of its raw formats the one is taken that comes nearest
//! to the rate (YU12 before NV12 before YUYV where they are equal: fewer bytes, less conversion). What
//! was set is read back, because drivers answer with what they can. Pictures carry the driver's
//! CLOCK_MONOTONIC stamp where it vouches for one, else the time of their arrival.

use super::error::{ASK_FOR, PLUG_IN};
use super::port::{Choice, Port};
use super::{Error, Losses, Source, VideoSettings};
use super::{v4l2_offers as offers, v4l2_ports as ports};
use crate::board::V4l2Camera;
use crate::clock;
use crate::media::{Monotonic, Picture, PictureLayout, PixelFormat, Rate};
use crate::sys::captures_pictures;
use rustix::io::Errno;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use v4l::buffer::{Flags, Metadata, Type};
use v4l::device::Handle;
use v4l::format::FourCC;
use v4l::fraction::Fraction;
use v4l::io::mmap::Stream;
use v4l::io::traits::{CaptureStream, Stream as _};
use v4l::video::Capture;
use v4l::video::capture::Parameters;
use v4l::{Device, Format};

/// Buffers that the driver fills; one of them is being copied.
const BUFFERS: u32 = 4;

/// How far a driver's stamp may be from the arrival and still be believed. Some drivers stamp the
/// end of an exposure that is yet to come.
const STAMP_BEHIND: Duration = Duration::from_secs(2);
const STAMP_AHEAD: Duration = Duration::from_secs(1);

/// The least time for which a silent device is waited for.
const WAIT: Duration = Duration::from_secs(1);

/// A camera that is streaming.
pub(super) struct V4l2 {
    device: String,
    settings: VideoSettings,
    handle: Arc<Handle>,
    stream: Stream<'static>,
    wait: Duration,
    sequence: Option<u32>,
    count: u64,
    lead: Lead,
    losses: Losses,
}

impl V4l2 {
    /// Opens, configures and starts the camera on `port`, which is where the configured name leads to
    /// when it is opened for the first time.
    pub(super) fn open(asked: &V4l2Camera, port: &Port) -> Result<Self, Error> {
        let name = asked.device.display().to_string();
        let (device, path, unit) =
            match port.choose(&name, ports::named(&asked.device), ports::present)? {
                Choice::Open(found) if found.at == name => (name, found.at, Some(found.unit)),
                // Its number is another one than when it was configured.
                Choice::Open(found) => (
                    format!("{name} (now {})", found.at),
                    found.at,
                    Some(found.unit),
                ),
                Choice::AsNamed => (name.clone(), name, None),
                Choice::Empty(port) => return Err(missing(name, &format!(" at port {port}"))),
            };
        let failed = |what: &str, error: io::Error| open_error(&device, what, &error);
        if !is_camera(&path).map_err(|error| failed("opening", error))? {
            return Err(Error::CannotDo {
                asked: wish(asked),
                advice: NO_CAMERA.into(),
                offers: Vec::new(),
                device,
            });
        }
        let node = Device::with_path(path).map_err(|error| failed("opening", error))?;
        let cannot = || Error::CannotDo {
            device: device.clone(),
            asked: wish(asked),
            advice: ASK_FOR.into(),
            offers: offers::table(&node),
        };
        let pixels = offers::choose(&node, asked).ok_or_else(cannot)?;
        let format = node
            .set_format(&Format::new(asked.width, asked.height, fourcc(pixels)))
            .map_err(|error| failed("setting the format", error))?;
        if (format.width, format.height, format.fourcc)
            != (asked.width, asked.height, fourcc(pixels))
        {
            return Err(cannot());
        }
        let rate = set_rate(&node, asked.rate)
            .map_err(|error| failed("setting the rate", error))?
            .ok_or_else(cannot)?;
        let layout = PictureLayout {
            width: format.width,
            height: format.height,
            pixels,
            // Some drivers leave 0 where rows follow each other without padding.
            stride: match format.stride {
                0 => pixels.tight_stride(format.width as usize) as u32,
                stride => stride,
            },
        };
        let mut stream = Stream::with_buffers(&node, Type::VideoCapture, BUFFERS)
            .map_err(|error| failed("mapping buffers", error))?;
        // `Stream::next` queues the buffer that it handed out last, which at first is number 0.
        for index in 1..BUFFERS as usize {
            if CaptureStream::queue(&mut stream, index).is_err() {
                break; // The driver gave fewer.
            }
        }
        stream.start().map_err(|error| failed("starting", error))?;
        if let Some(unit) = unit {
            port.opened(unit);
        }
        Ok(Self {
            device,
            settings: VideoSettings { layout, rate },
            handle: node.handle(),
            stream,
            wait: WAIT.max(rate.interval() * 3),
            sequence: None,
            count: 0,
            lead: Lead::default(),
            losses: Losses::default(),
        })
    }

    /// Waits until the driver has a picture. A failed `Stream::next` would ruin the stream, and the
    /// end of a signal handler is a failure to it; so the wait is here.
    fn wait(&self) -> Result<(), Error> {
        let deadline = clock::now().plus(self.wait);
        loop {
            let left = deadline.since(clock::now());
            // Upwards, so that the last wait does not spin.
            let ms = left.as_millis() as i32 + 1;
            match self.handle.poll(POLLIN, ms) {
                Ok(0) if left.is_zero() => {
                    return Err(Error::Stalled {
                        device: self.device.clone(),
                        waited_ms: self.wait.as_millis() as u64,
                    });
                }
                Ok(0) => {}
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(run_error(&self.device, "waiting", &error)),
            }
        }
    }

    /// Takes account of what the driver says of a picture; `None` when it is damaged.
    fn judge(&mut self, meta: &Metadata, arrived: Monotonic) -> Option<Monotonic> {
        let step = match self.sequence.replace(meta.sequence) {
            Some(last) => u64::from(meta.sequence.wrapping_sub(last)),
            None => 0,
        };
        // A counter that was set back (a driver's own restart) is no loss of four thousand million.
        if step < 1 << 31 {
            self.losses.lost += step.saturating_sub(1);
            self.count += step;
        } else {
            self.count += 1;
        }
        // A camera that encodes says how long each picture is.
        let whole = meta.bytesused as usize >= self.settings.layout.bytes().max(1);
        if meta.flags.contains(Flags::ERROR) || !whole {
            self.losses.damaged += 1;
            return None;
        }
        Some(self.lead.take_off(stamp(meta, arrived), arrived))
    }
}

impl Source for V4l2 {
    type Block = Picture;

    fn settings(&self) -> VideoSettings {
        self.settings
    }

    fn next(&mut self, into: &mut Picture) -> Result<(), Error> {
        let encoded = self.settings.layout.pixels == PixelFormat::H264;
        let bytes = self.settings.layout.bytes();
        loop {
            self.wait()?;
            let (mapped, meta) = CaptureStream::next(&mut self.stream)
                .map_err(|error| run_error(&self.device, "capturing", &error))?;
            let meta = *meta;
            let arrived = clock::now();
            let bytes = if encoded {
                meta.bytesused as usize
            } else {
                bytes
            };
            // The mapping is longer than the picture.
            into.data.clear();
            into.data
                .extend_from_slice(mapped.get(..bytes).unwrap_or_default());
            let Some(captured) = self.judge(&meta, arrived) else {
                continue;
            };
            into.captured = captured;
            into.sequence = self.count;
            return Ok(());
        }
    }

    fn losses(&self) -> Losses {
        self.losses
    }
}

/// What to do about a node of another kind: every webcam has one beside its own.
const NO_CAMERA: &str = "It is no camera, but a node for metadata or output, or a codec: name another one; \
     `hallcast devices` lists the cameras.";

/// Whether the node gives pictures; what is no video device does not.
fn is_camera(path: &str) -> io::Result<bool> {
    match captures_pictures(path.as_ref()) {
        Err(error) if errno(&error) == Some(Errno::NOTTY) => Ok(false),
        answer => answer,
    }
}

/// poll(2).
const POLLIN: i16 = 1;

fn stamp(meta: &Metadata, arrived: Monotonic) -> Monotonic {
    if meta.flags & Flags::TIMESTAMP_MASK != Flags::TIMESTAMP_MONOTONIC {
        return arrived;
    }
    let seconds = u64::try_from(meta.timestamp.sec).unwrap_or(0);
    let micros = u64::try_from(meta.timestamp.usec).unwrap_or(0);
    let nanos = seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(micros * 1000);
    let stamp = Monotonic::from_nanos(nanos);
    let believable = arrived.minus(STAMP_BEHIND)..=arrived.plus(STAMP_AHEAD);
    if believable.contains(&stamp) {
        stamp
    } else {
        arrived
    }
}

/// How far a camera's stamps lie in the future.
///
/// A picture cannot arrive before it was captured: stamps that lie in the future (those of an
/// exposure's end that the driver foresees) are moved back, all by the same, so that their rhythm
/// stays and the picture is neither shown before its time nor behind its sound.
#[derive(Debug, Default)]
struct Lead {
    /// The largest of late, by which stamps are moved.
    known: Duration,
    /// The largest among the pictures since `known` was last judged anew, and how many these are.
    recent: Duration,
    pictures: u32,
    /// Pictures in a row that lay a [`Lead::LEAP`] ahead of what is known.
    leaps: u32,
}

impl Lead {
    /// One stamp that leaps ahead by more is a fault of that stamp; this many in a row are believed.
    const LEAP: Duration = Duration::from_millis(100);
    const BELIEVED: u32 = 3;
    /// A lead that was not seen again among so many pictures is forgotten among as many more.
    const MEMORY: u32 = 256;

    fn take_off(&mut self, stamp: Monotonic, arrived: Monotonic) -> Monotonic {
        let lead = stamp.since(arrived);
        if lead > self.known + Self::LEAP {
            self.leaps += 1;
            if self.leaps < Self::BELIEVED {
                return arrived;
            }
        }
        self.leaps = 0;
        self.recent = self.recent.max(lead);
        self.known = self.known.max(lead);
        self.pictures += 1;
        if self.pictures == Self::MEMORY {
            (self.known, self.recent, self.pictures) = (self.recent, Duration::ZERO, 0);
        }
        stamp.minus(self.known)
    }
}

/// Asks for `rate` and reads back what the device made of it; `None` for a rate outside our range.
fn set_rate(node: &Device, rate: Rate) -> io::Result<Option<Rate>> {
    let interval = Fraction::new(rate.den(), rate.num());
    let got = match node.set_params(&Parameters::new(interval)) {
        Ok(parameters) => parameters.interval,
        // A driver that knows no rates: the asked one is as good a guess as any.
        Err(error) if errno(&error) == Some(Errno::NOTTY) => return Ok(Some(rate)),
        Err(error) => return Err(error),
    };
    if got.numerator == 0 || got.denominator == 0 {
        return Ok(Some(rate));
    }
    Ok(Rate::new(got.denominator, got.numerator).ok())
}

pub(super) fn fourcc(pixels: PixelFormat) -> FourCC {
    FourCC::new(match pixels {
        PixelFormat::I420 => b"YU12",
        PixelFormat::Nv12 => b"NV12",
        PixelFormat::Yuyv => b"YUYV",
        PixelFormat::H264 => b"H264",
    })
}

fn wish(asked: &V4l2Camera) -> String {
    let pixels = asked
        .pixels
        .map_or("raw pictures".into(), |pixels| fourcc(pixels).to_string());
    format!(
        "{pixels} of {}x{} at {} per second",
        asked.width, asked.height, asked.rate
    )
}

fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

fn missing(device: String, place: &str) -> Error {
    Error::Missing {
        device,
        advice: format!("Plug it in{place}, or name one of those that are present."),
        present: offers::cameras(),
    }
}

/// What went wrong before the camera ran.
pub(super) fn open_error(device: &str, what: &str, error: &io::Error) -> Error {
    let device = device.to_owned();
    match errno(error) {
        Some(Errno::NOENT | Errno::NXIO | Errno::NODEV | Errno::NOTDIR) => missing(device, ""),
        Some(Errno::BUSY) => Error::Busy {
            advice: format!("End it (`fuser -v {device}` names it), or name another camera."),
            device,
            present: offers::cameras(),
        },
        Some(Errno::ACCESS | Errno::PERM) => Error::NotPermitted {
            device,
            advice: "Let this program's user into the group `video`.".into(),
        },
        _ => Error::refused(&device, what, error),
    }
}

/// What went wrong while it ran.
fn run_error(device: &str, what: &str, error: &io::Error) -> Error {
    match errno(error) {
        Some(Errno::NODEV | Errno::NXIO | Errno::NOENT) => Error::Vanished {
            device: device.to_owned(),
            reason: format!("unplugged ({error}). {PLUG_IN}"),
        },
        _ => Error::refused(&device, what, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use v4l::timestamp::Timestamp;

    fn meta(micros: i64, flags: Flags) -> Metadata {
        Metadata {
            flags,
            timestamp: Timestamp::new(100, micros as _),
            ..Metadata::default()
        }
    }

    #[test]
    fn only_a_stamp_that_is_vouched_for_and_near_is_believed() {
        let arrived = Monotonic::from_nanos(100_500_000_000);
        let at = |ms: u64| Monotonic::from_nanos(100_000_000_000 + ms * 1_000_000);
        let monotonic = Flags::TIMESTAMP_MONOTONIC;
        assert_eq!(stamp(&meta(460_000, monotonic), arrived), at(460));
        // vivid stamps up to 60 ms ahead.
        assert_eq!(stamp(&meta(560_000, monotonic), arrived), at(560));
        assert_eq!(
            stamp(&meta(460_000, Flags::TIMESTAMP_COPY), arrived),
            arrived
        );
        assert_eq!(
            stamp(&meta(460_000, Flags::TIMESTAMP_UNKNOWN), arrived),
            arrived
        );
        let later = arrived.plus(Duration::from_secs(60));
        assert_eq!(stamp(&meta(460_000, monotonic), later), later);
        assert_eq!(stamp(&meta(-1, monotonic), arrived), at(0));
    }

    #[test]
    fn stamps_of_the_future_keep_their_rhythm_and_lose_their_lead() {
        let at = |ms: u64| Monotonic::from_nanos(ms * 1_000_000);
        let mut lead = Lead::default();
        // Stamped 30 ms ahead, handed over after 0 to 9 ms.
        let moved: Vec<Monotonic> = [9, 4, 0, 7, 2]
            .iter()
            .zip((100..).step_by(40))
            .map(|(late, exposed)| lead.take_off(at(exposed + 30), at(exposed + late)))
            .collect();
        assert_eq!(moved, [at(109), at(144), at(180), at(220), at(260)]);
        assert_eq!(Lead::default().take_off(at(90), at(100)), at(90));
    }

    #[test]
    fn a_wild_stamp_moves_itself_alone_and_a_lead_that_is_over_is_forgotten() {
        let at = |ms: u64| Monotonic::from_nanos(ms * 1_000_000);
        let mut lead = Lead::default();
        let mut give = |n: u64, ahead: u64| {
            let arrived = at(1000 + n * 40);
            let moved = lead.take_off(arrived.plus(Duration::from_millis(ahead)), arrived);
            moved.offset_from(arrived) / 1_000_000
        };
        // 900 ms once, and twice: those are taken when they arrive, and the others stay where they are.
        let wild = [5, 900, 5, 900, 900, 5].map(|ahead| give(0, ahead));
        assert_eq!(wild, [0; 6]);
        // A driver that goes on so is believed; none of its pictures lies in the future.
        let steady = [300, 300, 300, 300].map(|ahead| give(1, ahead));
        assert_eq!(steady, [0; 4]);
        assert_eq!(give(2, 250), -50, "the rhythm stays");
        for n in 3..3 + 2 * u64::from(Lead::MEMORY) {
            give(n, 0);
        }
        assert_eq!(give(1000, 0), 0, "it was not seen again");
    }

    #[test]
    fn a_camera_that_is_not_there_is_missing_and_a_file_is_no_camera() {
        let Err(error) = V4l2::open(&V4l2Camera::at("/dev/hallcast/nobody"), &Port::default())
        else {
            panic!("it is not there")
        };
        assert_eq!(error.code(), "missing");
        assert!(
            error
                .to_string()
                .starts_with("/dev/hallcast/nobody: not found."),
            "{error}"
        );
        let Err(error) = V4l2::open(&V4l2Camera::at("/dev/null"), &Port::default()) else {
            panic!("it is no camera")
        };
        assert_eq!(error.code(), "cannot-do", "{error}");
    }
}
