//! `receiver.toml`: strict, every key optional, and every error names the file, the line and the key.
//!
//! The file and the flags are two structs; [`Config`] is what comes of both.

use super::archive::{Bucket, Place};
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where the settings of an installed receiver are.
pub const DEFAULT_PATH: &str = "/etc/hallcast/receiver.toml";

/// What the receiver needs to know before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where boxes connect (UDP).
    pub listen: SocketAddr,
    /// Where browsers connect (TCP); loopback only, because there is no sign-in.
    pub web_listen: SocketAddr,
    /// The archive: recordings and nothing else.
    pub store: Place,
    /// Keys, certificates and the roster of boxes.
    pub state_dir: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            listen: loopback(4433),
            web_listen: loopback(8080),
            store: Place::Directory("/var/lib/hallcast-receiver/store".into()),
            state_dir: "/var/lib/hallcast-receiver/state".into(),
        }
    }
}

/// The keys that the file may hold; each left out keeps its default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<String>,
    web_listen: Option<String>,
    store_dir: Option<PathBuf>,
    store_url: Option<String>,
    s3_endpoint: Option<String>,
    s3_region: Option<String>,
    s3_credentials: Option<PathBuf>,
    state_dir: Option<PathBuf>,
}

/// The flags of the command line; each wins over the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Address and UDP port where boxes connect [default: 127.0.0.1:4433]
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// Address and TCP port of the pages; loopback only [default: 127.0.0.1:8080]
    #[arg(long)]
    pub web_listen: Option<SocketAddr>,
    /// Directory of the archive
    #[arg(long)]
    pub store_dir: Option<PathBuf>,
    /// Directory of keys, certificates and the roster of boxes
    #[arg(long)]
    pub state_dir: Option<PathBuf>,
}

/// A configuration that cannot be used: the process exits with 78 (`EX_CONFIG`).
#[derive(Debug, thiserror::Error)]
#[error("{place}: {what}")]
pub struct Error {
    /// File, line and key, or the flag.
    pub place: String,
    /// What is wrong, and what is allowed.
    pub what: String,
}

fn error(place: impl Into<String>, what: impl Into<String>) -> Error {
    Error {
        place: place.into(),
        what: what.into(),
    }
}

impl Config {
    /// Reads `path`, lets `flags` win, and checks the whole. Without a `path` the installed file is
    /// read if it is there.
    pub fn load(path: Option<&Path>, flags: &Flags) -> Result<Self, Error> {
        let (path, required) = match path {
            Some(path) => (path, true),
            None => (Path::new(DEFAULT_PATH), false),
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !required => String::new(),
            Err(e) => {
                return Err(error(
                    path.display().to_string(),
                    format!("cannot be read: {e}"),
                ));
            }
        };
        Self::from_text(&text, &path.display().to_string(), flags)
    }

