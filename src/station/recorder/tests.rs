use super::reading::table;
use super::*;

const FIRST: RecordingId = RecordingId([1; 16]);
const SECOND: RecordingId = RecordingId([2; 16]);
const HOUR: Duration = Duration::from_secs(3600);
const WELL: World = World {
    ready: true,
    reachable: true,
    attention: false,
};
const AWAY: World = World {
    reachable: false,
    ..WELL
};
const START: Input = Input::Start(FIRST, StartedBy::Button);
const STOP: Input = Input::Stop(StopReason::Socket);

fn at(seconds: u64) -> Monotonic {
    ms(seconds * 1000)
}

fn ms(ms: u64) -> Monotonic {
    Monotonic::from_nanos(ms * 1_000_000)
}

fn rules(button: Button) -> Rules {
    Rules {
        maximum: HOUR,
        button,
    }
}

fn fresh() -> Recorder {
    Recorder::new(rules(Button::HoldToStop))
}

/// Started at 0 by the button, kept at once.
fn recording() -> Recorder {
    let mut recorder = fresh();
    recorder.handle(START, at(0)).unwrap();
    recorder.handle(Input::Kept, at(0)).unwrap();
    recorder
}

pub(super) fn name(state: State) -> &'static str {
    match state {
        State::Idle => "Idle",
        State::Starting(_) => "Starting",
        State::Recording(_) => "Recording",
        State::Paused(_) => "Paused",
        State::Stopping(_) => "Stopping",
        State::Fault => "Fault",
    }
}

/// What became of an input, as the table writes it.
pub(super) fn outcome(
    before: State,
    found: Result<Option<Action>, Refusal>,
    recorder: &Recorder,
    now: Monotonic,
) -> String {
    let action = match found {
        Err(Refusal::AlreadyRecording) => return "already recording".into(),
        Err(Refusal::NotRecording) => return "not recording".into(),
        Err(Refusal::Paused) => return "paused".into(),
        Err(Refusal::NotPaused) => return "not paused".into(),
        Err(Refusal::Stopping) => return "wait".into(),
        Err(Refusal::NoRoom) => return "no room".into(),
        Err(Refusal::NoLamp) => return "no lamp".into(),
        Ok(action) => action.map(|action| format!("{action:?}")),
    };
    let action = action.map(|action| action.split('(').next().unwrap().to_owned());
    let answered = recorder.answered == Some(now);
    let moved = before != recorder.state && !matches!(action.as_deref(), Some("Mark" | "Extend"));
    match (action, moved) {
        (Some(action), true) => format!("{action} → {}", name(recorder.state)),
        (Some(action), false) => action,
        (None, true) => format!("→ {}", name(recorder.state)),
        (None, false) if answered => "answered".into(),
        (None, false) => "-".into(),
    }
}

