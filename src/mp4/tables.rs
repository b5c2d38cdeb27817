//! The sample tables of one track of a progressive file, grown one access unit at a time.

use super::Error;
use super::chunk::Sample;
use super::init::{ParsedInit, TrackHeader};
use crate::media::Timescale;
use mp4_atom::{
    Co64, Codec, Edts, Elst, ElstEntry, Stbl, Stco, Stsc, StscEntry, Stsd, Stss, Stsz, StszSamples,
    Stts, SttsEntry, Trak,
};

/// Units per second of the movie's own timeline: a common multiple of the customary timescales, so
/// that a track's late start is exact.
pub(super) const MOVIE: Timescale = match Timescale::new(720_000) {
    Some(timescale) => timescale,
    None => unreachable!(),
};

/// A packet of AAC-LC in which every coefficient is zero, for one and for two channels (a
/// `raw_data_block` of ISO/IEC 14496-3, 4.4.2.1); it is the same at every sample rate.
const SILENT_AAC: [&[u8]; 2] = [
    &[0x00, 0xc8, 0x00, 0x80, 0x23, 0x80],
    &[0x21, 0x00, 0x49, 0x90, 0x02, 0x19, 0x00, 0x23, 0x80],
];
/// The most silent packets of a track, about four hours of them: where a span stands comes from the
/// network, and each costs memory. Beyond them the packet before a hole is prolonged over it.
const MOST_SILENT: u32 = 700_000;

/// The tables of one track.
pub(super) struct Tables {
    header: TrackHeader,
    entries: Vec<Codec>,
    /// When the first access unit begins, in the track's timescale after the recording's zero.
    start: u64,
    /// When the last access unit begins and how long it lasts by its own account.
    last: Option<(u64, u32)>,
    durations: Vec<SttsEntry>,
    sizes: Vec<u32>,
    keyframes: Vec<u32>,
    runs: Vec<StscEntry>,
    chunks: u32,
    /// Silent packets so far.
    silent: u32,
}

impl Tables {
    pub(super) fn new(init: &ParsedInit) -> Self {
        Self {
            header: init.header.clone(),
            entries: Vec::new(),
            start: 0,
            last: None,
            durations: Vec::new(),
            sizes: Vec::new(),
            keyframes: Vec::new(),
            runs: Vec::new(),
            chunks: 0,
            silent: 0,
        }
    }

    pub(super) fn timescale(&self) -> Timescale {
        self.header.timescale
    }

    pub(super) fn samples(&self) -> u64 {
        self.sizes.len() as u64
    }

