//! Sound cards that Linux drives (ALSA), read in periods.
//!
//! The card is opened raw (`hw:`): what it reports is what it does. The nearest rate and channel count
//! that it offers are taken; of more than two channels the first two. The first frame of a block is
//! stamped by the kernel's own pair of a CLOCK_MONOTONIC time and the number of frames that wait, so
//! that neither scheduling nor buffering shows in it.

use super::alsa_cards::{self as cards, microphones, missing};
use super::error::{ASK_FOR, PLUG_IN};
use super::found::FoundMicrophone;
use super::port::{Choice, Port};
use super::{AudioSettings, Error, Losses, Source};
use crate::board::AlsaMicrophone;
use crate::clock;
use crate::media::{Monotonic, Samples};
use alsa::pcm::{Access, Format, Frames, HwParams, PCM, State, TstampType};
use alsa::{Direction, ValueOr};
use rustix::io::Errno;
use std::time::Duration;

/// The formats that we can use, the cheapest first, and their bytes per sample.
const USABLE: [(Format, usize, &str); 3] = [
    (Format::S16LE, 2, "S16_LE"),
    (Format::S32LE, 4, "S32_LE"),
    (Format::S243LE, 3, "S24_3LE"),
];

/// How much sound the card keeps while nobody reads, if it can: a process that is held up for less loses
/// nothing. What comes out at once after that finds room in the pump.
const RING: Duration = Duration::from_secs(1);

/// After an overrun the oldest so many periods are not read: the card is about to write there.
const MARGIN: u64 = 2;

/// The least time for which a silent card is waited for.
const WAIT: Duration = Duration::from_secs(1);

/// How far the kernel's stamp may be from the arrival and still be believed.
const STAMP_BEHIND: Duration = Duration::from_secs(5);

/// A sound card that is capturing.
pub(super) struct Alsa {
    device: String,
    settings: AudioSettings,
    pcm: PCM,
    /// Channels that the card delivers.
    card_channels: usize,
    sample_bytes: usize,
    period: usize,
    /// Frames that the card keeps.
    ring: u64,
    raw: Vec<u8>,
    /// When the frame after the last one that was handed out is due.
    due: Option<Monotonic>,
    /// The card was started again after the last block: by a suspension, or a driver that stops by itself.
    broken: bool,
    lost: u64,
}