#[test]
fn the_table_of_the_module_is_the_code() {
    let now = at(100);
    let running = Running {
        recording: FIRST,
        since: at(0),
        before: Duration::ZERO,
        kept: at(0),
        most: HOUR,
    };
    let take_up = |paused| Input::TakeUp {
        recording: SECOND,
        recorded: HOUR / 2,
        extended: None,
        paused,
    };
    let states = [
        State::Idle,
        State::Starting(running),
        State::Recording(running),
        State::Paused(running),
        State::Stopping(running),
        State::Fault,
    ];
    let table = table();
    for (row, column, cell) in &table {
        let state = *states.iter().find(|state| name(**state) == column).unwrap();
        let mut recorder = Recorder { state, ..fresh() };
        let (input, context) = row.split_once(", ").unwrap_or((row, ""));
        match context {
            "" | "paused" => {}
            "just after one that acted" => recorder.acted = Some(ms(99_001)),
            "twice" => recorder.pressed = Some(ms(99_001)),
            "press to stop" => recorder.rules.button = Button::PressToStop,
            "press to stop, near the end" => {
                recorder.rules.button = Button::PressToStop;
                let most = Duration::from_secs(100) + WARNING;
                match &mut recorder.state {
                    State::Starting(running)
                    | State::Recording(running)
                    | State::Paused(running)
                    | State::Stopping(running) => running.most = most,
                    State::Idle | State::Fault => {}
                }
            }
            "the press that started" => recorder.hold_stops = false,
            "in a pause for the lamp" | "in a pause for it" => recorder.for_lamp = true,
            other => panic!("{other}"),
        }
        if context == "in a pause for the lamp" && column != "Paused" {
            assert_eq!(cell, "-");
            continue;
        }
        let before = recorder.state;
        let mut handle = |input| recorder.handle(input, now);
        let found = match input {
            "`Start`" => handle(Input::Start(SECOND, StartedBy::Socket)),
            "`Stop`" => handle(STOP),
            "`Pause`" => handle(Input::Pause),
            "`Resume`" => handle(Input::Resume),
            "`Mark`" => handle(Input::Mark),
            "`Pressed`" => handle(Input::Pressed(SECOND, now)),
            "`Held`" => handle(Input::Held),
            "the lamp is away for too long" | "the lamp is back" => {
                let away = input == "the lamp is away for too long";
                recorder.set_lamp(!away, now.minus(LAMPLESS));
                let found = Ok(recorder.poll(now));
                let found = outcome(before, found, &recorder, now);
                assert_eq!(&found, cell, "{row}, {column}");
                continue;
            }
            "the end of the time" => {
                recorder.rules.maximum = Duration::from_secs(100);
                match &mut recorder.state {
                    State::Starting(running) | State::Recording(running) => {
                        running.most = Duration::from_secs(100);
                    }
                    _ => {}
                }
                let before = recorder.state;
                let found = Ok(recorder.poll(now));
                assert_eq!(
                    &outcome(before, found, &recorder, now),
                    cell,
                    "{row}, {column}"
                );
                continue;
            }
            "`TakeUp`" => handle(take_up(context == "paused")),
            "`Kept`" => handle(Input::Kept),
            "`Finished`" => handle(Input::Finished),
            "`Erased`" => handle(Input::Erased),
            "`Fault`" => handle(Input::Fault),
            other => panic!("{other}"),
        };
        let found = outcome(before, found, &recorder, now);
        assert_eq!(&found, cell, "{row}, {column}");
    }
    println!("{} cells of the table hold", table.len());
    assert_eq!(table.len(), 22 * 6);
}

#[test]
fn the_lamp_is_solid_only_while_chunks_are_kept() {
    let mut recorder = fresh();
    recorder.handle(START, at(0)).unwrap();
    assert_eq!(recorder.lamp(WELL, at(1)), Lamp::ShortBlink);
    recorder.handle(Input::Kept, at(1)).unwrap();
    assert_eq!(recorder.lamp(WELL, at(2)), Lamp::Solid);
    assert_eq!(recorder.lamp(AWAY, ms(2750)), Lamp::Wink);
    assert_eq!(recorder.lamp(WELL, at(3)), Lamp::FastBlink);
    recorder.handle(Input::Kept, at(5)).unwrap();
    assert_eq!(recorder.lamp(WELL, at(5)), Lamp::Solid);
    recorder.handle(Input::Pause, at(6)).unwrap();
    assert_eq!(recorder.lamp(WELL, at(60)), Lamp::SlowBlink);
    recorder.handle(Input::Resume, at(60)).unwrap();
    assert_eq!(recorder.lamp(WELL, at(61)), Lamp::ShortBlink);
    recorder.handle(Input::Kept, at(61)).unwrap();
    assert_eq!(recorder.lamp(WELL, at(61)), Lamp::Solid);
    recorder.handle(Input::Fault, at(62)).unwrap();
    assert_eq!(recorder.lamp(WELL, at(62)), Lamp::FastBlink);
}

