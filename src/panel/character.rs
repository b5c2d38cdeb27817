//! Lines by the GPIO character device (`gpiocdev`): every board but a Raspberry Pi, and under test.

use super::driver::{ButtonLine, Driver, Edge, Error, LampLines};
use crate::board::{ActiveLevel, Bias, Button, Lamp, Line};
use crate::media::Monotonic;
use gpiocdev::line::{EdgeDetection, EdgeKind, EventClock, Value, Values};
use gpiocdev::request::{Config, Request};
use gpiocdev::{Chip, chip};
use std::fs::File;
use std::io::ErrorKind;
use std::time::Duration;

/// What the kernel says of who holds our lines.
const CONSUMER: &str = "hallcast";

/// The chip with this label.
pub struct CharacterDevice {
    pub(super) label: String,
}

impl CharacterDevice {
    fn chip(&self) -> Result<Chip, Error> {
        let (mut found, mut denied) = (Vec::new(), None);
        for path in chip::chips().unwrap_or_default() {
            let shown = path.display().to_string();
            // Ours to open first: the library's error does not tell why it could not.
            match File::open(&path) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    denied = Some(shown);
                    continue;
                }
                Err(_) => continue,
            }
            let chip = Chip::from_path(&path).and_then(|chip| Ok((chip.info()?.label, chip)));
            match chip {
                Ok((label, chip)) if label == self.label => return Ok(chip),
                Ok((label, _)) => found.push(format!("`{label}` ({shown})")),
                Err(error) => found.push(format!("{shown} ({error})")),
            }
        }
        Err(match denied {
            Some(device) => Error::Denied { device },
            None => Error::NoChip {
                wanted: self.label.clone(),
                found,
            },
        })
    }

    /// The line's number on the chip.
    fn offset(&self, chip: &Chip, line: &Line) -> Result<u32, Error> {
        let lines = chip.info().map_or(0, |info| info.num_lines);
        let (offset, has) = match line {
            Line::Offset(offset) => (
                Some(*offset).filter(|offset| *offset < lines),
                format!("its lines are 0 to {}", lines.saturating_sub(1)),
            ),
            Line::Name(name) => (
                chip.find_line_info(name).map(|info| info.offset),
                "no line there has that name (`gpioinfo` lists them)".to_owned(),
            ),
        };
        offset.ok_or_else(|| Error::NoLine {
            chip: self.label.clone(),
            line: line.to_string(),
            has,
        })
    }

    fn request(&self, chip: &Chip, config: Config, tried: &str) -> Result<Request, Error> {
        let offsets = config.lines().clone();
        let request = Request::from_config(config)
            .on_chip(chip.path())
            .with_consumer(CONSUMER)
            .request();
        request.map_err(|error| {
            let held = offsets.iter().find_map(|offset| {
                let info = chip.line_info(*offset).ok()?;
                info.used.then_some((*offset, info.consumer))
            });
            match held {
                Some((line, consumer)) => Error::Taken {
                    chip: self.label.clone(),
                    line: line.to_string(),
                    consumer,
                },
                None => self.failed(tried, &error),
            }
        })
    }

    fn failed(&self, tried: &str, why: &gpiocdev::Error) -> Error {
        Error::Failed {
            device: format!("GPIO chip `{}`", self.label),
            tried: tried.into(),
            why: why.to_string(),
        }
    }
}

impl Driver for CharacterDevice {
    fn button(&self, button: &Button) -> Result<Box<dyn ButtonLine>, Error> {
        let chip = self.chip()?;
        let offset = self.offset(&chip, &button.line)?;
        let config = |debounce: Option<Duration>| {
            let mut config = Config::default();
            config
                .with_line(offset)
                .as_input()
                .with_bias(match button.bias {
                    Bias::PullUp => Some(gpiocdev::line::Bias::PullUp),
                    Bias::PullDown => Some(gpiocdev::line::Bias::PullDown),
                    Bias::Off => None,
                })
                .with_edge_detection(EdgeDetection::BothEdges)
                .with_event_clock(EventClock::Monotonic);
            match button.active {
                ActiveLevel::Low => config.as_active_low(),
                ActiveLevel::High => config.as_active_high(),
            };
            if let Some(period) = debounce {
                config.with_debounce_period(period);
            }
            config
        };
        let tried = format!("line {} as the button", button.line);
        let kernel =
            (button.debounce_ms > 0).then(|| Duration::from_millis(button.debounce_ms.into()));
        let request = match self.request(&chip, config(kernel), &tried) {
            // A kernel before 5.10, or a chip that refuses: ours alone has to do.
            Err(Error::Failed { why, .. }) if kernel.is_some() => {
                log::info!("the kernel does not debounce the button ({why}): the box does alone");
                self.request(&chip, config(None), &tried)
            }
            other => other,
        }?;
        let label = self.label.clone();
        Ok(Box::new(OpenButton {
            request,
            chip: Self { label },
        }))
    }

    fn lamp(&self, lamps: &[Lamp]) -> Result<Box<dyn LampLines>, Error> {
        let chip = self.chip()?;
        let mut config = Config::default();
        let mut offsets = Vec::new();
        for lamp in lamps {
            let offset = self.offset(&chip, &lamp.line)?;
            config.with_line(offset).as_output(Value::Inactive);
            match lamp.active {
                ActiveLevel::Low => config.as_active_low(),
                ActiveLevel::High => config.as_active_high(),
            };
            offsets.push(offset);
        }
        let request = self.request(&chip, config, "a line as the lamp")?;
        let label = self.label.clone();
        Ok(Box::new(OpenLamp {
            request,
            offsets,
            chip: Self { label },
        }))
    }
}

struct OpenButton {
    request: Request,
    chip: CharacterDevice,
}

impl ButtonLine for OpenButton {
    fn is_down(&mut self) -> Result<bool, Error> {
        let value = self.request.lone_value();
        let value = value.map_err(|error| self.chip.failed("reading the button", &error))?;
        Ok(value == Value::Active)
    }

    fn edge(&mut self, patience: Duration) -> Result<Option<Edge>, Error> {
        let event = match self.request.wait_edge_event(patience) {
            Ok(true) => self.request.read_edge_event(),
            Ok(false) => return Ok(None),
            Err(error) => Err(error),
        };
        let event = event.map_err(|error| self.chip.failed("waiting for the button", &error))?;
        Ok(Some(Edge {
            // Of the logical level: the active one is a press.
            down: event.kind == EdgeKind::Rising,
            at: Monotonic::from_nanos(event.timestamp_ns),
        }))
    }
}

struct OpenLamp {
    request: Request,
    offsets: Vec<u32>,
    chip: CharacterDevice,
}

impl LampLines for OpenLamp {
    fn set(&mut self, lit: bool) -> Result<(), Error> {
        let value = if lit { Value::Active } else { Value::Inactive };
        let mut values = Values::default();
        for offset in &self.offsets {
            values.set(*offset, value);
        }
        let outcome = self.request.set_values(&values);
        outcome.map_err(|error| self.chip.failed("switching the lamp", &error))
    }
}
