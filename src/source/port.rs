//! The physical port that a track's device is on, and which unit is plugged in there.
//!
//! The first device that opens sets the port for the run of the process, whatever name it was
//! configured by: numbers and links may lead elsewhere after a device was unplugged, and then another
//! room or the wrong half of the lecture would be recorded. Another unit on the same port is used, and
//! said; another port is not.

use super::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the kernel shows its devices.
pub(super) const SYSFS: &str = "/sys";

/// One unit on one port, as sysfs shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// The parent device's path, and which of its nodes: the same as long as nobody moves the plug.
    pub(super) port: String,
    /// What tells it from others of its kind, as far as the device says: product, serial number, driver.
    pub(super) identity: String,
}

/// A device that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// What to open.
    pub(super) at: String,
    pub(super) unit: Unit,
}

/// What is to be opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// This one, and it is on the track's port.
    Open(Found),
    /// Whatever the configured name leads to: its port cannot be told.
    AsNamed,
    /// Nothing: the track's port is empty.
    Empty(String),
}

/// The port of a track's device.
#[derive(Debug, Default)]
pub struct Port(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The unit that the track began with.
    first: Option<Unit>,
    /// The one that was opened last.
    last: Option<Unit>,
    /// The port that the configured name led to when it was not the track's.
    astray: Option<Unit>,
}

impl Port {
    /// Chooses between what the configured name leads to and what sits on the track's port.
    pub(super) fn choose(
        &self,
        device: &str,
        named: Option<Found>,
        present: impl FnOnce() -> Vec<Found>,
    ) -> Result<Choice, Error> {
        let mut state = self.lock();
        state.astray = None;
        let Some(first) = state.first.clone() else {
            return Ok(named.map_or(Choice::AsNamed, Choice::Open));
        };
        if let Some(named) = named.as_ref().filter(|named| named.unit == first) {
            return Ok(Choice::Open(named.clone()));
        }
        // Some drivers put several devices on one port: the same unit goes before another one there.
        let mut here = present();
        here.retain(|found| found.unit.port == first.port);
        let unit = here.iter().position(|found| found.unit == first);
        let astray = named.as_ref().map(|named| named.unit.clone());
        let astray = astray.filter(|unit| unit.port != first.port);
        let here = match (unit, named) {
            (None, Some(named)) if astray.is_none() => Some(named),
            (unit, _) if !here.is_empty() => Some(here.swap_remove(unit.unwrap_or(0))),
            _ => None,
        };
        match (here, astray) {
            (Some(found), astray) => {
                state.astray = astray;
                Ok(Choice::Open(found))
            }
            (None, None) => Ok(Choice::Empty(first.port)),
            (None, Some(other)) => Err(Error::Elsewhere {
                device: device.to_owned(),
                port: first.port,
                leads_to: format!("{} ({})", other.port, other.identity),
            }),
        }
    }

    /// A device of this unit was opened.
    pub(super) fn opened(&self, unit: Unit) {
        let mut state = self.lock();
        state.first.get_or_insert_with(|| unit.clone());
        state.last = Some(unit);
    }

    /// What people must know of the device in use: that it is another unit than before, or that its
    /// configured name leads to another one.
    pub fn notice(&self) -> Option<String> {
        let state = self.lock();
        let (first, last) = (state.first.as_ref()?, state.last.as_ref()?);
        let mut said = Vec::new();
        if first.identity != last.identity {
            said.push(format!(
                "another device is on port {}: {} instead of {}; it is used. If cables were \
                 swapped, swap them back",
                last.port, last.identity, first.identity
            ));
        }
        if let Some(astray) = &state.astray {
            said.push(format!(
                "the configured name now leads to port {} ({}), but the device on port {} is used as \
                 before. To change it, restart hallcast; to keep it, name the port \
                 (/dev/v4l/by-path/...)",
                astray.port, astray.identity, last.port
            ));
        }
        (!said.is_empty()).then(|| said.join("; "))
    }