#[test]
fn a_device_that_gives_nothing_shows_before_the_receiver_and_after_a_fault() {
    for world in [WELL, AWAY] {
        let world = World {
            attention: true,
            ..world
        };
        let mut recorder = fresh();
        assert_eq!(recorder.lamp(world, at(0)), Lamp::ShortBlink, "idle");
        recorder.handle(START, at(0)).unwrap();
        assert_eq!(recorder.lamp(world, at(0)), Lamp::ShortBlink, "not kept");
        recorder.handle(Input::Kept, at(1)).unwrap();
        assert_eq!(recorder.lamp(world, at(1)), Lamp::DoubleWink);
        assert_eq!(recorder.lamp(world, at(4)), Lamp::FastBlink, "not kept");
        recorder.handle(Input::Kept, at(4)).unwrap();
        recorder.handle(Input::Fault, at(4)).unwrap();
        assert_eq!(recorder.lamp(world, at(4)), Lamp::FastBlink);
    }
}

#[test]
fn a_disk_that_does_not_answer_shows_before_the_first_chunk_and_after_the_last() {
    let mut recorder = fresh();
    recorder.handle(START, at(0)).unwrap();
    assert_eq!(recorder.lamp(WELL, ms(1750)), Lamp::ShortBlink);
    assert_eq!(recorder.lamp(WELL, ms(1751)), Lamp::FastBlink);
    recorder.handle(Input::Kept, at(3)).unwrap();
    recorder
        .handle(Input::Stop(StopReason::Socket), at(4))
        .unwrap();
    assert_eq!(recorder.lamp(WELL, ms(4750)), Lamp::Solid);
    assert_eq!(recorder.lamp(WELL, ms(4751)), Lamp::FastBlink);
    recorder.handle(Input::Kept, at(6)).unwrap();
    assert_eq!(recorder.lamp(WELL, at(6)), Lamp::Solid);
    recorder.handle(Input::Finished, at(7)).unwrap();
    assert_eq!(recorder.lamp(WELL, at(9)), Lamp::ShortBlink);

    // Of a pause nothing had to be kept.
    recorder.handle(START, at(20)).unwrap();
    recorder.handle(Input::Pause, at(21)).unwrap();
    recorder
        .handle(Input::Stop(StopReason::Socket), at(60))
        .unwrap();
    assert_eq!(recorder.lamp(WELL, ms(61_750)), Lamp::Solid);
    assert_eq!(recorder.lamp(WELL, ms(61_751)), Lamp::FastBlink);
}

#[test]
fn without_a_lamp_nothing_begins() {
    for input in [
        Input::Start(SECOND, StartedBy::Socket),
        Input::Pressed(SECOND, at(4)),
    ] {
        let mut recorder = fresh();
        recorder.set_lamp(false, at(1));
        assert_eq!(recorder.handle(input, at(5)), Err(Refusal::NoLamp));
        recorder.set_lamp(true, at(6));
        assert!(recorder.handle(input, at(6)).is_ok());
    }
}

#[test]
fn without_a_lamp_what_runs_is_paused_and_goes_on_with_it() {
    let mut recorder = recording();
    let (pause, go_on) = (Some(Action::Break), Some(Action::Continue(FIRST)));
    // Another guard takes a moment.
    recorder.set_lamp(false, at(10));
    assert_eq!(recorder.poll_at(), Some(ms(11_000)));
    assert_eq!(recorder.poll(ms(10_999)), None);
    recorder.set_lamp(true, ms(10_999));
    assert_eq!(recorder.poll(ms(11_000)), None);
    assert_eq!(recorder.lamp(WELL, at(1)), Lamp::Solid);

    recorder.set_lamp(false, at(20));
    recorder.set_lamp(false, at(21));
    assert_eq!(recorder.poll(ms(21_000)), pause, "since it was first away");
    assert_eq!(recorder.lamp(WELL, at(22)), Lamp::SlowBlink);
    for input in [Input::Resume, Input::Pressed(SECOND, at(30))] {
        assert_eq!(recorder.handle(input, at(30)), Err(Refusal::NoLamp));
    }
    assert_eq!(recorder.poll(at(30)), None);
    recorder.set_lamp(true, at(40));
    assert_eq!(recorder.poll(at(40)), go_on);
    assert_eq!(recorder.poll(at(41)), None);
    let recorded = recorder.recorded(at(40)).unwrap().1;
    assert_eq!(recorded, Duration::from_millis(21_000));

    // A pause that nobody ends is over one day, also one for the lamp.
    recorder.set_lamp(false, at(50));
    assert_eq!(recorder.poll(at(52)), pause);
    let end = Some(Action::End(StopReason::MaximumLength));
    assert_eq!(recorder.poll(at(52 + 3600)), end);
}

