//! `receiver.toml`: strict, every key optional, and every error names the file, the line and the key.
//!
//! The file and the flags are two structs; [`Config`] is what comes of both.

use super::archive::{Bucket, Place};
use crate::settings;
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
pub enum Error {
    /// Of the file.
    #[error(transparent)]
    File(#[from] settings::Error),
    /// Of the command line.
    #[error("{flag}: {message}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What is wrong, and what is allowed.
        message: String,
    },
}

impl Config {
    /// Reads `path`, lets `flags` win, and checks the whole. Without a `path` the installed file is
    /// read if it is there.
    pub fn load(path: Option<&Path>, flags: &Flags) -> Result<Self, Error> {
        let (path, required) = match path {
            Some(path) => (path, true),
            None => (Path::new(DEFAULT_PATH), false),
        };
        let text = match required || path.try_exists().unwrap_or(true) {
            true => settings::read(path)?,
            false => String::new(),
        };
        Self::from_text(&text, path, flags)
    }

    /// [`Config::load`] on a text; `path` names it in errors.
    pub fn from_text(text: &str, path: &Path, flags: &Flags) -> Result<Self, Error> {
        let file: File = settings::parse(text, path)?;
        let defaults = Self::default();
        let invalid = |key: &str, message: String| settings::invalid(text, path, key, message);
        let address = |key: &str, value: Option<String>, default| match value {
            None => Ok(default),
            Some(value) => value.parse().map_err(|_| {
                let example = "an address and a port, such as \"127.0.0.1:4433\"";
                invalid(key, format!("`{value}` is not {example}"))
            }),
        };
        let absolute = |key: &str, value: Option<PathBuf>, default| match value {
            None => Ok(default),
            Some(value) if value.is_absolute() => Ok(value),
            Some(value) => {
                let value = value.display();
                Err(invalid(
                    key,
                    format!("`{value}` is not absolute: write the whole path, from / on"),
                ))
            }
        };
        let store = match (file.store_dir, file.store_url) {
            (Some(_), Some(_)) => {
                let both =
                    "there is `store_dir` too: the archive is in one place; keep one of them";
                return Err(invalid("store_url", both.into()).into());
            }
            (Some(dir), None) => {
                Place::Directory(absolute("store_dir", Some(dir), PathBuf::new())?)
            }
            (None, None) => defaults.store,
            (None, Some(url)) => {
                let Some(bucket) = Bucket::from_url(&url) else {
                    let message =
                        format!("`{url}` is no bucket: write s3://BUCKET or s3://BUCKET/FOLDER");
                    return Err(invalid("store_url", message).into());
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
            let message = format!(
                "{} is not on this machine alone, and the pages have no sign-in yet: give a loopback \
                 address (127.0.0.1 or [::1]), and reach it from elsewhere through ssh -L",
                config.web_listen
            );
            let flag = "--web-listen";
            return Err(match flags.web_listen {
                Some(_) => Error::Flag { flag, message },
                None => invalid("web_listen", message).into(),
            });
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, Error> {
        Config::from_text(text, Path::new("receiver.toml"), &Flags::default())
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
        let config = Config::from_text(text, Path::new("f"), &flags).unwrap();
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
        let config = Config::from_text(text, Path::new("f"), &flags).unwrap();
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
            let found = load(text).unwrap_err().to_string();
            assert!(found.starts_with(&format!("{place}: ")), "{found}");
            assert!(found.contains(word), "{found}");
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
