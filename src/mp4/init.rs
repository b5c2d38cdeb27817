//! Inits: `ftyp` + `moov` of one fragmented track, CMAF brands, no edit list; and the codec names
//! that playlists want (RFC 6381).

use super::Error;
use super::boxes::{BoxAt, expect, find, malformed};
use super::chunk::{TRACK, encode};
use crate::media::Timescale;
use mp4_atom::{
    Audio, Avc1, Avcc, Codec, Decode, Dinf, Dref, Esds, Ftyp, Hdlr, Mdhd, Mdia, Minf, Moov, Mp4a,
    Mvex, Mvhd, Smhd, Stbl, Stco, Stsd, Tkhd, Trak, Trex, Url, Visual, Vmhd,
    esds::{DecoderConfig, DecoderSpecific, EsDescriptor, SLConfig},
};

/// Longer inits are refused: ours take less than 1 KiB.
const LONGEST: usize = 4096;
/// An `esds` box holds an AudioSpecificConfig of a few bytes; the bound also bounds recursion.
const LONGEST_ESDS: usize = 256;

/// The codec's name in playlists from an H.264 sequence parameter set (without start code):
/// `avc1.42c01f` is Constrained Baseline, level 3.1 (RFC 6381, 3.3).
pub fn avc_codec_tag(sps: &[u8]) -> Result<String, Error> {
    match sps {
        [0x67 | 0x27 | 0x47, profile, constraints, level, ..] => {
            Ok(format!("avc1.{profile:02x}{constraints:02x}{level:02x}"))
        }
        _ => Err(Error::Unencodable(
            "this is no H.264 sequence parameter set",
        )),
    }
}

/// The codec's name in playlists from an AudioSpecificConfig (ISO/IEC 14496-3, 1.6.2.1):
/// `mp4a.40.2` is AAC-LC.
pub fn aac_codec_tag(config: &[u8]) -> Result<String, Error> {
    match config {
        [first, _, ..] if (1..31).contains(&(first >> 3)) => Ok(format!("mp4a.40.{}", first >> 3)),
        _ => Err(Error::Unencodable("this is no AudioSpecificConfig of AAC")),
    }
}

/// The init of a track of pictures. `sps` and `pps` are NAL units without start code or length;
/// `width` and `height` are those shown, at most 65535.
pub fn video_init(
    sps: &[u8],
    pps: &[u8],
    width: u32,
    height: u32,
    timescale: Timescale,
) -> Result<Vec<u8>, Error> {
    avc_codec_tag(sps)?;
    let fits = |nal: &[u8]| !nal.is_empty() && nal.len() <= 1024;
    if !fits(sps) || !fits(pps) {
        return Err(Error::Unencodable("parameter sets of no or unusual length"));
    }
    let size = |points: u32| {
        u16::try_from(points).map_err(|_| Error::Unencodable("a picture wider than 65535 points"))
    };
    let (width, height) = (size(width)?, size(height)?);
    let avcc = Avcc::new(sps, pps)
        .map_err(|_| Error::Unencodable("a sequence parameter set too short"))?;
    let entry = Codec::Avc1(Avc1 {
        visual: Visual {
            data_reference_index: 1,
            width,
            height,
            ..Visual::default()
        },
        avcc,
        ..Avc1::default()
    });
    fragmented(&TrackHeader {
        timescale,
        width,
        height,
        entry,
    })
}

/// The init of a track of sound: `config` is the AudioSpecificConfig, `sample_rate` at most 65535.
pub fn audio_init(
    config: &[u8],
    sample_rate: u32,
    channels: u8,
    timescale: Timescale,
) -> Result<Vec<u8>, Error> {
    aac_codec_tag(config)?;
    let sample_rate = u16::try_from(sample_rate)
        .map_err(|_| Error::Unencodable("a sample rate above 65535 per second"))?;
    if config.len() > 64 {
        return Err(Error::Unencodable(
            "an AudioSpecificConfig of unusual length",
        ));
    }
    let entry = Codec::Mp4a(mp4a(channels.into(), sample_rate, config));
    fragmented(&TrackHeader {
        timescale,
        width: 0,
        height: 0,
        entry,
    })
}

