//! The button and the lamp: tried as the box would, or what the running box says of them.

use super::Line;
use super::running::Running;
use crate::board::PanelDevice;
use crate::panel;
use crate::station::config::Config;

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
    let tried = match running {
        Running::No => {
            let driver = panel::driver(&wired.chip, config.raspberry_pi);
            let button = driver.button(&wired.record_button).map(drop);
            let lamp = driver.lamp(&wired.lamps()).map(drop);
            [button, lamp].map(|tried| tried.map_err(|error| error.to_string()))
        }
        Running::Yes(both) => ["button", "lamp"].map(|code| alarm(&both.1.alarms, code)),
        Running::Mute(_) => return Vec::new(),
    };
    let found = match running {
        Running::No => "there and free",
        _ => "held by the running box",
    };
    let [button, lamp] = tried;
    let of = |what, line, tried: Result<(), String>, is_needed| match tried {
        Ok(()) => Line::ok(what, format!("{} line {line}: {found}", wired.chip)),
        Err(why) => judge(what, &why, is_needed),
    };
    vec![
        of("button", &wired.record_button.line, button, true),
        of("lamp", &wired.lamp.line, lamp, config.lamp_needed),
    ]
}

/// What the running box raises under this code.
fn alarm(alarms: &[String], code: &str) -> Result<(), String> {
    let prefix = format!("{code}: the {code}: ");
    let raised = alarms.iter().find_map(|text| text.strip_prefix(&prefix));
    raised.map_or(Ok(()), |why| Err(why.to_owned()))
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
    }
}
