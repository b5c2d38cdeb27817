//! The station of a simulated box: what lanes and keeper do, on one task in virtual time.
//!
//! What is recorded is cut by the real segmenter and kept by the real [`Custody`]; here it is made up,
//! syncs take time, and the history is told.
//!
//! Longer than most files: it stands for the lanes and the keeper at once.

use super::card::Card;
use super::history::{Happening, History};
use super::lecture::{Arrival, Lecture, Pictures, Plan, Sizes};
use super::network::Network;
use super::random::Random;
use crate::clock;
use crate::media::{
    AccessUnit, BoxId, Codec, Event, Fact, GapLength, Hash, MediaTime, Monotonic, RecordingId,
    SegmentKey, Segmented, StartedBy, StopReason, TrackId, TrackInfo, TrackKind, WallClock,
};
use crate::mp4;
use crate::segmenter::{self, Cut, Segmenter};
use crate::spool::twin::TwinDisk;
use crate::spool::{self, Recovered, Spool, SyncResult};
use crate::station::custody::{self, Custody, Word};
use crate::station::lane::LADDER;
use crate::uplink::{ErrorCode, Offer, Report};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// Why a station ended by itself.
pub(super) type Outcome = Result<(), spool::Error>;

/// The keeper does so about as often.
const TIDY: Duration = Duration::from_secs(20);
/// Parameter sets as openh264 writes them for 640x360, and AAC-LC at 48 kHz.
const SPS: &[u8] = &[
    0x67, 0x42, 0xc0, 0x1e, 0x8c, 0x8d, 0x40, 0x50, 0x17, 0xfc, 0xb0, 0x0f, 0x08, 0x84, 0x6a,
];
const PPS: &[u8] = &[0x68, 0xce, 0x3c, 0x80];
const AAC: &[u8] = &[0x11, 0x90];

const PICTURES: TrackId = TrackId(1);
const SOUND: TrackId = TrackId(3);

/// A recording goes on after a restart if the box was away for no longer.
const RESUME_WITHIN: Duration = Duration::from_secs(600);

/// What a station works with.
pub(super) struct Ends {
    pub network: Network,
    pub history: Arc<Mutex<History>>,
    pub plan: Arc<Mutex<Plan>>,
    pub random: Random,
    pub offers: mpsc::Sender<Offer>,
    pub reports: mpsc::Receiver<Report>,
    pub card: Card,
    pub disk: TwinDisk,
}

struct Lane {
    track: TrackId,
    segmenter: Segmenter,
}

struct Running {
    lecture: Lecture,
    recording: RecordingId,
    span: u32,
    start: Monotonic,
    /// The next picture.
    tick: u64,
    /// Of the pictures' size; an encoder follows at the next keyframe.
    percent: u8,
    lanes: Vec<Lane>,
    facts: Vec<Fact>,
    end: Option<SegmentKey>,
}

/// See the module.
pub(super) struct Station {
    ends: Ends,
    custody: Custody,
    box_id: BoxId,
    recovered: Vec<Recovered>,
    running: Option<Running>,
    /// Per cent of the pictures' size, as the uplink's breaker wants it.
    percent: u8,
    /// The ends of chunks that are not kept yet.
    unkept: BTreeMap<SegmentKey, VecDeque<u64>>,
    /// Segments of events that the history knows.
    noted: BTreeSet<SegmentKey>,
    /// Segments of ends, which the spool may write later.
    last_facts: BTreeSet<SegmentKey>,
    /// When what may go is let go, and what failed at the start is tried again.
    tidy_at: Option<Monotonic>,
}

type Syncing = Pin<Box<dyn Future<Output = SyncResult> + Send>>;