fn mp4a(channel_count: u16, sample_rate: u16, config: &[u8]) -> Mp4a {
    let dec_config = DecoderConfig {
        object_type_indication: 0x40, // Audio ISO/IEC 14496-3
        stream_type: 5,               // AudioStream
        dec_specific: Some(DecoderSpecific {
            raw: config.to_vec(),
            ..DecoderSpecific::default()
        }),
        ..DecoderConfig::default()
    };
    let es_desc = EsDescriptor {
        es_id: 1,
        dec_config,
        sl_config: SLConfig {},
        ..EsDescriptor::default()
    };
    Mp4a {
        audio: Audio {
            data_reference_index: 1,
            channel_count,
            sample_size: 16,
            sample_rate: sample_rate.into(),
        },
        esds: Esds { es_desc },
        btrt: None,
        taic: None,
    }
}

/// What a track's boxes say apart from its samples.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TrackHeader {
    pub(super) timescale: Timescale,
    /// 0 for sound.
    pub(super) width: u16,
    pub(super) height: u16,
    pub(super) entry: Codec,
}

impl TrackHeader {
    fn is_sound(&self) -> bool {
        matches!(self.entry, Codec::Mp4a(_))
    }

    /// The track's boxes around its sample tables. `duration` is in the track's timescale,
    /// `movie_duration` in the movie's.
    pub(super) fn trak(
        &self,
        id: u32,
        name: &str,
        duration: u64,
        movie_duration: u64,
        stbl: Stbl,
    ) -> Trak {
        let sound = self.is_sound();
        Trak {
            tkhd: Tkhd {
                track_id: id,
                enabled: true,
                in_movie: true,
                duration: movie_duration,
                volume: u8::from(sound).into(),
                width: self.width.into(),
                height: self.height.into(),
                ..Tkhd::default()
            },
            mdia: Mdia {
                mdhd: Mdhd {
                    timescale: self.timescale.get(),
                    duration,
                    language: "und".into(),
                    ..Mdhd::default()
                },
                hdlr: Hdlr {
                    handler: if sound { b"soun" } else { b"vide" }.into(),
                    name: name.into(),
                },
                minf: Minf {
                    vmhd: (!sound).then(Vmhd::default),
                    smhd: sound.then(Smhd::default),
                    dinf: Dinf {
                        dref: Dref {
                            entries: vec![Url::default().into()],
                        },
                    },
                    stbl,
                    ..Minf::default()
                },
            },
            ..Trak::default()
        }
    }
}

fn fragmented(header: &TrackHeader) -> Result<Vec<u8>, Error> {
    let ftyp = Ftyp {
        major_brand: b"iso6".into(),
        minor_version: 0,
        compatible_brands: vec![b"iso6".into(), b"cmfc".into()],
    };
    let stbl = Stbl {
        stsd: Stsd {
            codecs: vec![header.entry.clone()],
        },
        stco: Some(Stco::default()),
        ..Stbl::default()
    };
    let name = if header.is_sound() {
        "sound"
    } else {
        "pictures"
    };
    let moov = Moov {
        mvhd: Mvhd {
            timescale: header.timescale.get(),
            rate: 1.into(),
            volume: 1.into(),
            next_track_id: TRACK + 1,
            ..Mvhd::default()
        },
        trak: vec![header.trak(TRACK, name, 0, 0, stbl)],
        mvex: Some(Mvex {
            mehd: None,
            trex: vec![Trex {
                track_id: TRACK,
                default_sample_description_index: 1,
                ..Trex::default()
            }],
        }),
        ..Moov::default()
    };
    let mut out = Vec::new();
    encode(&ftyp, &mut out)?;
    encode(&moov, &mut out)?;
    Ok(out)
}

