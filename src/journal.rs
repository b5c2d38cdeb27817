//! Layer 0: how the programs speak: their answers, why they end, their log.
//!
//! Lines with time and level for people; under systemd lines whose urgency the journal understands,
//! which has the time itself.

use std::fmt::Display;
use std::io::Write;
use std::sync::OnceLock;

/// Starts the log on standard error; `filter` says what is in it unless `RUST_LOG` does.
pub fn start(filter: &str) {
    let mut log =
        env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter));
    if reads_us() {
        log.format(|line, record| {
            let urgency = urgency(record.level());
            let said = format!("{}: {}", record.target(), record.args());
            writeln!(line, "{}", marked(urgency, &said))
        });
    } else {
        log.format_timestamp_millis();
    }
    log.init();
}

/// Nothing can be said to whoever asked.
#[derive(Debug, thiserror::Error)]
#[error("standard output: cannot be written: {0}; is the disk that it leads to full?")]
pub struct Unsaid(std::io::Error);

/// Answers on standard output. A reader that has seen enough (`hallcast status | head`) is no error.
///
/// # Errors
///
/// [`Unsaid`] where the answer did not get through for any other reason.
pub fn say(answer: impl Display) -> Result<(), Unsaid> {
    let mut out = std::io::stdout().lock();
    match write!(out, "{answer}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Unsaid(error)),
        _ => Ok(()),
    }
}

/// Says on standard error why `program` ends.
pub fn fatal(program: &str, error: &dyn Display) {
    let mut said = format!("{program}: {error}");
    if reads_us() {
        said = marked(3, &said);
    }
    // There may be nobody to read it.
    let _ = writeln!(std::io::stderr(), "{said}");
}

/// The text with its urgency before each line: to the journal each is an entry of its own.
fn marked(urgency: u8, text: &str) -> String {
    let lines = text.lines().map(|line| format!("<{urgency}>{line}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The level as syslog(3) counts it.
fn urgency(level: log::Level) -> u8 {
    match level {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        log::Level::Debug | log::Level::Trace => 7,
    }
}

/// Whether standard error leads to the journal.
fn reads_us() -> bool {
    static READS: OnceLock<bool> = OnceLock::new();
    *READS.get_or_init(|| {
        let stated = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        rustix::fs::fstat(std::io::stderr())
            .is_ok_and(|stderr| is_stream(&stated, stderr.st_dev, stderr.st_ino))
    })
}

/// Whether `JOURNAL_STREAM` names the file of this device and inode. A program that the service starts
/// inherits the variable, but not always the file.
fn is_stream(stated: &str, device: u64, inode: u64) -> bool {
    stated == format!("{device}:{inode}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_known_by_its_file_and_not_by_the_variable_alone() {
        assert!(is_stream("9:123456", 9, 123_456));
        assert!(!is_stream("9:123456", 9, 123_457));
        assert!(!is_stream("", 0, 0));
    }

    #[test]
    fn each_line_of_a_text_is_as_urgent_as_the_text() {
        assert_eq!(
            marked(4, "a camera:\n  its sizes"),
            "<4>a camera:\n<4>  its sizes"
        );
        assert_eq!(marked(6, "one"), "<6>one");
    }

    #[test]
    fn the_worst_is_the_most_urgent() {
        let levels = log::Level::iter().map(urgency).collect::<Vec<_>>();
        assert_eq!(levels, [3, 4, 6, 7, 7]);
    }
}
