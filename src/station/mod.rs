//! The box, put together: `hallcast`.
//!
//! Read `pipeline` first: it joins the stages. `recorder` decides when a recording starts and
//! stops, `keeper` carries it out, `config` says what to start with, `control` is how people
//! ask. What does not belong here: anything a stage can do by itself.

mod absence;
mod alarms;
mod check;
mod config;
mod control;
pub(crate) mod custody;
mod darken;
mod devices;
mod export;
mod first_start;
mod keeper;
pub(crate) mod lane;
mod panel;
mod passing;
mod past;
mod pipeline;
mod recorder;
mod sound;
mod spool_tool;
mod status;
mod supervise;
mod utc;
mod video;

pub use control::{Reply, Request, ask};
pub use status::Status;

use crate::journal::{self, say};
use crate::uplink::identity::{self, Identity};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `EX_CONFIG` of sysexits(3): starting again does not help.
const EXIT_CONFIG: u8 = 78;

/// The command line of `hallcast`.
#[derive(Parser)]
#[command(
    name = "hallcast",
    version,
    about = "A lecture hall's capture box",
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Be the box: capture when asked to, keep, and send
    Run(config::Flags),
    /// Be the lamp's guard of a running box, which calls this itself
    #[command(hide = true)]
    HoldLamp(panel::Flags),
    /// Make the board's lamp dark: for the service manager, after the box has ended
    #[command(hide = true)]
    Darken(config::Flags),
    /// Start a recording
    Start {
        #[command(flatten)]
        at: Socket,
    },
    /// End the recording; returns once it is whole on the box
    Stop {
        #[command(flatten)]
        at: Socket,
    },
    /// Pause the recording: nothing is captured until it is resumed
    Pause {
        #[command(flatten)]
        at: Socket,
    },
    /// Go on with the paused recording
    Resume {
        #[command(flatten)]
        at: Socket,
    },
    /// Set a mark in the recording, and give it at least half an hour more
    Mark {
        #[command(flatten)]
        at: Socket,
    },
    /// Press the button of a board that has none
    Press {
        /// Hold it, which ends a recording
        #[arg(long)]
        hold: bool,
        #[command(flatten)]
        at: Socket,
    },
    /// Say how the box is
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: Socket,
    },
    /// Try everything for two seconds without recording, and say what will work and what will not
    Check(check::Asked),
    /// List cameras, microphones, GPIO chips, encoders and the disk of this machine
    Devices(devices::Asked),
    /// End as soon as nothing is recorded, for systemd to start what is installed by then
    Restart {
        #[command(flatten)]
        at: Socket,
    },
    /// Look into a spool, also one on a card from another box; nothing is written into it
    Spool {
        #[command(subcommand)]
        what: spool_tool::What,
    },
    /// Make this box known to a receiver: print a signing request, or install what was signed
    Enroll {
        /// Print the certificate signing request (PEM)
        #[arg(long, conflicts_with = "install", required_unless_present = "install")]
        csr: bool,
        /// Install the signed certificate and its authority (one PEM file, certificate first)
        #[arg(long, value_name = "FILE")]
        install: Option<PathBuf>,
        #[command(flatten)]
        at: Socket,
        /// Work on this directory of identity and spool, without a running box
        #[arg(long, value_name = "DIRECTORY", conflicts_with = "socket")]
        state_directory: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct Socket {
    /// Where the running box listens
    #[arg(long, default_value = config::DEFAULT_SOCKET)]
    socket: PathBuf,
}

/// Why the box ends.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error(transparent)]
    Identity(#[from] identity::Error),
    #[error(transparent)]
    Spool(#[from] crate::spool::Error),
    #[error(transparent)]
    Control(#[from] control::Error),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Output(#[from] journal::Unsaid),
    /// The lamp's guard has told the box why.
    #[error("the box was told why")]
    Told,
    /// What `hallcast check` found.
    #[error("{0} of these must be mended before the box does all that it is set up for")]
    Wrong(usize),
    #[error("starting a thread or a runtime failed: {0}; the machine may be out of memory")]
    Start(#[from] std::io::Error),
}

/// Runs `hallcast`.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    // Whoever asks something reads the answer, not how it came about.
    journal::start(match command {
        Command::Run(_) => "info,quinn=warn,quinn_proto=warn,rustls=warn",
        _ => "warn",
    });
    match work(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Told) => ExitCode::FAILURE,
        Err(error) => {
            journal::fatal("hallcast", &error);
            if matches!(error, Error::Config(_) | Error::Wrong(_)) {
                ExitCode::from(EXIT_CONFIG)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn work(command: Command) -> Result<(), Error> {
    let (at, request, json) = match command {
        Command::Run(flags) => return pipeline::run(&config::load(&flags)?),
        Command::HoldLamp(flags) => return panel::hold_lamp(&flags),
        Command::Darken(flags) => return darken::run(&flags),
        Command::Check(asked) => return check::run(&asked),
        Command::Devices(asked) => return devices::run(&asked),
        Command::Enroll {
            csr: _,
            install,
            at,
            state_directory,
        } => return enroll(&at.socket, state_directory.as_deref(), install.as_deref()),
        Command::Spool { what } => return spool_tool::run(&what),
        Command::Start { at } => (at, Request::Start, false),
        Command::Stop { at } => (at, Request::Stop, false),
        Command::Pause { at } => (at, Request::Pause, false),
        Command::Resume { at } => (at, Request::Resume, false),
        Command::Mark { at } => (at, Request::Mark, false),
        Command::Press { hold: false, at } => (at, Request::Press, false),
        Command::Press { hold: true, at } => (at, Request::Hold, false),
        Command::Status { json, at } => (at, Request::Status, json),
        Command::Restart { at } => (at, Request::Restart, false),
    };
    match ask(&at.socket, &request)? {
        Reply::Done { recording } => say(format_args!("{recording}\n"))?,
        Reply::Status(status) if json => match serde_json::to_string_pretty(&status) {
            Ok(text) => say(format_args!("{text}\n"))?,
            Err(error) => return Err(Error::Refused(error.to_string())),
        },
        Reply::Status(status) => say(status)?,
        Reply::Restarting(None) => say(format_args!("the box restarts\n"))?,
        Reply::Restarting(Some(recording)) => {
            say(format_args!(
                "the box restarts once recording {recording} is over\n"
            ))?;
        }
        Reply::Refused(why) => return Err(Error::Refused(why)),
        Reply::CertificateRequest(_) | Reply::Enrolled { .. } => return Err(unexpected()),
    }
    Ok(())
}

/// Asks the running box, which alone can read its keys where it is installed, or works on `state`.
fn enroll(socket: &Path, state: Option<&Path>, install: Option<&Path>) -> Result<(), Error> {
    let chain = install.map(|file| {
        std::fs::read_to_string(file).map_err(|error| {
            let file = file.display();
            Error::Refused(format!(
                "{file}: cannot be read: {error}; it is what `hallcast-receiver sign` printed"
            ))
        })
    });
    let request = match chain.transpose()? {
        Some(chain) => Request::Install { chain },
        None => Request::CertificateRequest,
    };
    let reply = match state {
        None => ask(socket, &request)?,
        Some(state) => {
            let identity = Identity::open(state)?;
            match request {
                Request::Install { chain } => {
                    identity.install(&chain)?;
                    let box_id = identity.box_id().to_string();
                    Reply::Enrolled { box_id }
                }
                _ => Reply::CertificateRequest(identity.certificate_request(None)?),
            }
        }
    };
    match reply {
        Reply::CertificateRequest(pem) => say(pem)?,
        Reply::Enrolled { box_id } => say(format_args!("box {box_id} is enrolled\n"))?,
        Reply::Refused(why) => return Err(Error::Refused(why)),
        Reply::Done { .. } | Reply::Status(_) | Reply::Restarting(_) => return Err(unexpected()),
    }
    Ok(())
}

fn unexpected() -> Error {
    Error::Refused("the running hallcast is another version: it answered something else".into())
}

/// Calls `ended` once the process is asked to end (SIGTERM, SIGINT).
fn on_signal(ended: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        )
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            });
            ended();
        })?;
    Ok(())
}

/// Tells systemd that the box is up; elsewhere nobody listens and nothing happens.
fn notify_ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        log::debug!("no service manager was told: {error}");
    }
}

/// 128 random bits.
fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        // The kernel's generator does not fail once it is up; early in a boot this waits for it.
        if let Ok(more) =
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
        {
            filled += more;
        }
    }
    bytes
}