/// What an init says of its track.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedInit {
    pub(super) header: TrackHeader,
}

impl ParsedInit {
    /// Units per second of the track's timeline.
    pub fn timescale(&self) -> Timescale {
        self.header.timescale
    }

    /// Points per row and rows; none for sound.
    pub fn size(&self) -> Option<(u16, u16)> {
        (!self.header.is_sound()).then_some((self.header.width, self.header.height))
    }

    /// The codec's name in playlists (RFC 6381).
    pub fn codec_tag(&self) -> Result<String, Error> {
        match &self.header.entry {
            Codec::Avc1(entry) => avc_codec_tag(
                entry
                    .avcc
                    .sequence_parameter_sets
                    .first()
                    .map_or(&[], |sps| sps),
            ),
            Codec::Mp4a(entry) => aac_codec_tag(
                entry
                    .esds
                    .es_desc
                    .dec_config
                    .dec_specific
                    .as_ref()
                    .map_or(&[], |config| &config.raw),
            ),
            _ => Err(Error::Unencodable("an init of neither H.264 nor AAC")),
        }
    }
}

/// Reads an init of one track of H.264 or AAC, at most 4 KiB.
pub fn parse_init(bytes: &[u8]) -> Result<ParsedInit, Error> {
    if bytes.len() > LONGEST {
        return Err(malformed("an init this long is none of ours", LONGEST));
    }
    let ftyp = expect(bytes, 0, bytes.len(), b"ftyp", "an init begins with `ftyp`")?;
    let moov = expect(
        bytes,
        ftyp.body.end,
        bytes.len(),
        b"moov",
        "`moov` follows `ftyp`",
    )?;
    if moov.body.end != bytes.len() {
        return Err(malformed("bytes after `moov`", moov.body.end));
    }
    let trak = find(bytes, moov.body.clone(), b"trak", "an init has a track")?;
    let tkhd: Tkhd = find(bytes, trak.body.clone(), b"tkhd", "a track has `tkhd`")?.leaf(bytes)?;
    let mdia = find(bytes, trak.body.clone(), b"mdia", "a track has `mdia`")?;
    let mdhd = find(bytes, mdia.body.clone(), b"mdhd", "a track has `mdhd`")?;
    let minf = find(bytes, mdia.body, b"minf", "a track has `minf`")?;
    let stbl = find(bytes, minf.body, b"stbl", "a track has `stbl`")?;
    let stsd = find(bytes, stbl.body, b"stsd", "a track has `stsd`")?;
    let timescale = Timescale::new(mdhd.leaf::<Mdhd>(bytes)?.timescale)
        .ok_or(malformed("a timescale of 0", mdhd.start()))?;
    // Version, flags and the number of entries come before the first entry.
    let entry = super::boxes::box_at(bytes, stsd.body.start + 8, stsd.body.end)?;
    if tkhd.track_id != TRACK || entry.body.end != stsd.body.end {
        return Err(malformed("an init describes track 1 once", stsd.start()));
    }
    let entry = match &entry.kind {
        b"avc1" => avc1_entry(bytes, &entry)?,
        b"mp4a" => mp4a_entry(bytes, &entry)?,
        _ => return Err(malformed("a track of neither H.264 nor AAC", entry.start())),
    };
    let (width, height) = (tkhd.width.integer(), tkhd.height.integer());
    let header = TrackHeader {
        timescale,
        width,
        height,
        entry,
    };
    Ok(ParsedInit { header })
}

fn avc1_entry(bytes: &[u8], entry: &BoxAt) -> Result<Codec, Error> {
    let body = &bytes[entry.body.clone()];
    let mut rest = body;
    let visual =
        Visual::decode(&mut rest).map_err(|_| malformed("`avc1` is cut short", entry.start()))?;
    let children = entry.body.end - rest.len()..entry.body.end;
    let avcc: Avcc = find(bytes, children, b"avcC", "`avc1` holds `avcC`")?.leaf(bytes)?;
    Ok(Codec::Avc1(Avc1 {
        visual,
        avcc,
        ..Avc1::default()
    }))
}

