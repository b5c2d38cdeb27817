//! The report for people.

use super::{Camera, Chip, Disk, Encoder, Level, Microphone, Report, Size};
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};

/// Lines of one format after which the rest is only counted.
const MOST_SIZES: usize = 16;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let model = self.machine.model.as_deref().unwrap_or("not known");
        writeln!(f, "machine      {model}")?;
        writeln!(
            f,
            "board        {}: {}",
            self.machine.board, self.machine.why
        )?;
        if let Some(state) = &self.running {
            writeln!(f, "box          one runs here: {state}")?;
        }
        if let Some(error) = &self.settings_error {
            let error = error.replace('\n', "\n             ");
            writeln!(f, "settings     passed over: {error}")?;
        }
        if !self.not_built.is_empty() {
            let features = self.not_built.join(", ");
            writeln!(f, "not built in {features} (features of this program)")?;
        }
        part(f, "cameras", self.cameras.as_deref(), "v4l2")?;
        part(f, "microphones", self.microphones.as_deref(), "alsa")?;
        part(f, "GPIO chips", Some(&self.chips), "")?;
        part(f, "encoders", Some(&self.encoders), "")?;
        write!(f, "disk\n{}", self.disk)?;
        if !self.proposed.is_empty() {
            let files: Vec<String> = self.proposed.iter().map(|path| shown(path)).collect();
            let files = files.join(" and ");
            writeln!(
                f,
                "\nProposed: {files}. Read, then copy to /etc/hallcast, and run `hallcast check`."
            )?;
        }
        Ok(())
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// One kind of device; `None` where `feature` is not built in.
fn part<T: Display>(
    f: &mut Formatter<'_>,
    title: &str,
    found: Option<&[T]>,
    feature: &str,
) -> fmt::Result {
    match found {
        None => writeln!(
            f,
            "{title}: not looked for, this program was built without `{feature}`"
        ),
        Some([]) => writeln!(f, "{title}: none"),
        Some(found) => {
            writeln!(f, "{title}")?;
            found.iter().try_for_each(|one| write!(f, "{one}"))
        }
    }
}

/// Its best name, and the others that it has.
fn names(f: &mut Formatter<'_>, best: &str, others: &[PathBuf]) -> fmt::Result {
    writeln!(f, "  {best}")?;
    for other in others {
        writeln!(f, "      also {}", other.display())?;
    }
    Ok(())
}

fn about(f: &mut Formatter<'_>, held: Option<&String>, trouble: Option<&String>) -> fmt::Result {
    if let Some(holder) = held {
        writeln!(f, "      in use by {holder}")?;
    }
    if let Some(trouble) = trouble {
        let trouble = trouble.replace('\n', "\n      ");
        writeln!(f, "      not asked: {trouble}")?;
    }
    Ok(())
}

impl Display for Camera {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.names.split_first() {
            Some((best, others)) => {
                let now = self.device.display();
                names(f, &format!("{} (now {now})", best.display()), others)?;
            }
            None => names(
                f,
                &format!("{} (no name that stays)", shown(&self.device)),
                &[],
            )?,
        }
        writeln!(
            f,
            "      {}, driver {}, on {}",
            self.name, self.driver, self.port
        )?;
        about(f, self.held_by.as_ref(), self.trouble.as_ref())?;
        let mut useless = Vec::new();
        for format in &self.formats {
            if !format.usable {
                useless.push(format.format.as_str());
                continue;
            }
            for size in format.sizes.iter().take(MOST_SIZES) {
                writeln!(f, "      {} {size}", format.format)?;
            }
            if let Some(more @ 1..) = format.sizes.len().checked_sub(MOST_SIZES) {
                writeln!(
                    f,
                    "      {} in {more} more sizes (--json has them)",
                    format.format
                )?;
            }
        }
        if !useless.is_empty() {
            writeln!(f, "      not usable here: {}", useless.join(", "))?;
        }
        Ok(())
    }
}

impl Display for Size {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.rates.as_slice() {
            [] => f.write_str(&self.size),
            rates => write!(f, "{}: {} per second", self.size, rates.join(", ")),
        }
    }
}