impl Alsa {
    /// Opens, configures and starts the card on `port`, which is where the configured name leads to
    /// when it is opened for the first time.
    pub(super) fn open(asked: &AlsaMicrophone, port: &Port) -> Result<Self, Error> {
        // Keeps from standard error what the library would say at every try.
        let _said = alsa::Output::local_error_handler();
        let name = asked.alsa_name();
        let (device, card, unit) = match cards::choose(asked, port)? {
            Choice::Open(found) if found.at == name => (name, found.at, Some(found.unit)),
            // It is called otherwise than when it was configured.
            Choice::Open(found) => (
                format!("{name} (now {})", found.at),
                found.at,
                Some(found.unit),
            ),
            Choice::AsNamed if cards::is_present(asked) => (name.clone(), name, None),
            Choice::AsNamed => return Err(missing(name, "")),
            Choice::Empty(port) => return Err(missing(name, &format!(" at port {port}"))),
        };
        let failed = |what: &'static str| {
            let device = device.clone();
            move |error: alsa::Error| open_error(&device, what, &error)
        };
        // Without blocking: a card in use would be waited for without end.
        let pcm = PCM::new(&card, Direction::Capture, true).map_err(failed("opening"))?;
        let chosen = configure(&pcm, asked, &device)?;
        let software = || -> Result<(), alsa::Error> {
            let parameters = pcm.sw_params_current()?;
            parameters.set_tstamp_mode(true)?;
            parameters.set_tstamp_type(TstampType::Monotonic)?;
            parameters.set_avail_min(chosen.period)?;
            // It never stops by itself: after an overrun its count of frames says how many are gone.
            parameters.set_stop_threshold(parameters.get_boundary()?)?;
            pcm.sw_params(&parameters)
        };
        software().map_err(failed("setting its clock"))?;
        let period = usize::try_from(chosen.period).unwrap_or(1);
        pcm.prepare().map_err(failed("preparing"))?;
        pcm.start().map_err(failed("starting"))?;
        if let Some(unit) = unit {
            port.opened(unit);
        }
        Ok(Self {
            settings: AudioSettings {
                rate_hz: chosen.rate_hz,
                channels: chosen.channels.min(2),
            },
            card_channels: chosen.channels as usize,
            sample_bytes: chosen.sample_bytes,
            period,
            ring: u64::try_from(chosen.ring).unwrap_or(u64::MAX),
            raw: vec![0; period * chosen.channels as usize * chosen.sample_bytes],
            device,
            pcm,
            due: None,
            broken: false,
            lost: 0,
        })
    }

    /// Waits until a whole period can be read, whatever has to be put right for it; gives when the newest
    /// frame was captured, and how many wait.
    fn wait(&mut self) -> Result<(Monotonic, u64), Error> {
        let wait = WAIT.max(self.duration_of(self.period as u64) * 4);
        let mut deadline = clock::now().plus(wait);
        // A card that stops again after each restart is not waited for without end.
        let last = deadline.plus(wait * 3);
        loop {
            let left = deadline.since(clock::now());
            if left.is_zero() {
                return Err(Error::Stalled {
                    device: self.device.clone(),
                    waited_ms: wait.as_millis() as u64,
                });
            }
            // Asked before reading: where the card has stopped, that would hand out what is long overwritten.
            let ready = self.pcm.wait(Some(left.as_millis() as u32 + 1));
            let status = ready.and_then(|_| self.pcm.status());
            match status {
                Ok(status) if status.get_state() == State::Running => {
                    let avail = u64::try_from(status.get_avail()).unwrap_or(0);
                    if avail >= self.period as u64 {
                        let stamp = status.get_htstamp();
                        // Their width depends on the machine.
                        let seconds = u64::try_from(stamp.tv_sec).unwrap_or(0);
                        let nanos = u64::try_from(stamp.tv_nsec).unwrap_or(0);
                        return Ok((believed(seconds, nanos), avail));
                    }
                }
                Ok(status) if status.get_state() == State::Disconnected => {
                    return Err(self.vanished(&format!("unplugged. {PLUG_IN}")));
                }
                Ok(status) => {
                    let state = status.get_state();
                    self.restart(match state {
                        State::Suspended => Errno::STRPIPE.raw_os_error(),
                        _ => Errno::PIPE.raw_os_error(),
                    })?;
                    deadline = clock::now().plus(wait).min(last);
                }
                Err(error) if error.errno() == Errno::INTR.raw_os_error() => {}
                Err(error) => {
                    self.restart(error.errno())?;
                    deadline = clock::now().plus(wait).min(last);
                }
            }
        }
    }

    /// After a suspension (ESTRPIPE), or where a driver has stopped (EPIPE): what waited in the card is gone.
    fn restart(&mut self, errno: i32) -> Result<(), Error> {
        self.broken = true;
        // Capture does not start again by itself.
        let again = self
            .pcm
            .recover(errno, true)
            .and_then(|()| self.pcm.start());
        again.map_err(|error| self.run_error("restarting", &error))
    }

    /// Passes over the frames that were overwritten before anybody read them; gives how many.
    fn pass_over(&mut self, avail: u64) -> Result<u64, alsa::Error> {
        if avail <= self.ring {
            return Ok(0);
        }
        let gone = avail - self.ring + MARGIN * self.period as u64;
        let frame = self.card_channels * self.sample_bytes;
        let mut left = gone;
        while left > 0 {
            let frames = (self.period as u64).min(left) as usize;
            match self.pcm.io_bytes().readi(&mut self.raw[..frames * frame]) {
                Ok(passed) => left -= passed as u64,
                Err(error) if error.errno() == Errno::INTR.raw_os_error() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }

    fn duration_of(&self, frames: u64) -> Duration {
        let nanos = u128::from(frames) * 1_000_000_000 / u128::from(self.settings.rate_hz);
        Duration::from_nanos(nanos as u64)
    }

    /// Frames between the last block and one whose first frame was captured at `captured`.
    fn frames_lost(&self, captured: Monotonic) -> u64 {
        match self.due {
            Some(due) if self.broken => {
                let nanos = captured.since(due).as_nanos();
                let half = 500_000_000;
                ((nanos * u128::from(self.settings.rate_hz) + half) / 1_000_000_000) as u64
            }
            _ => 0,
        }
    }

    fn vanished(&self, reason: &str) -> Error {
        Error::Vanished {
            device: self.device.clone(),
            reason: reason.into(),
        }
    }

    fn run_error(&self, what: &str, error: &alsa::Error) -> Error {
        match Errno::from_raw_os_error(error.errno()) {
            Errno::NODEV | Errno::BADFD | Errno::NOTTY | Errno::NOENT => {
                self.vanished(&format!("unplugged ({error}). {PLUG_IN}"))
            }
            _ => Error::refused(&self.device, what, error),
        }
    }
}

impl Source for Alsa {
    type Block = Samples;

    fn settings(&self) -> AudioSettings {
        self.settings
    }

    fn next(&mut self, into: &mut Samples) -> Result<(), Error> {
        loop {
            let (newest, avail) = self.wait()?;
            let read = self.pass_over(avail).and_then(|gone| {
                let frames = self.pcm.io_bytes().readi(&mut self.raw)?;
                Ok((gone, frames))
            });
            let (gone, frames) = match read {
                Ok(read) => read,
                Err(error) if error.errno() == Errno::INTR.raw_os_error() => continue,
                Err(error) if error.errno() == Errno::AGAIN.raw_os_error() => continue,
                Err(error) => {
                    self.restart(error.errno())?;
                    continue;
                }
            };
            let captured = newest.minus(self.duration_of(avail - gone.min(avail)));
            into.captured = captured;
            into.lost_before = gone + self.frames_lost(captured);
            self.lost += into.lost_before;
            self.broken = false;
            self.due = Some(captured.plus(self.duration_of(frames as u64)));
            let kept = self.settings.channels as usize;
            let bytes = self.sample_bytes;
            into.data.clear();
            let read = frames * self.card_channels * bytes;
            into.hears =
                (0..kept).any(|n| moves(&self.raw[n * bytes..read], self.card_channels, bytes));
            for frame in self
                .raw
                .chunks_exact(self.card_channels * bytes)
                .take(frames)
            {
                for sample in frame.chunks_exact(bytes).take(kept) {
                    // Little endian: the upper 16 bits are the last two bytes.
                    into.data
                        .push(i16::from_le_bytes([sample[bytes - 2], sample[bytes - 1]]));
                }
            }
            return Ok(());
        }
    }

    fn losses(&self) -> Losses {
        Losses {
            lost: self.lost,
            damaged: 0,
        }
    }
}

/// Whether the first of so many channels moves by more than a step of 24 bits: of samples that are wider
/// than the 16 bits that are handed on.
fn moves(raw: &[u8], channels: usize, bytes: usize) -> bool {
    if bytes < 3 {
        return false;
    }
    let fine = |sample: &[u8]| {
        i32::from_le_bytes([0, sample[bytes - 3], sample[bytes - 2], sample[bytes - 1]]) >> 8
    };
    let samples = raw.chunks_exact(bytes).step_by(channels).map(fine);
    let range = samples.fold(None, |range: Option<(i32, i32)>, sample| {
        let (low, high) = range.unwrap_or((sample, sample));
        Some((low.min(sample), high.max(sample)))
    });
    range.is_some_and(|(low, high)| high - low > 1)
}

/// The kernel's stamp of the newest frame, or now where a driver has none and leaves zero.
fn believed(seconds: u64, nanos: u64) -> Monotonic {
    let now = clock::now();
    let stamp = Monotonic::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos));
    let believable = stamp <= now && now.since(stamp) <= STAMP_BEHIND;
    if believable { stamp } else { now }
}