    /// The unit in use is the track's from here on: people have been told.
    pub fn accept(&self) {
        let mut state = self.lock();
        if let Some(last) = state.last.clone() {
            state.first = Some(last);
        }
        state.astray = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The unit behind a device's folder in sysfs (`/sys/class/video4linux/video0`), whose node on that
/// device is called `node`; `None` where sysfs does not tell.
pub(super) fn unit(folder: &Path, node: &str, name: &str) -> Option<Unit> {
    let device = fs::canonicalize(folder.join("device")).ok()?;
    let text = device.to_string_lossy();
    let path = text
        .split_once("/devices/")
        .map_or(&*text, |(_, path)| path);
    Some(Unit {
        port: format!("{path}/{node}"),
        identity: identity(&device, name),
    })
}

/// The product and serial number of the USB device that `device` is a part of, else the driver and the
/// name that it gives the device.
fn identity(device: &Path, name: &str) -> String {
    let read = |folder: &Path, file: &str| {
        let text = fs::read_to_string(folder.join(file)).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    for folder in device
        .ancestors()
        .take_while(|folder| *folder != Path::new("/"))
    {
        let (Some(vendor), Some(product)) = (read(folder, "idVendor"), read(folder, "idProduct"))
        else {
            continue;
        };
        let called = read(folder, "product").map(|name| format!("{name}, "));
        let serial = read(folder, "serial").map(|serial| format!(", serial number {serial}"));
        return format!(
            "{}USB {vendor}:{product}{}",
            called.unwrap_or_default(),
            serial.unwrap_or_default()
        );
    }
    let driver = fs::canonicalize(device.join("driver")).ok();
    let driver: Option<PathBuf> = driver.and_then(|path| path.file_name().map(PathBuf::from));
    driver.map_or_else(
        || name.to_owned(),
        |driver| format!("{name}, driver {}", driver.display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(at: &str, port: &str, identity: &str) -> Found {
        Found {
            at: at.into(),
            unit: Unit {
                port: port.into(),
                identity: identity.into(),
            },
        }
    }

    /// A port whose device A was opened as video0 on 1-1.
    fn taken() -> Port {
        let port = Port::default();
        let first = found("/dev/video0", "1-1", "A");
        let choice = port.choose("presenter", Some(first.clone()), || {
            panic!("it has none yet")
        });
        assert_eq!(choice.unwrap(), Choice::Open(first.clone()));
        port.opened(first.unit);
        assert_eq!(port.notice(), None);
        port
    }

    #[test]
    fn the_port_is_followed_whatever_number_its_device_comes_back_with() {
        let port = taken();
        let moved = found("/dev/video2", "1-1", "A");
        let choice = port.choose("/dev/video0", None, || vec![moved.clone()]);
        assert_eq!(choice.unwrap(), Choice::Open(moved.clone()));
        port.opened(moved.unit.clone());
        assert_eq!(port.notice(), None, "the same camera on its port");

        // Another camera got its number.
        let other = found("/dev/video0", "1-2", "B");
        let choice = port.choose("/dev/video0", Some(other), || vec![moved.clone()]);
        assert_eq!(choice.unwrap(), Choice::Open(moved.clone()));
        port.opened(moved.unit.clone());
        let notice = port.notice().unwrap();
        assert!(
            notice.contains("port 1-2 (B)") && notice.contains("on port 1-1"),
            "{notice}"
        );

        // Two of one driver on one port: the one that it was.
        let beside = found("/dev/video3", "1-1", "C");
        let both = || vec![beside, moved.clone()];
        let choice = port.choose("/dev/video0", None, both).unwrap();
        assert_eq!(choice, Choice::Open(moved.clone()));

        let empty = port.choose("/dev/video0", None, Vec::new);
        assert_eq!(empty.unwrap(), Choice::Empty("1-1".into()));
    }

    #[test]
    fn a_device_on_another_port_is_not_taken_and_both_ports_are_named() {
        let port = taken();
        let other = found("/dev/video0", "1-2", "A");
        let error = port
            .choose("/dev/video0", Some(other.clone()), || vec![other])
            .unwrap_err();
        assert_eq!(error.code(), "elsewhere");
        let beside = || vec![found("/dev/video1", "1-2", "A")];
        let empty = port.choose("/dev/video0", None, beside);
        assert_eq!(empty.unwrap(), Choice::Empty("1-1".into()));
        let text = error.to_string();
        println!("{text}");
        assert!(text.starts_with("/dev/video0: "), "{text}");
        assert!(
            text.contains("port 1-1") && text.contains("port 1-2 (A)"),
            "{text}"
        );
    }

    #[test]
    fn another_unit_on_the_port_is_used_and_said_until_it_is_accepted() {
        let port = taken();
        let other = found("/dev/video0", "1-1", "B");
        let open = port.choose("/dev/video0", Some(other.clone()), Vec::new);
        assert_eq!(open.unwrap(), Choice::Open(other.clone()));
        port.opened(other.unit);
        let notice = port.notice().unwrap();
        assert!(notice.contains("B instead of A"), "{notice}");
        port.opened(found("", "1-1", "A").unit);
        assert_eq!(port.notice(), None, "the first one is back");
        port.opened(found("", "1-1", "B").unit);
        port.accept();
        assert_eq!(port.notice(), None);
        port.opened(found("", "1-1", "A").unit);
        assert!(port.notice().unwrap().contains("A instead of B"));
    }

    #[test]
    fn two_cameras_of_one_product_differ_by_port_and_serial_number() {
        let sysfs = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = sysfs.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let camera = |plug: &str, serial: &str, node: &str| {
            let usb = format!("devices/pci/usb1/{plug}");
            put(&format!("{usb}/idVendor"), "046d\n");
            put(&format!("{usb}/idProduct"), "0825\n");
            put(&format!("{usb}/product"), "Webcam\n");
            put(&format!("{usb}/serial"), serial);
            let interface = sysfs.path().join(format!("{usb}/{plug}:1.0"));
            let class = sysfs.path().join("class/video4linux").join(node);
            fs::create_dir_all(&interface).unwrap();
            fs::create_dir_all(&class).unwrap();
            std::os::unix::fs::symlink(interface, class.join("device")).unwrap();
            unit(&class, "video-index0", "a name").unwrap()
        };
        let (a, b) = (
            camera("1-1", "7\n", "video0"),
            camera("1-2", "8\n", "video1"),
        );
        assert_eq!(a.port, "pci/usb1/1-1/1-1:1.0/video-index0");
        assert_eq!(a.identity, "Webcam, USB 046d:0825, serial number 7");
        assert_ne!((&a.port, &a.identity), (&b.port, &b.identity));
        let without = camera("1-3", "\n", "video2");
        assert_eq!(without.identity, "Webcam, USB 046d:0825");

        // Not on USB: the driver's word.
        let chip = sysfs.path().join("devices/platform/csi.0");
        let (driver, class) = (
            sysfs.path().join("bus/drivers/unicam"),
            sysfs.path().join("video9"),
        );
        [&chip, &driver, &class]
            .iter()
            .for_each(|path| fs::create_dir_all(path).unwrap());
        std::os::unix::fs::symlink(&driver, chip.join("driver")).unwrap();
        std::os::unix::fs::symlink(&chip, class.join("device")).unwrap();
        let unit = unit(&class, "video-index0", "imx219").unwrap();
        assert_eq!(unit.identity, "imx219, driver unicam");
        assert!(super::unit(Path::new("/nowhere"), "", "").is_none());
    }
}