#[test]
fn a_pause_that_somebody_asked_for_is_not_over_with_the_lamp() {
    // Before the lamp was away, and while it is.
    for first in [Some(at(10)), None] {
        let mut recorder = recording();
        if let Some(at) = first {
            recorder.handle(Input::Pause, at).unwrap();
        }
        recorder.set_lamp(false, at(20));
        recorder.poll(at(22));
        if first.is_none() {
            let pause = Ok(Some(Action::Break));
            assert_eq!(recorder.handle(Input::Pause, at(30)), pause, "to be noted");
        }
        let refused = recorder.handle(Input::Resume, at(31));
        assert_eq!(refused, Err(Refusal::NoLamp));
        recorder.set_lamp(true, at(40));
        assert_eq!(recorder.poll(at(40)), None);
        let resumed = recorder.handle(Input::Resume, at(41));
        assert_eq!(resumed, Ok(Some(Action::Continue(FIRST))));
    }
}

#[test]
fn what_is_taken_up_waits_for_the_lamp() {
    for paused in [false, true] {
        let mut recorder = fresh();
        recorder.set_lamp(false, at(0));
        let input = Input::TakeUp {
            recording: FIRST,
            recorded: HOUR / 2,
            extended: None,
            paused,
        };
        let rest = Ok(Some(Action::Rest(FIRST)));
        assert_eq!(recorder.handle(input, at(0)), rest);
        assert_eq!(recorder.poll(at(5)), None);
        recorder.set_lamp(true, at(5));
        let go_on = (!paused).then_some(Action::Continue(FIRST));
        assert_eq!(recorder.poll(at(5)), go_on);
    }
}

#[test]
fn without_room_nothing_begins_and_the_lamp_says_so_while_what_runs_goes_on() {
    let mut recorder = recording();
    recorder.set_room(false);
    assert_eq!(recorder.lamp(WELL, at(1)), Lamp::Solid);
    recorder.handle(Input::Pause, at(1)).unwrap();
    let resumed = recorder.handle(Input::Resume, at(2));
    assert_eq!(resumed, Ok(Some(Action::Continue(FIRST))));
    recorder.handle(STOP, at(2)).unwrap();
    recorder.handle(Input::Finished, at(2)).unwrap();
    assert_eq!(recorder.lamp(WELL, at(3)), Lamp::FastBlink);
    for input in [
        Input::Start(SECOND, StartedBy::Socket),
        Input::Pressed(SECOND, at(4)),
    ] {
        assert_eq!(recorder.handle(input, at(4)), Err(Refusal::NoRoom));
    }
    recorder.set_room(true);
    assert!(
        recorder
            .handle(Input::Pressed(SECOND, at(5)), at(5))
            .is_ok()
    );
}

#[test]
fn a_press_while_recording_is_seen_and_changes_nothing() {
    let mut recorder = recording();
    let before = recorder.state();
    assert_eq!(
        recorder.handle(Input::Pressed(SECOND, ms(1500)), ms(1500)),
        Ok(None)
    );
    assert_eq!(recorder.state(), before);
    assert_eq!(recorder.lamp(WELL, ms(1500)), Lamp::Answer);
    assert_eq!(recorder.lamp(AWAY, ms(1649)), Lamp::Answer);
    assert_eq!(
        recorder.poll_at(),
        Some(ms(1650)),
        "the keeper wakes for it"
    );
    assert_eq!(recorder.poll(ms(1650)), None);
    assert_eq!(recorder.lamp(WELL, ms(1650)), Lamp::Solid);
    assert_eq!(recorder.poll_at(), Some(at(3600)));
    // Nothing shows that bytes are kept when they are not.
    recorder
        .handle(Input::Pressed(SECOND, at(3)), at(3))
        .unwrap();
    assert_eq!(recorder.lamp(WELL, at(3)), Lamp::FastBlink);
}