/// What the card was set to.
struct Chosen {
    rate_hz: u32,
    channels: u32,
    sample_bytes: usize,
    period: Frames,
    ring: Frames,
}

fn configure(pcm: &PCM, asked: &AlsaMicrophone, device: &str) -> Result<Chosen, Error> {
    let failed = |error: alsa::Error| open_error(device, "configuring", &error);
    let any = HwParams::any(pcm).map_err(failed)?;
    let cannot = || Error::CannotDo {
        device: device.to_owned(),
        asked: format!("{} Hz, {} channels", asked.rate_hz, asked.channels),
        advice: ASK_FOR.into(),
        offers: HwParams::any(pcm).map_or_else(|_| Vec::new(), |any| offers(&any)),
    };
    any.set_access(Access::RWInterleaved).map_err(failed)?;
    let (format, sample_bytes, _) = USABLE
        .into_iter()
        .find(|(format, ..)| any.test_format(*format).is_ok())
        .ok_or_else(cannot)?;
    any.set_format(format).map_err(failed)?;
    let channels = any
        .set_channels_near(asked.channels)
        .map_err(|_| cannot())?;
    let rate_hz = any
        .set_rate_near(asked.rate_hz, ValueOr::Nearest)
        .map_err(|_| cannot())?;
    if !(8_000..=192_000).contains(&rate_hz) || channels == 0 {
        return Err(cannot());
    }
    // These two are wishes: what the card makes of them is read back.
    let _ = any.set_period_time_near(asked.period_ms * 1000, ValueOr::Nearest);
    let _ = any.set_buffer_time_near(RING.as_micros() as u32, ValueOr::Nearest);
    pcm.hw_params(&any).map_err(failed)?;
    let period = any.get_period_size().map_err(failed)?;
    let ring = any.get_buffer_size().map_err(failed)?;
    Ok(Chosen {
        rate_hz,
        channels,
        sample_bytes,
        period: period.max(1),
        ring,
    })
}

