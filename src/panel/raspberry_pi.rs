//! Lines of a Raspberry Pi's header (`rppal`), by their BCM numbers. Not run on a Pi so far.

use super::driver::{ButtonLine, Driver, Edge, Error, LampLines};
use crate::board::{ActiveLevel, Bias, Button, Lamp, Line};
use crate::media::Monotonic;
use rppal::gpio::{self, Gpio, InputPin, Level, OutputPin, Pin, Trigger};
use std::time::Duration;

const HEADER: &str = "the header of a Raspberry Pi";

/// The header's chip.
pub struct RaspberryPi;

fn failed(tried: &str, why: &gpio::Error) -> Error {
    match why {
        gpio::Error::PermissionDenied(device) => Error::Denied {
            device: device.clone(),
        },
        why => Error::Failed {
            device: HEADER.into(),
            tried: format!("{tried} (rppal, by /dev/gpiomem and /dev/gpiochip*)"),
            why: why.to_string(),
        },
    }
}

fn pin(gpio: &Gpio, line: &Line) -> Result<Pin, Error> {
    let number = match line {
        Line::Offset(offset) => u8::try_from(*offset).ok(),
        Line::Name(name) => name.strip_prefix("GPIO").and_then(|rest| rest.parse().ok()),
    };
    let none = || Error::NoLine {
        chip: HEADER.into(),
        line: line.to_string(),
        has: "its lines are GPIO0 to GPIO27".into(),
    };
    match gpio.get(number.ok_or_else(none)?) {
        Ok(pin) => Ok(pin),
        Err(gpio::Error::PinNotAvailable(_)) => Err(none()),
        Err(error) => Err(failed(&format!("line {line}"), &error)),
    }
}

fn open() -> Result<Gpio, Error> {
    Gpio::new().map_err(|error| failed("opening the GPIO", &error))
}

fn is_active(level: Level, active: ActiveLevel) -> bool {
    (level == Level::High) == (active == ActiveLevel::High)
}

impl Driver for RaspberryPi {
    fn button(&self, button: &Button) -> Result<Box<dyn ButtonLine>, Error> {
        let pin = pin(&open()?, &button.line)?;
        let mut pin = match button.bias {
            Bias::PullUp => pin.into_input_pullup(),
            Bias::PullDown => pin.into_input_pulldown(),
            Bias::Off => pin.into_input(),
        };
        let kernel =
            (button.debounce_ms > 0).then(|| Duration::from_millis(button.debounce_ms.into()));
        let mut watched = pin.set_interrupt(Trigger::Both, kernel);
        if let (Err(error), Some(_)) = (&watched, kernel) {
            log::info!("the kernel does not debounce the button ({error}): the box does alone");
            watched = pin.set_interrupt(Trigger::Both, None);
        }
        watched.map_err(|error| failed("watching the button", &error))?;
        let active = button.active;
        Ok(Box::new(OpenButton { pin, active }))
    }

    fn lamp(&self, lamps: &[Lamp]) -> Result<Box<dyn LampLines>, Error> {
        let gpio = open()?;
        let pins = lamps.iter().map(|lamp| {
            let pin = pin(&gpio, &lamp.line)?;
            Ok(match lamp.active {
                ActiveLevel::High => (pin.into_output_low(), lamp.active),
                ActiveLevel::Low => (pin.into_output_high(), lamp.active),
            })
        });
        Ok(Box::new(OpenLamp(pins.collect::<Result<_, Error>>()?)))
    }
}

struct OpenButton {
    pin: InputPin,
    active: ActiveLevel,
}

impl ButtonLine for OpenButton {
    fn is_down(&mut self) -> Result<bool, Error> {
        Ok(is_active(self.pin.read(), self.active))
    }

    fn edge(&mut self, patience: Duration) -> Result<Option<Edge>, Error> {
        let event = self.pin.poll_interrupt(false, Some(patience));
        let event = event.map_err(|error| failed("waiting for the button", &error))?;
        Ok(event.map(|event| Edge {
            down: is_active(
                Level::from(event.trigger == Trigger::RisingEdge),
                self.active,
            ),
            at: Monotonic::from_nanos(
                u64::try_from(event.timestamp.as_nanos()).unwrap_or(u64::MAX),
            ),
        }))
    }
}

struct OpenLamp(Vec<(OutputPin, ActiveLevel)>);

impl LampLines for OpenLamp {
    fn set(&mut self, lit: bool) -> Result<(), Error> {
        for (pin, active) in &mut self.0 {
            pin.write(Level::from(lit == (*active == ActiveLevel::High)));
        }
        Ok(())
    }
}