#[test]
fn two_presses_are_a_mark_and_three_are_not_two_marks() {
    let mut recorder = recording();
    let mut press = |now| recorder.handle(Input::Pressed(SECOND, ms(now)), ms(now));
    // One with the start, then the first of two, and the third is a first one again.
    assert_eq!(press(900), Ok(None));
    assert_eq!(press(1100), Ok(None));
    assert_eq!(press(2099), Ok(Some(Action::Mark(None))));
    assert_eq!(press(2300), Ok(None));
    assert_eq!(press(3300), Ok(None), "a second later");
    assert_eq!(press(3600), Ok(Some(Action::Mark(None))));
}

const HEARD: Monotonic = Monotonic::from_nanos(20_000_000_000);

/// The keeper waited for its disk, and hears of all at once.
#[test]
fn presses_belong_together_by_the_finger_and_not_by_when_they_are_heard_of() {
    let mut recorder = recording();
    let mut press = |at| recorder.handle(Input::Pressed(SECOND, ms(at)), HEARD);
    assert_eq!(press(10_000), Ok(None));
    assert_eq!(press(11_000), Ok(None), "two presses");
    assert_eq!(press(11_999), Ok(Some(Action::Mark(None))));

    let mut recorder = Recorder::new(rules(Button::PressToStop));
    let mut press = |at| recorder.handle(Input::Pressed(FIRST, ms(at)), HEARD);
    let begin = Some(Action::Begin(FIRST, StartedBy::Button));
    let end = Some(Action::End(StopReason::Button));
    assert_eq!(press(10_000), Ok(begin));
    assert_eq!(press(10_999), Ok(None), "one with it");
    assert_eq!(press(11_000), Ok(end));
    // No clock tells of what is yet to come.
    let mut recorder = fresh();
    let ahead = recorder.handle(Input::Pressed(FIRST, at(99)), at(1));
    assert_eq!(ahead, Ok(begin));
    assert_eq!(recorder.acted, Some(at(1)));
}

#[test]
fn a_hold_stops_but_not_what_its_own_press_has_started() {
    let mut recorder = fresh();
    recorder
        .handle(Input::Pressed(FIRST, at(0)), at(0))
        .unwrap();
    recorder
        .handle(Input::Pressed(SECOND, ms(500)), ms(500))
        .unwrap();
    assert_eq!(recorder.handle(Input::Held, ms(2500)), Ok(None));
    recorder
        .handle(Input::Pressed(SECOND, at(3)), at(3))
        .unwrap();
    let end = Some(Action::End(StopReason::Button));
    assert_eq!(recorder.handle(Input::Held, at(5)), Ok(end));
    // In a pause it resumes as a press and stops as a hold.
    let mut recorder = recording();
    recorder.handle(Input::Pause, at(10)).unwrap();
    let resumed = recorder.handle(Input::Pressed(SECOND, at(20)), at(20));
    assert_eq!(resumed, Ok(Some(Action::Continue(FIRST))));
    assert_eq!(recorder.handle(Input::Held, at(22)), Ok(end));
    assert_eq!(
        recorder.recorded(at(30)),
        Some((FIRST, Duration::from_secs(12)))
    );
}