impl Station {
    pub fn new(
        ends: Ends,
        spool: Arc<Mutex<Spool>>,
        recovered: &[Recovered],
        box_id: BoxId,
        (epoch, custody): (u64, custody::Config),
    ) -> Self {
        Self {
            ends,
            custody: Custody::new(spool, epoch, custody),
            box_id,
            recovered: recovered.to_vec(),
            running: None,
            percent: LADDER[0],
            unkept: BTreeMap::new(),
            noted: BTreeSet::new(),
            last_facts: BTreeSet::new(),
            tidy_at: None,
        }
    }

    /// Works until the disk refuses.
    pub async fn run(mut self) -> Outcome {
        let outcome = self.work().await;
        // What was written before the disk refused is on it.
        while let Some(word) = self.custody.next_word() {
            if let Word::Offer(Offer::Chunk {
                key, live: true, ..
            }) = word
            {
                self.wrote_facts(key);
            }
        }
        outcome
    }

    async fn work(&mut self) -> Outcome {
        self.take_up()?;
        let mut syncing: Option<Syncing> = None;
        loop {
            let now = self.now();
            self.follow_the_plan(now)?;
            if self.tidy_at.is_none_or(|at| at <= now) {
                self.tidy_at = Some(now.plus(TIDY));
                let wall = self.wall();
                let Ends {
                    card,
                    disk,
                    history,
                    ..
                } = &mut self.ends;
                card.tidy(&mut self.custody, disk, &mut history.lock().unwrap(), wall);
            }
            self.carry_out().await?;
            if syncing.is_none()
                && let Some(job) = self.custody.start_sync(now)
            {
                let slow = self.ends.random.per_million(20_000);
                let takes = match slow {
                    true => self.ends.random.millis(100, 900),
                    false => self.ends.random.millis(1, 30),
                };
                syncing = Some(Box::pin(async move {
                    clock::pause(takes).await;
                    job.run()
                }));
            }
            let due = self.next_due(now, syncing.is_some());
            let sync = async {
                match &mut syncing {
                    Some(syncing) => syncing.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                report = self.ends.reports.recv() => match report {
                    Some(report) => self.heard(&report)?,
                    // The uplink ends only with the process.
                    None => std::future::pending().await,
                },
                result = sync => {
                    syncing = None;
                    let Ends { card, disk, history, .. } = &mut self.ends;
                    let history = &mut history.lock().unwrap();
                    let errors = card.synced(&mut self.custody, disk, history, result);
                    if let Some((_, error)) = errors.into_iter().next_back() {
                        return Err(error);
                    }
                }
                () = clock::pause(due.since(now)) => {}
            }
        }
    }

    fn now(&self) -> Monotonic {
        self.ends.network.now()
    }

    /// The box's clock: an annotation, which may be anything.
    fn wall(&self) -> WallClock {
        let off = self.ends.plan.lock().unwrap().wall_off_by;
        WallClock {
            unix_nanos: 1_795_000_000_000_000_000 + off + self.now().as_nanos() as i64,
            uncertainty: Some(Duration::from_secs(1)),
        }
    }

    fn note(&self, happening: Happening) {
        self.ends.history.lock().unwrap().note(happening);
    }

    fn next_due(&self, now: Monotonic, syncing: bool) -> Monotonic {
        let mut due = self.ends.plan.lock().unwrap().next(now);
        if let Some(running) = self
            .running
            .as_ref()
            .filter(|running| running.end.is_none())
        {
            due = due.min(running.next_tick());
        }
        due = due.min(self.tidy_at.unwrap_or(due));
        if let (false, Some(at)) = (syncing, self.custody.sync_at()) {
            due = due.min(at);
        }
        due
    }

    /// What an earlier run left: the latest recording without an end goes on if its lecture does.
    fn take_up(&mut self) -> Outcome {
        let recovered = std::mem::take(&mut self.recovered);
        self.custody.take_up(&recovered);
        let now = self.now();
        let (lecture, away) = {
            let mut plan = self.ends.plan.lock().unwrap();
            let spool = self.custody.spool();
            plan.incomplete
                .retain(|recording| spool.state(*recording).is_some());
            plan.recording = false;
            (plan.lecture(now), now.since(plan.gone))
        };
        let mut open: Vec<_> = self
            .custody
            .spool()
            .recordings()
            .filter(|(_, state)| !state.ended)
            .filter_map(|(id, state)| state.opened.map(|o| (o.epoch, o.span, id)))
            .collect();
        open.sort_unstable();
        let lecture = lecture.filter(|_| away <= RESUME_WITHIN);
        let latest = lecture.and_then(|lecture| Some((lecture, open.pop()?.2)));
        for (_, _, recording) in open {
            self.end_unattended(recording)?;
        }
        if let Some((lecture, recording)) = latest {
            self.begin(recording, lecture)?;
        }
        Ok(())
    }

    fn follow_the_plan(&mut self, now: Monotonic) -> Outcome {
        let lecture = self.ends.plan.lock().unwrap().lecture(now);
        if self.running.is_none()
            && let Some(lecture) = lecture
        {
            let mut id = [0; 16];
            self.ends.random.fill(&mut id);
            self.ends.plan.lock().unwrap().begun += 1;
            self.begin(RecordingId(id), lecture)?;
        }
        let Some(mut running) = self.running.take() else {
            return Ok(());
        };
        let mut given = Vec::new();
        while running.end.is_none() && running.next_tick() <= now {
            let random = &mut self.ends.random;
            running.make(random, self.percent, &mut |part| given.push(part));
        }
        let over = running.end.is_none() && now >= running.lecture.until;
        if over {
            for lane in &mut running.lanes {
                lane.segmenter.flush(&mut |part| given.push(part)).unwrap();
            }
        }
        let recording = running.recording;
        self.running = Some(running);
        for part in given {
            self.append(recording, &part)?;
        }
        if let Some(running) = &mut self.running {
            let facts = std::mem::take(&mut running.facts);
            let span = running.span;
            if over {
                let key = self.end(recording, span, facts, StopReason::Button)?;
                if let Some(running) = &mut self.running {
                    running.end = Some(key);
                }
            } else if !facts.is_empty() {
                let key = self.custody.write_facts(recording, &facts, now)?;
                self.wrote_facts(key);
            }
        }
        Ok(())
    }

    /// Begins a recording, or takes it up in its next span.
    fn begin(&mut self, recording: RecordingId, lecture: Lecture) -> Outcome {
        let wall = self.wall();
        let span = self.custody.begin(recording, wall.unix_nanos)?;
        let start = self.now();
        let mut events = Vec::new();
        if span == 0 {
            events.push(Event::Started {
                box_id: self.box_id,
                by: StartedBy::Button,
                room: None,
                title: None,
            });
        }
        events.push(Event::Span {
            epoch: self.custody.epoch(),
            wall: Some(wall),
            gap: (span > 0).then_some(GapLength::Unknown),
        });
        let mut lanes = Vec::new();
        let mut inits = Vec::new();
        for track in [PICTURES, SOUND] {
            let mut segmenter = Segmenter::new(segmenter::Config {
                recording,
                track,
                epoch: self.custody.epoch(),
                span,
                first_sequence: self.custody.next_sequence(recording, track),
                timescale: lecture.sizes.rate.timescale(),
                cut: Cut::pictures(
                    lecture.sizes.rate,
                    Duration::from_millis(250),
                    Duration::from_secs(2),
                ),
            });
            let (info, init) = describe(track, &lecture.sizes);
            segmenter
                .set_init(init, &mut |part| inits.push(part))
                .unwrap();
            events.push(Event::Track(info));
            lanes.push(Lane { track, segmenter });
        }
        let fact = |event| Fact {
            span,
            at_nanos: 0,
            event,
        };
        {
            let mut plan = self.ends.plan.lock().unwrap();
            plan.incomplete.insert(recording);
            plan.recording = true;
        }
        self.running = Some(Running {
            lecture,
            recording,
            span,
            start,
            tick: 0,
            percent: self.percent,
            lanes,
            facts: events.into_iter().map(fact).collect(),
            end: None,
        });
        for init in inits {
            self.append(recording, &init)?;
        }
        Ok(())
    }

    fn append(&mut self, recording: RecordingId, given: &Segmented) -> Outcome {
        if let Segmented::Chunk(chunk) = given {
            let offset = {
                let spool = self.custody.spool();
                let state = spool.state(recording);
                let track = state.and_then(|state| state.tracks.get(&chunk.key.track));
                let segment = track.and_then(|track| track.segments.get(&chunk.key.sequence));
                segment.map_or(0, |segment| segment.length)
            };
            self.segmented(chunk.key, offset, chunk.bytes.clone());
        }
        self.custody.append(recording, given)?;
        Ok(())
    }

    fn segmented(&mut self, key: SegmentKey, offset: u64, bytes: Vec<u8>) {
        let end = offset + bytes.len() as u64;
        self.unkept.entry(key).or_default().push_back(end);
        self.ends.plan.lock().unwrap().chunks.insert(
            (key, end),
            Arrival {
                key,
                offered: self.now(),
                received: None,
            },
        );
        self.note(Happening::Segmented { key, offset, bytes });
    }

    /// Facts were written, which custody makes into a segment by itself.
    fn wrote_facts(&mut self, key: SegmentKey) {
        if key.track == TrackId::EVENTS && !self.noted.contains(&key) {
            let bytes = {
                let spool = self.custody.spool();
                // Not written yet, or erased since.
                let track = spool
                    .state(key.recording)
                    .and_then(|s| s.tracks.get(&key.track));
                let Some(segment) = track.and_then(|track| track.segments.get(&key.sequence))
                else {
                    return;
                };
                let length = segment.length;
                spool.read(key, 0, length).unwrap()
            };
            self.noted.insert(key);
            self.segmented(key, 0, bytes);
        }
    }

    /// The segment of the end is kept and sealed in one.
    fn kept_whole(&mut self, key: SegmentKey) {
        let ends = self.unkept.get_mut(&key).map(std::mem::take);
        if let (TrackId::EVENTS, Some(bytes)) =
            (key.track, ends.and_then(|ends| ends.back().copied()))
        {
            self.note(Happening::Kept { key, bytes });
        }
    }

    fn end(
        &mut self,
        recording: RecordingId,
        span: u32,
        facts: Vec<Fact>,
        reason: StopReason,
    ) -> Result<SegmentKey, spool::Error> {
        let now = self.now();
        let key = self.custody.end(recording, facts, (span, 0), reason, now)?;
        // The segment of the end itself may be written later.
        self.last_facts.insert(key);
        let mut totals = vec![(TrackId::EVENTS, key.sequence + 1)];
        for track in [PICTURES, SOUND] {
            totals.push((track, self.custody.next_sequence(recording, track)));
        }
        self.note(Happening::Ended { recording, totals });
        Ok(key)
    }

    /// Does what custody asks for.
    async fn carry_out(&mut self) -> Outcome {
        while let Some(word) = self.custody.next_word() {
            match word {
                Word::Offer(offer) => {
                    match offer {
                        Offer::Sealed { key, length, hash } => {
                            self.kept_whole(key);
                            self.note(Happening::Trailer { key, length, hash });
                        }
                        Offer::Lost { ref lost, .. } => self.note(Happening::Lost {
                            recording: lost.recording,
                            track: lost.track,
                            first: lost.first,
                            last: lost.last,
                            reason: lost.reason,
                        }),
                        Offer::Chunk {
                            key, live: true, ..
                        } => self.wrote_facts(key),
                        // Written now, and offered later.
                        Offer::Track {
                            recording,
                            track,
                            end,
                            ..
                        } => {
                            let sequence = end.saturating_sub(1);
                            let key = SegmentKey {
                                recording,
                                track,
                                sequence,
                            };
                            if self.last_facts.contains(&key) {
                                self.wrote_facts(key);
                            }
                        }
                        _ => {}
                    }
                    let _ = self.ends.offers.send(offer).await;
                }
                Word::Kept(key) => {
                    let end = self.unkept.get_mut(&key).and_then(VecDeque::pop_front);
                    if let Some(bytes) = end {
                        self.note(Happening::Kept { key, bytes });
                    }
                }
                Word::Sealed(key) => {
                    self.kept_whole(key);
                    self.unkept.remove(&key);
                    if self.running.as_ref().is_some_and(|r| r.end == Some(key)) {
                        self.running = None;
                        self.ends.plan.lock().unwrap().recording = false;
                    }
                }
                Word::Fact(recording, event) => self.fact(recording, event),
                Word::Erased(recording) => {
                    let ours = self.running.take_if(|r| r.recording == recording).is_some();
                    let mut plan = self.ends.plan.lock().unwrap();
                    plan.incomplete.remove(&recording);
                    plan.recording &= !ours;
                    plan.erased += 1;
                }
                // Nobody goes on with it.
                Word::TakenUp(recording) => self.end_unattended(recording)?,
                // It is sent again, or was let go before; the history knows which.
                Word::Alarm {
                    code: "receiver-forgot",
                    ..
                } => {}
                Word::Alarm { code, message, .. } => {
                    let text = format!("alarm {code}: {message}");
                    self.ends.plan.lock().unwrap().breaches.push(text);
                }
            }
        }
        Ok(())
    }

    /// Ends a recording that nobody goes on with, unless it has its end.
    fn end_unattended(&mut self, recording: RecordingId) -> Outcome {
        let ours = |running: &Running| running.recording == recording;
        if self.running.as_ref().is_some_and(ours) {
            return Ok(());
        }
        let (span, lost): (_, Vec<_>) = match self.custody.spool().state(recording) {
            Some(state) if !state.ended => {
                let span = state.opened.map_or(0, |opened| opened.span);
                (span, state.lost().collect())
            }
            _ => return Ok(()),
        };
        let facts = lost.into_iter().map(|(track, range, reason)| Fact {
            span,
            at_nanos: 0,
            event: Event::Lost {
                track,
                first: range.first,
                last: range.last,
                reason,
            },
        });
        let reason = StopReason::AwayTooLong;
        self.end(recording, span, facts.collect(), reason).map(drop)
    }

    fn fact(&mut self, recording: RecordingId, event: Event) {
        if let Event::Lost {
            track,
            first,
            last,
            reason,
        } = event
        {
            self.note(Happening::Lost {
                recording,
                track,
                first,
                last,
                reason,
            });
        }
        let ours = self.running.as_mut().filter(|r| r.recording == recording);
        if let Some(running) = ours {
            let span = running.span;
            running.facts.push(Fact {
                span,
                at_nanos: 0,
                event,
            });
        }
    }

    /// What the uplink says.
    fn heard(&mut self, report: &Report) -> Outcome {
        let now = self.now();
        {
            let mut plan = self.ends.plan.lock().unwrap();
            match report {
                Report::Connected => {
                    plan.connected.push(now);
                    plan.restored = false;
                }
                Report::Forgot { recording, .. } => drop(plan.incomplete.insert(*recording)),
                Report::Disconnected { code, text } => {
                    let name = code.map_or("none".into(), |code| code.to_string());
                    *plan.ends.entry(name).or_default() += 1;
                    let fault = [
                        ErrorCode::PROTOCOL,
                        ErrorCode::MALFORMED,
                        ErrorCode::CONFLICT,
                        ErrorCode::CLONED,
                        ErrorCode::WRONG_BOX,
                        ErrorCode::UNKNOWN_BOX,
                        ErrorCode::CERTIFICATE,
                    ];
                    if code.is_some_and(|code| fault.contains(&code)) {
                        plan.breaches.push(format!("a connection ended: {text}"));
                    }
                }
                Report::Received { key, offset } => {
                    let below = plan.chunks.range_mut((*key, 0)..=(*key, *offset));
                    for (_, arrival) in below {
                        arrival.received.get_or_insert(now);
                    }
                }
                Report::Durable {
                    recording,
                    track,
                    durable,
                } => {
                    let heard = plan.durable.entry((*recording, *track)).or_default();
                    heard.push((now, durable.cumulative()));
                }
                Report::Complete { recording } => {
                    plan.incomplete.remove(recording);
                }
                Report::Link { step } => {
                    plan.steps.push((now, *step));
                    let rung = usize::from(*step).min(LADDER.len() - 1);
                    self.percent = LADDER[rung];
                }
                _ => {}
            }
        }
        match report {
            Report::Durable {
                recording,
                track,
                durable,
            } => self.note(Happening::Durable {
                recording: *recording,
                track: *track,
                durable: durable.clone(),
            }),
            Report::Complete { recording } => self.note(Happening::Complete {
                recording: *recording,
            }),
            _ => {}
        }
        self.custody.report(report)
    }
}

impl Running {
    /// When the next picture is captured.
    fn next_tick(&self) -> Monotonic {
        let nanos = self.lecture.sizes.rate.tick_nanos(self.tick);
        self.start.plus(Duration::from_nanos(nanos))
    }