impl Display for Microphone {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        names(
            f,
            &format!("{} (now card {})", self.device, self.number),
            &self.names,
        )?;
        writeln!(f, "      {}, on {}", self.name, self.port)?;
        about(f, self.held_by.as_ref(), self.trouble.as_ref())?;
        if !self.rates_hz.is_empty() {
            let rates: Vec<String> = self.rates_hz.iter().map(u32::to_string).collect();
            writeln!(f, "      {} Hz", rates.join(", "))?;
        }
        if let Some((fewest, most)) = self.channels {
            let formats = match self.formats.as_slice() {
                [] => "no format that is usable here".to_owned(),
                formats => formats.join(", "),
            };
            writeln!(f, "      {fewest} to {most} channels, {formats}")?;
        }
        write!(f, "{}", self.level)
    }
}

impl Display for Level {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let (Some(peak), Some(rms)) = (self.peak_dbfs, self.rms_dbfs) {
            // Sixty decibels to thirty marks.
            let marks = ((rms + 60.0) / 2.0).clamp(0.0, 30.0) as usize;
            let bar = format!("{:-<30}", "#".repeat(marks));
            writeln!(
                f,
                "      level [{bar}] RMS {rms:.0} dBFS, peak {peak:.0} dBFS"
            )?;
        }
        if self.silent {
            writeln!(f, "      digital silence: muted, or nothing is connected")?;
        }
        Ok(())
    }
}

impl Display for Chip {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let device = self.device.display();
        if let Some(trouble) = &self.trouble {
            return writeln!(f, "  {device}: not asked: {trouble}");
        }
        writeln!(f, "  {} (now {device}), {} lines", self.label, self.lines)?;
        for line in &self.used {
            let name = match line.name.as_str() {
                "" => String::new(),
                name => format!(" ({name})"),
            };
            writeln!(f, "      line {}{name} in use by {}", line.line, line.by)?;
        }
        Ok(())
    }
}

impl Display for Encoder {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {}, of {}", self.name, self.of)?;
        for speed in &self.speeds {
            let said = match (&speed.times, &speed.error) {
                (Some(times), _) => format!("{times:.1} times as fast as one track needs"),
                (None, Some(error)) => error.clone(),
                (None, None) => "not tried".into(),
            };
            writeln!(f, "      {} at {}: {said}", speed.size, speed.rate)?;
        }
        Ok(())
    }
}

impl Display for Disk {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {}", self.directory.display())?;
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        if let Some(free) = self.free_bytes {
            write!(f, "      {:.1} GB free", gigabytes(free))?;
            if let Some(total) = self.total_bytes {
                write!(f, " of {:.1} GB", gigabytes(total))?;
            }
            if let Some(hours) = self.hours_left {
                write!(f, ": {hours:.1} h of recording")?;
            }
            writeln!(f)?;
        }
        if let Some(speed) = self.write_bytes_per_second {
            writeln!(f, "      writes {:.1} MB per second", speed as f64 / 1e6)?;
        }
        if let Some(p99) = self.fdatasync_p99_ms {
            writeln!(f, "      fdatasync takes {p99:.1} ms (p99)")?;
        }
        if let Some(trouble) = &self.trouble {
            writeln!(f, "      {trouble}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_bar_and_silence_is_said() {
        let level = Level {
            peak_dbfs: Some(-3.2),
            rms_dbfs: Some(-20.4),
            silent: false,
        };
        let text = level.to_string();
        assert!(text.contains("RMS -20 dBFS, peak -3 dBFS"), "{text}");
        assert_eq!(
            (text.matches('#').count(), text.matches("---").count() > 2),
            (19, true)
        );
        let muted = Level {
            silent: true,
            ..Level::default()
        };
        assert_eq!(
            muted.to_string(),
            "      digital silence: muted, or nothing is connected\n"
        );
    }

    #[test]
    fn what_could_not_be_asked_says_so_and_the_rest_is_told() {
        let camera = Camera {
            device: "/dev/video0".into(),
            names: vec!["/dev/v4l/by-path/a".into(), "/dev/v4l/by-id/b".into()],
            name: "Cam".into(),
            driver: "uvcvideo".into(),
            port: "usb1/1-1".into(),
            formats: Vec::new(),
            held_by: Some("ffmpeg (process 7)".into()),
            trouble: Some("not permitted".into()),
        };
        assert_eq!(
            camera.to_string(),
            "  /dev/v4l/by-path/a (now /dev/video0)\n      also /dev/v4l/by-id/b\n      Cam, driver \
             uvcvideo, on usb1/1-1\n      in use by ffmpeg (process 7)\n      not asked: not permitted\n"
        );
    }
}