fn mp4a_entry(bytes: &[u8], entry: &BoxAt) -> Result<Codec, Error> {
    let body = &bytes[entry.body.clone()];
    let mut rest = body;
    let audio =
        Audio::decode(&mut rest).map_err(|_| malformed("`mp4a` is cut short", entry.start()))?;
    let children = entry.body.end - rest.len()..entry.body.end;
    let esds = find(bytes, children, b"esds", "`mp4a` holds `esds`")?;
    if esds.body.len() > LONGEST_ESDS {
        return Err(malformed(
            "an `esds` this long is none of ours",
            esds.start(),
        ));
    }
    let esds = esds.leaf(bytes)?;
    Ok(Codec::Mp4a(Mp4a {
        audio,
        esds,
        btrt: None,
        taic: None,
    }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Parameter sets as openh264 writes them for 640x360.
    pub(in crate::mp4) const SPS: &[u8] = &[
        0x67, 0x42, 0xc0, 0x1e, 0x8c, 0x8d, 0x40, 0x50, 0x17, 0xfc, 0xb0, 0x0f, 0x08, 0x84, 0x6a,
    ];
    pub(in crate::mp4) const PPS: &[u8] = &[0x68, 0xce, 0x3c, 0x80];
    /// AAC-LC, 48 kHz, stereo.
    pub(in crate::mp4) const AAC: &[u8] = &[0x11, 0x90];

    #[test]
    fn codecs_have_their_names() {
        assert_eq!(avc_codec_tag(SPS).unwrap(), "avc1.42c01e");
        assert_eq!(aac_codec_tag(AAC).unwrap(), "mp4a.40.2");
        assert!(avc_codec_tag(PPS).is_err());
        assert!(aac_codec_tag(&[]).is_err());
    }

    #[test]
    fn inits_read_back() {
        let bytes = video_init(SPS, PPS, 640, 360, Timescale::VIDEO).unwrap();
        let init = parse_init(&bytes).unwrap();
        assert_eq!(
            (init.timescale(), init.size()),
            (Timescale::VIDEO, Some((640, 360)))
        );
        assert_eq!(init.codec_tag().unwrap(), "avc1.42c01e");

        let bytes = audio_init(AAC, 48_000, 2, Timescale::SOUND).unwrap();
        let init = parse_init(&bytes).unwrap();
        assert_eq!((init.timescale(), init.size()), (Timescale::SOUND, None));
        assert_eq!(init.codec_tag().unwrap(), "mp4a.40.2");
    }

    #[test]
    fn another_reader_finds_the_same() {
        let bytes = video_init(SPS, PPS, 640, 360, Timescale::VIDEO).unwrap();
        let other = re_mp4::Mp4::read_bytes(&bytes).unwrap();
        let track = &other.tracks()[&1];
        assert_eq!(
            (track.width, track.height, track.timescale),
            (640, 360, 90_000)
        );
        assert_eq!(track.codec_string(&other).unwrap(), "avc1.42C01E");
    }

    proptest! {
        #[test]
        fn damaged_or_arbitrary_bytes_never_panic(sound in any::<bool>(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), junk in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = if sound {
                audio_init(AAC, 48_000, 2, Timescale::SOUND).unwrap()
            } else {
                video_init(SPS, PPS, 640, 360, Timescale::VIDEO).unwrap()
            };
            prop_assert!(parse_init(&bytes[..damage[0].0.index(bytes.len())]).is_err());
            for (at, with) in damage {
                let at = at.index(bytes.len());
                bytes[at] = with;
            }
            let _ = parse_init(&bytes);
            prop_assert!(parse_init(&junk).is_err());
        }
    }
}