    /// [`Config::load`] on a text; `name` stands for the file in errors.
    pub fn from_text(text: &str, name: &str, flags: &Flags) -> Result<Self, Error> {
        let file: File = toml::from_str(text).map_err(|e| {
            let place = match e.span() {
                Some(span) => format!("{name}:{}", line_of(text, span.start)),
                None => name.to_owned(),
            };
            error(place, e.message().to_owned())
        })?;
        let defaults = Self::default();
        let address = |key: &str, text_value: Option<String>, default| {
            match text_value {
            None => Ok(default),
            Some(value) => value.parse().map_err(|_| {
                error(
                    place_of(text, name, key),
                    format!("`{key}` is \"{value}\": write an address and a port, such as \"127.0.0.1:4433\""),
                )
            }),
        }
        };
        let absolute = |key: &str, value: Option<PathBuf>, default| match value {
            None => Ok(default),
            Some(value) if value.is_absolute() => Ok(value),
            Some(value) => Err(error(
                place_of(text, name, key),
                format!("`{key}` is \"{}\": write an absolute path", value.display()),
            )),
        };
        let store = match (file.store_dir, file.store_url) {
            (Some(_), Some(_)) => {
                return Err(error(
                    place_of(text, name, "store_url"),
                    "`store_dir` and `store_url`: the archive is in one place; keep one of them",
                ));
            }
            (Some(dir), None) => {
                Place::Directory(absolute("store_dir", Some(dir), PathBuf::new())?)
            }
            (None, None) => defaults.store,
            (None, Some(url)) => {
                let Some(bucket) = Bucket::from_url(&url) else {
                    return Err(error(
                        place_of(text, name, "store_url"),
                        format!(
                            "`store_url` is \"{url}\": write s3://BUCKET or s3://BUCKET/FOLDER"
                        ),
                    ));
                };
                let credentials = match file.s3_credentials {
                    None => None,
                    path => Some(absolute("s3_credentials", path, PathBuf::new())?),
                };
                Place::Bucket(Bucket {
                    endpoint: file.s3_endpoint,
                    region: file.s3_region,
                    credentials,
                    ..bucket
                })
            }
        };
        let config = Self {
            listen: match flags.listen {
                Some(listen) => listen,
                None => address("listen", file.listen, defaults.listen)?,
            },
            web_listen: match flags.web_listen {
                Some(listen) => listen,
                None => address("web_listen", file.web_listen, defaults.web_listen)?,
            },
            store: match &flags.store_dir {
                Some(dir) => Place::Directory(dir.clone()),
                None => store,
            },
            state_dir: match &flags.state_dir {
                Some(dir) => dir.clone(),
                None => absolute("state_dir", file.state_dir, defaults.state_dir)?,
            },
        };
        if !config.web_listen.ip().is_loopback() {
            let place = match flags.web_listen {
                Some(_) => "--web-listen".to_owned(),
                None => place_of(text, name, "web_listen"),
            };
            return Err(error(
                place,
                format!(
                    "`web_listen` is {}: the pages have no sign-in yet, so only a loopback address \
                     (127.0.0.1 or [::1]) is allowed; reach them from elsewhere through ssh -L",
                    config.web_listen
                ),
            ));
        }
        Ok(config)
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// `file:line` of the line that sets `key`; the keys are flat, so its first word tells.
fn place_of(text: &str, name: &str, key: &str) -> String {
    let sets = |line: &str| match line.trim_start().strip_prefix(key) {
        Some(rest) => rest.trim_start().starts_with('='),
        None => false,
    };
    match text.lines().position(sets) {
        Some(line) => format!("{name}:{}", line + 1),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, Error> {
        Config::from_text(text, "receiver.toml", &Flags::default())
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(load("").unwrap(), Config::default());
    }

    #[test]
    fn flags_win_over_the_file() {
        let flags = Flags {
            listen: Some("127.0.0.1:1".parse().unwrap()),
            ..Flags::default()
        };
        let text = "listen = \"127.0.0.1:2\"\nstore_dir = \"/a\"\n";
        let config = Config::from_text(text, "f", &flags).unwrap();
        assert_eq!(config.listen.port(), 1);
        assert_eq!(config.store, Place::Directory("/a".into()));
    }

    #[test]
    fn a_bucket_is_named_by_url_and_a_directory_on_the_command_line_wins() {
        let text = "store_url = \"s3://lectures/hall\"\ns3_endpoint = \"https://s3.example.org\"\n\
            s3_region = \"eu-1\"\ns3_credentials = \"/etc/hallcast/s3.toml\"\n";
        let expected = Bucket {
            endpoint: Some("https://s3.example.org".into()),
            region: Some("eu-1".into()),
            credentials: Some("/etc/hallcast/s3.toml".into()),
            ..Bucket::from_url("s3://lectures/hall").unwrap()
        };
        assert_eq!(load(text).unwrap().store, Place::Bucket(expected));
        let flags = Flags {
            store_dir: Some("/a".into()),
            ..Flags::default()
        };
        let config = Config::from_text(text, "f", &flags).unwrap();
        assert_eq!(config.store, Place::Directory("/a".into()));
    }

    #[test]
    fn each_error_names_file_line_and_key() {
        for (text, place, word) in [
            ("\nlisten = \"here\"\n", "receiver.toml:2", "`listen`"),
            ("lisen = \"127.0.0.1:1\"\n", "receiver.toml:1", "`lisen`"),
            (
                "\n\nstore_dir = \"store\"",
                "receiver.toml:3",
                "`store_dir`",
            ),
            (
                "store_dir = \"/a\"\nstore_url = \"s3://b\"",
                "receiver.toml:2",
                "one place",
            ),
            ("store_url = \"/b\"", "receiver.toml:1", "s3://BUCKET"),
            (
                "store_url = \"s3://b\"\ns3_credentials = \"keys\"",
                "receiver.toml:2",
                "absolute",
            ),
            ("state_dir = 5", "receiver.toml:1", "string"),
            ("listen = ", "receiver.toml:1", ""),
            (
                "web_listen = \"0.0.0.0:8080\"",
                "receiver.toml:1",
                "no sign-in",
            ),
        ] {
            let found = load(text).unwrap_err();
            assert_eq!(found.place, place, "{text}");
            assert!(found.what.contains(word), "{found}");
        }
    }

    #[test]
    fn a_file_that_is_asked_for_must_be_there() {
        let missing = Path::new("/nonexistent/receiver.toml");
        let found = Config::load(Some(missing), &Flags::default()).unwrap_err();
        assert!(
            found.to_string().contains("/nonexistent/receiver.toml"),
            "{found}"
        );
    }
}