    /// The number (from 1) of the sample description that `init` holds. An init of another kind or
    /// timescale than the track's first is refused.
    pub(super) fn description(&mut self, init: &ParsedInit) -> Result<u32, &'static str> {
        let same_kind = std::mem::discriminant(&init.header.entry)
            == std::mem::discriminant(&self.header.entry);
        if !same_kind || init.header.timescale != self.header.timescale {
            return Err("its init has another codec or timescale than the track's first");
        }
        let known = self
            .entries
            .iter()
            .position(|entry| *entry == init.header.entry);
        let at = known.unwrap_or_else(|| {
            self.entries.push(init.header.entry.clone());
            self.entries.len() - 1
        });
        Ok(at as u32 + 1)
    }

    /// Adds an access unit that begins at `time`. What came before lasts until then; where it would
    /// last longer, this one begins at its end.
    pub(super) fn sample(&mut self, time: u64, sample: &Sample) {
        let begins = match self.last {
            None => {
                self.start = time;
                time
            }
            Some((before, lasts)) => {
                let longest = before.saturating_add(u32::MAX.into());
                let begins = time.clamp(before.saturating_add(lasts.into()), longest);
                self.duration((begins - before) as u32);
                begins
            }
        };
        self.last = Some((begins, sample.duration));
        self.sizes.push(sample.size);
        if sample.keyframe {
            self.keyframes.push(self.sizes.len() as u32);
        }
    }

    /// The silent packet and how many of it stand between the last access unit and `time`; none where
    /// nothing is missing, for pictures, and for sound of which no silent packet is known.
    pub(super) fn silence(&self, init: &ParsedInit, time: u64) -> Option<(&'static [u8], u32)> {
        let Codec::Mp4a(entry) = &init.header.entry else {
            return None;
        };
        let packet = SILENT_AAC
            .get(usize::from(entry.audio.channel_count).checked_sub(1)?)
            .copied()?;
        let (_, lasts) = self.last?;
        let count = time.saturating_sub(self.end()).checked_div(lasts.into())?;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        (count > 0 && count <= MOST_SILENT - self.silent).then_some((packet, count))
    }

    /// Adds `count` silent packets of `size` bytes behind the last access unit.
    pub(super) fn fill(&mut self, size: u32, count: u32) {
        let duration = self.last.map_or(0, |(_, lasts)| lasts);
        let silent = Sample {
            duration,
            size,
            keyframe: true,
        };
        for _ in 0..count {
            self.sample(self.end(), &silent);
        }
        self.silent = self.silent.saturating_add(count).min(MOST_SILENT);
    }

    /// Adds a chunk of the file that holds the next `samples` samples.
    pub(super) fn chunk(&mut self, samples: u32, description: u32) {
        self.chunks += 1;
        let same = self.runs.last().is_some_and(|run| {
            (run.samples_per_chunk, run.sample_description_index) == (samples, description)
        });
        if !same {
            self.runs.push(StscEntry {
                first_chunk: self.chunks,
                samples_per_chunk: samples,
                sample_description_index: description,
            });
        }
    }

    fn duration(&mut self, sample_delta: u32) {
        match self.durations.last_mut() {
            Some(run) if run.sample_delta == sample_delta => run.sample_count += 1,
            _ => self.durations.push(SttsEntry {
                sample_count: 1,
                sample_delta,
            }),
        }
    }

    /// When the last access unit ends, in the track's timescale after the recording's zero.
    fn end(&self) -> u64 {
        self.last.map_or(self.start, |(begins, lasts)| {
            begins.saturating_add(lasts.into())
        })
    }

    /// When the track ends, in the movie's timescale.
    pub(super) fn movie_end(&self) -> u64 {
        self.movie_units(self.end())
    }

    fn movie_units(&self, units: u64) -> u64 {
        let scaled =
            u128::from(units) * u128::from(MOVIE.get()) / u128::from(self.timescale().get());
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    /// The track's boxes; `offsets` says where each of its chunks begins in the file.
    pub(super) fn trak(
        &self,
        id: u32,
        name: &str,
        offsets: &[u64],
        wide: bool,
    ) -> Result<Trak, Error> {
        let mut durations = self.durations.clone();
        if let Some((_, lasts)) = self.last {
            durations.push(SttsEntry {
                sample_count: 1,
                sample_delta: lasts,
            });
        }
        let narrow = |offset: &u64| {
            u32::try_from(*offset)
                .map_err(|_| Error::Unencodable("an offset beyond 4 GiB in `stco`"))
        };
        let (stco, co64) = if wide {
            (
                None,
                Some(Co64 {
                    entries: offsets.to_vec(),
                }),
            )
        } else {
            let entries = offsets.iter().map(narrow).collect::<Result<_, _>>()?;
            (Some(Stco { entries }), None)
        };
        let every_one = self.keyframes.len() == self.sizes.len();
        let stbl = Stbl {
            stsd: Stsd {
                codecs: self.entries.clone(),
            },
            stts: Stts { entries: durations },
            stss: (!every_one).then(|| Stss {
                entries: self.keyframes.clone(),
            }),
            stsc: Stsc {
                entries: self.runs.clone(),
            },
            stsz: Stsz {
                samples: StszSamples::Different {
                    sizes: self.sizes.clone(),
                },
            },
            stco,
            co64,
            ..Stbl::default()
        };
        let media_duration = self.end() - self.start;
        let mut trak = self
            .header
            .trak(id, name, media_duration, self.movie_end(), stbl);
        if self.start > 0 {
            // An empty edit (ISO/IEC 14496-12, 8.6.6) holds the place until the track begins.
            let empty = self.movie_units(self.start);
            let rate = 1.into();
            let edit = |segment_duration, media_time| ElstEntry {
                segment_duration,
                media_time,
                media_rate: rate,
            };
            let entries = vec![edit(empty, None), edit(self.movie_end() - empty, Some(0))];
            trak.edts = Some(Edts {
                elst: Some(Elst { entries }),
            });
        }
        Ok(trak)
    }
}
