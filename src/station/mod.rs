//! The box, put together: `hallcast`.
//!
//! Read `pipeline` first: it joins the stages. `recorder` decides when a recording starts and
//! stops, `keeper` carries it out, `config` says what to start with, `control` is how people
//! ask. What does not belong here: anything a stage can do by itself.

mod absence;
mod alarms;
mod config;
mod control;
pub(crate) mod custody;
mod export;
mod keeper;
pub(crate) mod lane;
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

use crate::uplink::identity::{self, Identity};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
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
        /// Where identity and spool are
        #[arg(long, default_value = "/var/lib/hallcast")]
        state_directory: PathBuf,
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
    #[error("starting a thread or a runtime failed: {0}; the machine may be out of memory")]
    Start(#[from] std::io::Error),
}

/// Runs `hallcast`.
pub fn main() -> ExitCode {
    env_logger::Builder::from_env(
        env_logger::Env::default()
            .default_filter_or("info,quinn=warn,quinn_proto=warn,rustls=warn"),
    )
    .format_timestamp_millis()
    .init();
    match work(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hallcast: {error}");
            if matches!(error, Error::Config(_)) {
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
        Command::Enroll {
            csr: _,
            install,
            state_directory,
        } => return enroll(&state_directory, install),
        Command::Spool { what } => return spool_tool::run(&what),
        Command::Start { at } => (at, Request::Start, false),
        Command::Stop { at } => (at, Request::Stop, false),
        Command::Press { hold: false, at } => (at, Request::Press, false),
        Command::Press { hold: true, at } => (at, Request::Hold, false),
        Command::Status { json, at } => (at, Request::Status, json),
    };
    match ask(&at.socket, &request)? {
        Reply::Done { recording } => println!("{recording}"),
        Reply::Status(status) if json => match serde_json::to_string_pretty(&status) {
            Ok(text) => println!("{text}"),
            Err(error) => return Err(Error::Refused(error.to_string())),
        },
        Reply::Status(status) => print!("{status}"),
        Reply::Refused(why) => return Err(Error::Refused(why)),
    }
    Ok(())
}

fn enroll(state: &std::path::Path, install: Option<PathBuf>) -> Result<(), Error> {
    let identity = Identity::open(state)?;
    match install {
        Some(file) => {
            let chain = std::fs::read_to_string(&file)
                .map_err(|error| Error::Refused(format!("{}: {error}", file.display())))?;
            identity.install(&chain)?;
            println!("box {} is enrolled", identity.box_id());
        }
        None => print!("{}", identity.certificate_request()?),
    }
    Ok(())
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
