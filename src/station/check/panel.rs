//! The button and the lamp: tried as the box would, or what the running box says of them.

use super::Line;
use super::running::Running;
use crate::board::PanelDevice;
use crate::panel;
use crate::station::config::Config;
use crate::station::panel::STUCK;

pub(super) fn lines(config: &Config, running: &Running) -> Vec<Line> {
    let Some(wired) = config.lines() else {
        let found = match &config.panel {
            Some(PanelDevice::Simulated(_)) => {
                "simulated: `hallcast press` is the button, and there is no lamp"
            }
            _ => "this board has no button and no lamp: use `hallcast start`",
        };
        return vec![Line::ok("panel", found)];
    };
    let (button, lamp) = match running {
        Running::No => {
            let driver = panel::driver(&wired.chip, config.raspberry_pi);
            let button = driver.button(&wired.record_button);
            let is_down = button.and_then(|mut button| button.is_down());
            let lamp = driver.lamp(&wired.lamps()).map(drop);
            (
                is_down.map_err(|error| error.to_string()),
                lamp.map_err(|error| error.to_string()),
            )
        }
        Running::Yes(both) => (
            of_button(alarm(&both.1.alarms, "button")),
            alarm(&both.1.alarms, "lamp"),
        ),
        Running::Mute(_) => return Vec::new(),
    };
    let found = match running {
        Running::No => "there and free",
        _ => "held by the running box",
    };
    let of = |what, line, tried: Result<(), String>, is_needed| match tried {
        Ok(()) => Line::ok(what, format!("{} line {line}: {found}", wired.chip)),
        Err(why) => judge(what, &why, is_needed),
    };
    let button = match button {
        Ok(true) => judge_down(),
        button => of("button", &wired.record_button.line, button.map(drop), true),
    };
    vec![
        button,
        of("lamp", &wired.lamp.line, lamp, config.lamp_needed),
    ]
}

/// Whether the running box's button is down, or what else is wrong with it.
fn of_button(raised: Result<(), String>) -> Result<bool, String> {
    match raised {
        Err(why) if why == STUCK => Ok(true),
        raised => raised.map(|()| false),
    }
}

/// A button that is down while nobody is asked to press it.
fn judge_down() -> Line {
    let (_, next) = STUCK.split_once(": ").unwrap_or((STUCK, STUCK));
    let found = "it is down, and what is down from the start of the box is no press";
    Line::warn("button", found, next)
}

/// What the running box raises under this code.
fn alarm(alarms: &[String], code: &str) -> Result<(), String> {
    let prefix = format!("{code}: ");
    let raised = alarms.iter().find_map(|text| text.strip_prefix(&prefix));
    let of = format!("the {code}: ");
    raised.map_or(Ok(()), |why| {
        Err(why.strip_prefix(&of).unwrap_or(why).to_owned())
    })
}

/// The error says what to do at its end.
fn judge(what: &str, why: &str, is_needed: bool) -> Line {
    let parts = why.split_once("; ").or_else(|| why.rsplit_once(": "));
    let (found, next) = parts.unwrap_or((why, "see `dmesg` and `gpioinfo`"));
    match is_needed {
        true => Line::wrong(what, found, next),
        false => Line::warn(what, found, next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::panel::Error;
    use crate::station::check::Verdict;

    #[test]
    fn what_is_wrong_with_a_line_and_what_to_do_stand_apart() {
        let taken = Error::Taken {
            chip: "chip".into(),
            line: "27".into(),
            consumer: "led0".into(),
        };
        let line = judge("lamp", &taken.to_string(), true);
        assert_eq!(line.verdict, Verdict::Wrong);
        assert_eq!(line.found, "line 27 of GPIO chip `chip` is used by `led0`");
        let missing = Error::NoChip {
            wanted: "chip".into(),
            found: Vec::new(),
        };
        let line = judge("lamp", &missing.to_string(), false);
        assert_eq!(line.verdict, Verdict::Warn);
        assert_eq!(
            line.found,
            "no GPIO chip is labelled `chip`: there is none at all"
        );
        assert!(line.next.unwrap().starts_with("name one of these"));
    }

    #[test]
    fn the_running_box_knows_of_its_lines() {
        let alarms = ["lamp: the lamp: no chip; load it".to_owned()];
        assert_eq!(alarm(&alarms, "button"), Ok(()));
        assert_eq!(alarm(&alarms, "lamp"), Err("no chip; load it".into()));
        let other = ["button: the button cannot be heard".to_owned()];
        let said = Err("the button cannot be heard".to_owned());
        assert_eq!(alarm(&other, "button"), said);
    }

    #[test]
    fn a_button_that_is_down_is_told() {
        let stuck = [format!("button: {STUCK}")];
        assert_eq!(of_button(alarm(&stuck, "button")), Ok(true));
        assert_eq!(of_button(Ok(())), Ok(false));
        assert_eq!(of_button(Err("taken".into())), Err("taken".into()));
        let line = judge_down();
        assert_eq!(line.verdict, Verdict::Warn);
        assert!(line.next.unwrap().starts_with("let go of it; if nobody"));
    }
}