    /// The next access unit of each track.
    fn make(&mut self, random: &mut Random, percent: u8, give: &mut impl FnMut(Segmented)) {
        let sizes = self.lecture.sizes;
        let captured = self.next_tick();
        let units = u64::from(sizes.rate.tick_units());
        let in_segment = sizes.rate.ticks_covering(Duration::from_secs(2));
        if self.tick.is_multiple_of(in_segment) {
            self.percent = percent;
        }
        for lane in &mut self.lanes {
            let keyframe = self.tick.is_multiple_of(in_segment);
            let length = match sizes.pictures {
                _ if lane.track == SOUND => sizes.sound,
                Pictures::Any { keyframe, .. } if self.tick.is_multiple_of(in_segment) => keyframe,
                Pictures::Any { others, .. } => random.between(others.0, others.1),
                Pictures::Like(each, times) => each[self.tick as usize % each.len()] * times,
            };
            let length = match lane.track {
                SOUND => length,
                _ => (length * u64::from(self.percent) / 100).max(1),
            };
            let mut data = vec![0; length as usize];
            random.fill(&mut data);
            let unit = AccessUnit {
                time: MediaTime((self.tick * units) as i64),
                duration: sizes.rate.tick_units(),
                keyframe,
                captured,
                data,
            };
            lane.segmenter.push(unit, give).unwrap();
        }
        self.tick += 1;
    }
}

/// A track and its init.
fn describe(track: TrackId, sizes: &Sizes) -> (TrackInfo, Vec<u8>) {
    let timescale = sizes.rate.timescale();
    let (kind, name, codec, codec_tag, init) = match track {
        SOUND => (
            TrackKind::Audio,
            "microphone",
            Codec::AacLc {
                sample_rate: 48_000,
                channels: 2,
            },
            mp4::aac_codec_tag(AAC),
            mp4::audio_init(AAC, 48_000, 2, timescale),
        ),
        _ => (
            TrackKind::Video,
            "presenter",
            Codec::H264 {
                width: 640,
                height: 360,
                rate: Some(sizes.rate),
            },
            mp4::avc_codec_tag(SPS),
            mp4::video_init(SPS, PPS, 640, 360, timescale),
        ),
    };
    let init = init.unwrap();
    let info = TrackInfo {
        id: track,
        name: name.into(),
        kind,
        codec,
        codec_tag: codec_tag.unwrap(),
        timescale,
        bit_rate: 100_000,
        init: Hash(*blake3::hash(&init).as_bytes()),
        language: None,
        alternate_of: None,
    };
    (info, init)
}