#[test]
fn where_a_press_stops_two_are_one_and_near_the_end_it_extends() {
    let mut recorder = Recorder::new(rules(Button::PressToStop));
    let mut press = |now| recorder.handle(Input::Pressed(FIRST, ms(now)), ms(now));
    let begin = Some(Action::Begin(FIRST, StartedBy::Button));
    let end = Some(Action::End(StopReason::Button));
    assert_eq!(press(0), Ok(begin));
    assert_eq!(press(999), Ok(None));
    assert_eq!(press(1000), Ok(end));
    recorder.handle(Input::Finished, ms(1100)).unwrap();
    let mut press = |now| recorder.handle(Input::Pressed(FIRST, ms(now)), ms(now));
    assert_eq!(press(1999), Ok(None), "one with the stop");
    assert_eq!(press(2000), Ok(begin));
    recorder.handle(Input::Kept, at(3301)).unwrap();
    assert_eq!(recorder.lamp(WELL, at(3301)), Lamp::Solid);
    recorder.handle(Input::Kept, at(3302)).unwrap();
    assert_eq!(
        recorder.lamp(AWAY, at(3302)),
        Lamp::TripleWink,
        "the last 5 min"
    );
    let mut press = |now| recorder.handle(Input::Pressed(FIRST, ms(now)), ms(now));
    let most = Duration::from_secs(3300) + EXTENSION;
    assert_eq!(press(3_302_000), Ok(Some(Action::Extend(most))));
    assert_eq!(press(3_302_999), Ok(None), "one with it");
    assert_eq!(recorder.lamp(WELL, ms(3_303_200)), Lamp::Solid);
    assert_eq!(recorder.poll_at(), Some(ms(3_303_149)));
    recorder.poll(at(3304));
    assert_eq!(recorder.poll_at(), Some(at(2).plus(most)));
    let end = recorder.handle(Input::Pressed(FIRST, at(3304)), at(3304));
    assert_eq!(end, Ok(Some(Action::End(StopReason::Button))));
}

#[test]
fn a_recording_ends_at_its_maximum_length_and_a_pause_does_not_count() {
    let mut recorder = recording();
    recorder.handle(Input::Pause, at(1000)).unwrap();
    assert_eq!(recorder.poll(at(3700)), None);
    recorder.handle(Input::Resume, at(4000)).unwrap();
    let recorded = |recorder: &Recorder, now| recorder.recorded(at(now)).unwrap().1.as_secs();
    assert_eq!(recorded(&recorder, 4000), 1000);
    assert_eq!(recorder.poll(at(6599)), None);
    assert_eq!(recorded(&recorder, 6599), 3599);
    let end = Some(Action::End(StopReason::MaximumLength));
    assert_eq!(recorder.poll(at(6600)), end);
    assert_eq!(recorder.poll(at(6600)), None);
    // A pause that nobody ends is over one day.
    let mut recorder = recording();
    recorder.handle(Input::Pause, at(10)).unwrap();
    assert_eq!(recorder.poll(at(3609)), None);
    assert_eq!(recorder.poll(at(3610)), end);
    assert_eq!(recorded(&recorder, 5000), 10);
}

#[test]
fn a_mark_near_the_end_extends_and_an_early_one_does_not() {
    let mut recorder = recording();
    let early = recorder.handle(Input::Mark, at(1800));
    assert_eq!(early, Ok(Some(Action::Mark(None))));
    let most = Duration::from_secs(3500) + EXTENSION;
    let late = recorder.handle(Input::Mark, at(3500));
    assert_eq!(late, Ok(Some(Action::Mark(Some(most)))));
    assert_eq!(recorder.poll_at(), Some(at(0).plus(most)));
}

#[test]
fn what_is_taken_up_keeps_its_time_its_extension_and_its_pause() {
    let take_up = |recorded, extended: Option<u64>, paused| {
        let mut recorder = fresh();
        let input = Input::TakeUp {
            recording: FIRST,
            recorded: Duration::from_secs(recorded),
            extended: extended.map(Duration::from_secs),
            paused,
        };
        let action = recorder.handle(input, at(100)).unwrap();
        (recorder, action)
    };
    let (recorder, action) = take_up(3000, None, false);
    assert_eq!(action, Some(Action::Continue(FIRST)));
    assert_eq!(recorder.poll_at(), Some(at(700)));
    let (mut recorder, _) = take_up(7200, None, false);
    let end = Some(Action::End(StopReason::MaximumLength));
    assert_eq!(recorder.poll(at(100)), end);
    let (recorder, _) = take_up(3700, Some(4000), false);
    assert_eq!(recorder.poll_at(), Some(at(400)));
    let (mut recorder, action) = take_up(3000, None, true);
    assert_eq!(action, Some(Action::Rest(FIRST)));
    assert_eq!(recorder.lamp(WELL, at(100)), Lamp::SlowBlink);
    recorder.handle(Input::Resume, at(200)).unwrap();
    assert_eq!(recorder.poll_at(), Some(at(800)));
}
