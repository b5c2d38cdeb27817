//! The server program: takes boxes in, archives what they send, shows it.
//!
//! Takes QUIC connections of boxes ([`listener`], one [`ingest`] engine each) and HTTP requests of
//! browsers ([`web`]); gives acknowledgements of what is durable, an archive of immutable objects
//! ([`archive`]), and playlists and pages derived from it ([`catalog`], [`manifest`]). What does not
//! belong here: anything that changes a byte that a box sent (there is no transcoding; the MP4 is made
//! by rewriting tables), and any stage of the box.

pub mod archive;
pub mod authority;
pub mod catalog;
pub mod config;
mod control;
mod erase;
pub mod export;
pub(crate) mod fence;
pub mod film;
pub mod fleet;
pub mod ingest;
pub mod library;
pub mod listener;
pub mod manifest;
mod metrics;
mod playlist;
pub mod roster;
#[cfg(test)]
mod samples;
mod sign;
pub mod verify;
mod view;
pub mod web;

use crate::clock;
use crate::journal::{self, say};
use crate::media::RecordingId;
use authority::Authority;
use clap::{Parser, Subcommand};
use config::{Config, Flags};
use film::Films;
use library::Library;
use listener::Listener;
use roster::Roster;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast::error::RecvError;

/// `EX_CONFIG` of sysexits.h: starting again will not help.
const EXIT_CONFIG: u8 = 78;

/// The receiver of Hallcast boxes: takes lectures in, archives them, shows them
#[derive(Parser)]
#[command(name = "hallcast-receiver", version)]
struct Arguments {
    /// Settings [default: /etc/hallcast/receiver.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Takes boxes and browsers in until it is told to end
    Run(Flags),
    /// Writes a complete recording from the store as one MP4 file
    Export {
        /// The recording's id, as the page's address has it
        recording: RecordingId,
        /// The file to write; one that is there is replaced
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// Directory of the archive
        #[arg(long)]
        store_dir: Option<PathBuf>,
    },
    /// Erases a recording for good: here, and on the box that made it
    Erase {
        /// The recording's id, as the page's address has it
        recording: RecordingId,
        /// Does not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        places: Places,
    },
    /// Reads every object of the archive and says whether all of it is there and undamaged
    Verify {
        /// The recording's id; or --all
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        recording: Option<RecordingId>,
        /// Every recording
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        places: Places,
    },
    /// Signs requests of boxes and enters these in the roster. One request: prints the certificate chain;
    /// several, or a folder of them: writes NAME.pem for each NAME.csr
    Sign {
        /// Requests that `hallcast` made on the boxes (PEM), or a folder of *.csr
        #[arg(required = true, value_name = "REQUEST")]
        requests: Vec<PathBuf>,
        /// The room in which the box stands; as the request or the roster has it unless given
        #[arg(long)]
        room: Option<String>,
        /// The folder for what is written; beside the requests unless given
        #[arg(long, value_name = "FOLDER")]
        output: Option<PathBuf>,
        /// Directory of keys, certificates and the roster of boxes
        #[arg(long)]
        state_dir: Option<PathBuf>,
    },
    /// Has a connected box do something, if its settings allow it (recording.network-commands)
    #[command(name = "command")]
    Give {
        /// The box's id, or the room in which it stands
        #[arg(value_name = "BOX_OR_ROOM")]
        box_or_room: String,
        /// What to do
        action: control::Asked,
        /// Directory of keys, certificates and the roster of boxes
        #[arg(long)]
        state_dir: Option<PathBuf>,
    },
    /// The receiver's own authority
    #[command(subcommand)]
    Ca(CaCommand),
}

#[derive(clap::Args)]
struct Places {
    /// Directory of the archive
    #[arg(long)]
    store_dir: Option<PathBuf>,
    /// Directory of keys, certificates and the roster of boxes
    #[arg(long)]
    state_dir: Option<PathBuf>,
}

impl Places {
    fn flags(&self) -> Flags {
        Flags {
            store_dir: self.store_dir.clone(),
            state_dir: self.state_dir.clone(),
            ..Flags::default()
        }
    }
}