/// The rates that cards have; others are found by none.
const RATES: [u32; 9] = [
    8_000, 16_000, 22_050, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000,
];

/// The sound cards that are present, and what they offer; those that `leave` takes are not asked.
pub(super) fn found(leave: impl Fn(&FoundMicrophone) -> bool) -> Vec<FoundMicrophone> {
    let mut found = cards::found();
    for microphone in found.iter_mut().filter(|one| !leave(one)) {
        let asked = ask(microphone);
        let name = microphone.alsa_name();
        microphone.trouble = asked
            .err()
            .map(|error| open_error(&name, "opening", &error));
    }
    found
}

/// Opens it for a moment.
fn ask(microphone: &mut FoundMicrophone) -> alsa::Result<()> {
    let pcm = PCM::new(&microphone.alsa_name(), Direction::Capture, true)?;
    let any = HwParams::any(&pcm)?;
    let channels = (any.get_channels_min().ok(), any.get_channels_max().ok());
    microphone.channels = channels.0.zip(channels.1);
    let rates = RATES
        .into_iter()
        .filter(|rate| any.test_rate(*rate).is_ok());
    microphone.rates_hz = rates.collect();
    let formats = USABLE.iter().filter(|(f, ..)| any.test_format(*f).is_ok());
    microphone.formats = formats.map(|(.., name)| (*name).into()).collect();
    Ok(())
}

/// What the card offers, one line per setting.
fn offers(any: &HwParams) -> Vec<String> {
    let range = |name: &str, low: alsa::Result<u32>, high: alsa::Result<u32>| match (low, high) {
        (Ok(low), Ok(high)) if low == high => format!("{name}: {low}"),
        (Ok(low), Ok(high)) => format!("{name}: {low} to {high}"),
        _ => format!("{name}: unknown"),
    };
    let formats = USABLE.iter().filter(|(f, ..)| any.test_format(*f).is_ok());
    let formats: Vec<&str> = formats.map(|(.., name)| *name).collect();
    vec![
        range("rate in Hz", any.get_rate_min(), any.get_rate_max()),
        range("channels", any.get_channels_min(), any.get_channels_max()),
        match formats.is_empty() {
            true => "formats: none of S16_LE, S32_LE, S24_3LE".into(),
            false => format!("formats: {}", formats.join(", ")),
        },
    ]
}

/// What went wrong before the card ran.
fn open_error(device: &str, what: &str, error: &alsa::Error) -> Error {
    let device = device.to_owned();
    let not_permitted = |device| Error::NotPermitted {
        device,
        advice: "Let this program's user into the group `audio`.".into(),
    };
    match Errno::from_raw_os_error(error.errno()) {
        Errno::NOENT | Errno::NXIO | Errno::NODEV if cards::is_refused(&device) => {
            not_permitted(device)
        }
        Errno::NOENT | Errno::NXIO | Errno::NODEV => missing(device, ""),
        Errno::BUSY | Errno::AGAIN => Error::Busy {
            device,
            advice: "End it (`fuser -v /dev/snd/*` names it), or name another microphone.".into(),
            present: microphones(),
        },
        Errno::ACCESS | Errno::PERM => not_permitted(device),
        _ => Error::refused(&device, what, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_finer_than_16_bits_still_tells_a_room_from_a_muted_microphone() {
        // S24_3LE: one channel of noise far below a step of 16 bits, one that toggles its last bit.
        let frames: Vec<u8> = (0..200_u8)
            .flat_map(|n| [n % 90, 0, 0, n % 2, 0, 0])
            .collect();
        assert!(moves(&frames, 2, 3));
        assert!(!moves(&frames[3..], 2, 3));
        // S32_LE from a converter of 24 bits; and 16 bits, of which all are handed on.
        let wide: Vec<u8> = (0..200_u8).flat_map(|n| [0, n % 3, 0, 0]).collect();
        assert!(moves(&wide, 1, 4));
        assert!(!moves(&[7; 400], 1, 2));
        assert!(!moves(&[], 1, 4));
    }

    #[test]
    fn a_card_that_is_not_there_is_missing() {
        let asked = AlsaMicrophone::at("hw:NoSuchCard,0").unwrap();
        let Err(error) = Alsa::open(&asked, &Port::default()) else {
            panic!("it is not there")
        };
        assert_eq!(error.code(), "missing");
        let text = error.to_string();
        assert!(
            text.starts_with("hw:CARD=NoSuchCard,DEV=0: not found."),
            "{text}"
        );
    }
}