#[derive(Subcommand)]
enum CaCommand {
    /// Makes the authority and this receiver's certificate
    Init {
        /// A name or address under which boxes reach this receiver; give it once for each
        #[arg(long = "name", default_values = ["localhost", "127.0.0.1", "::1"])]
        names: Vec<String>,
        /// An authority for one machine: such a receiver refuses to listen off loopback
        #[arg(long)]
        development: bool,
        /// Directory of keys, certificates and the roster of boxes
        #[arg(long)]
        state_dir: Option<PathBuf>,
    },
}

/// Why the program ends with an error.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Authority(#[from] authority::Error),
    #[error(transparent)]
    Archive(#[from] archive::Error),
    #[error(transparent)]
    Listener(#[from] listener::Error),
    #[error(transparent)]
    Export(#[from] Box<export::Error>),
    #[error(transparent)]
    Erase(#[from] erase::Error),
    #[error(transparent)]
    Sign(#[from] sign::Error),
    #[error("{0} of the recordings checked have faults; what to do stands beside each")]
    Faults(usize),
    #[error(transparent)]
    Control(#[from] control::Error),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Output(#[from] journal::Unsaid),
    #[error("{0}: {1}")]
    Io(String, #[source] std::io::Error),
}

impl Error {
    fn exit(&self) -> ExitCode {
        let is_config = match self {
            Self::Config(_) | Self::Listener(listener::Error::Development(_)) => true,
            Self::Authority(error) => error.is_missing(),
            _ => false,
        };
        ExitCode::from(if is_config { EXIT_CONFIG } else { 1 })
    }
}

/// The program: reads its arguments, does one command, says in one line what kept it from it.
pub fn main() -> ExitCode {
    journal::start("info,quinn=warn,rustls=warn,object_store=warn");
    let arguments = Arguments::parse();
    match command(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            journal::fatal("hallcast-receiver", &e);
            e.exit()
        }
    }
}

fn command(arguments: &Arguments) -> Result<(), Error> {
    let config = |flags: &Flags| Config::load(arguments.config.as_deref(), flags);
    let with_state = |dir: &Option<PathBuf>| Flags {
        state_dir: dir.clone(),
        ..Flags::default()
    };
    match &arguments.command {
        Command::Run(flags) => run(&config(flags)?),
        Command::Export {
            recording,
            output,
            store_dir,
        } => {
            let flags = Flags {
                store_dir: store_dir.clone(),
                ..Flags::default()
            };
            let store = config(&flags)?.store;
            let exported = runtime()?.block_on(export::export(&store, *recording, output));
            let written = exported.map_err(Box::new)?;
            let seconds = written.nanos / 1_000_000_000;
            let (minutes, seconds, bytes) = (seconds / 60, seconds % 60, written.bytes);
            Ok(say(format_args!(
                "{}: {minutes}:{seconds:02}, {bytes} bytes\n",
                output.display()
            ))?)
        }
        Command::Erase {
            recording,
            yes,
            places,
        } => {
            let config = config(&places.flags())?;
            let said = runtime()?.block_on(erase::erase(&config, *recording, *yes))?;
            Ok(say(said)?)
        }
        Command::Verify {
            recording, places, ..
        } => {
            let store = config(&places.flags())?.store;
            let checked = runtime()?.block_on(verify::verify(&store, *recording));
            match checked? {
                0 => Ok(()),
                faulty => Err(Error::Faults(faulty)),
            }
        }
        Command::Sign {
            requests,
            room,
            output,
            state_dir,
        } => {
            let state_dir = config(&with_state(state_dir))?.state_dir;
            let (room, output) = (room.as_deref(), output.as_deref());
            Ok(say(sign::sign(&state_dir, requests, room, output)?)?)
        }
        Command::Give {
            box_or_room,
            action,
            state_dir,
        } => {
            let state_dir = config(&with_state(state_dir))?.state_dir;
            let request = control::Request {
                box_or_room: box_or_room.clone(),
                action: *action,
            };
            match control::ask(&state_dir, &request)? {
                control::Reply::Done(Some(recording)) => Ok(say(format_args!("{recording}\n"))?),
                control::Reply::Done(None) => Ok(()),
                control::Reply::Refused(why) => Err(Error::Refused(why)),
            }
        }
        Command::Ca(CaCommand::Init {
            names,
            development,
            state_dir,
        }) => {
            let state_dir = config(&with_state(state_dir))?.state_dir;
            Authority::create(&state_dir, names, *development)?;
            Ok(say(format_args!(
                "authority made in {}; boxes need its ca.pem\n",
                state_dir.display()
            ))?)
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Io("starting the runtime".into(), e))
}

/// Tells systemd without end that timers and tasks are run; it starts a receiver again that does not.
async fn feed_watchdog() {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    loop {
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]) {
            log::warn!("systemd cannot be told that the receiver works: {error}");
        }
        // Half would do; a lost beat is forgiven.
        clock::pause(patience / 4).await;
    }
}

fn run(config: &Config) -> Result<(), Error> {
    runtime()?.block_on(async {
        let server = Server::start(config).await?;
        say(format_args!(
            "boxes: {}\npage: http://{}/\n",
            server.boxes, server.page
        ))?;
        // Not under systemd there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let on = |kind| signal(kind).map_err(|e| Error::Io("signals".into(), e));
        let (mut terminate, mut interrupt) =
            (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = feed_watchdog() => {}
        }
        log::info!("ending");
        server.stop().await;
        Ok(())
    })
}

/// Removes the films of erased recordings: those erased before, and from now on.
async fn forget_films(library: Arc<Library>, films: Arc<Films>) {
    let mut erasures = library.erasures();
    let all = || library.read().erased.keys().copied().collect::<Vec<_>>();
    let mut due = all();
    loop {
        for id in due {
            if let Err(e) = films.forget(id).await {
                log::error!("erased recording {id}: {e}");
            }
        }
        due = match erasures.recv().await {
            Ok(id) => vec![id],
            Err(RecvError::Lagged(_)) => all(),
            Err(RecvError::Closed) => return,
        };
    }
}

/// The receiver, running.
struct Server {
    /// Where boxes connect.
    boxes: SocketAddr,
    /// Where browsers connect.
    page: SocketAddr,
    listener: Arc<Listener>,
}

impl Server {
    /// Starts listening as `config` says.
    async fn start(config: &Config) -> Result<Self, Error> {
        let authority = Authority::load(&config.state_dir)?;
        let library = Arc::new(Library::open(&config.store).await?);
        let roster = Roster::new(&config.state_dir);
        let listener = Listener::bind(config.listen, &authority, library.clone(), roster)?;
        let listener = Arc::new(listener);
        let address = |e| Error::Io("the socket's address".into(), e);
        let boxes = listener.local_addr().map_err(address)?;
        let web = tokio::net::TcpListener::bind(config.web_listen)
            .await
            .map_err(|e| {
                let what = format!(
                    "{}/tcp: check that nothing else listens there",
                    config.web_listen
                );
                Error::Io(what, e)
            })?;
        let page = web.local_addr().map_err(address)?;
        let films = Arc::new(Films::new(config.state_dir.join("films")));
        let (erasing, others) = (library.clone(), library.clone());
        tokio::spawn(async move { erasing.watch_erased().await });
        tokio::spawn(async move { others.watch_others().await });
        tokio::spawn(forget_films(library.clone(), films.clone()));
        let router = web::router(library.clone(), films, listener.fleet(), listener.stats());
        tokio::spawn(async move {
            if let Err(e) = axum::serve(web, router).await {
                log::error!("web: {e}");
            }
        });
        // Lectures arrive without it.
        if let Err(error) = control::listen(&config.state_dir, listener.clone()) {
            log::error!("{error}");
        }
        let accepting = listener.clone();
        tokio::spawn(async move { accepting.run().await });
        Ok(Self {
            boxes,
            page,
            listener,
        })
    }

    /// Ends every connection.
    async fn stop(&self) {
        self.listener.shut_down().await;
    }
}
