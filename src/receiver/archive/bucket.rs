//! An S3-compatible store: where it is, who we are there, and how patient we are with it.

use super::Error;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where an S3-compatible store is. Keys and secrets are never part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The bucket's name.
    pub name: String,
    /// The folder within it; empty for all of it.
    pub prefix: String,
    /// Its address, where it is not AWS.
    pub endpoint: Option<String>,
    /// Its region, where it has one.
    pub region: Option<String>,
    /// A file with keys; without it, those of the environment or of the machine (as other S3
    /// programs take them).
    pub credentials: Option<PathBuf>,
}

/// The keys in the file that [`Bucket::credentials`] names.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

/// The settings of [`Credentials`].
const KEYS: [&str; 3] = ["access_key_id", "secret_access_key", "session_token"];

/// Where a file of keys is wrong, in words that show none of them.
fn misread(text: &str, at: Option<std::ops::Range<usize>>) -> String {
    let start = at.map_or(0, |at| at.start);
    let before = text.get(..start).unwrap_or_default();
    let number = before.matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or_default();
    let named = line.split('=').next().unwrap_or_default().trim();
    let key = KEYS.into_iter().find(|key| *key == named);
    let of_key = key.map(|key| format!(" ({key})")).unwrap_or_default();
    format!(
        "line {number}{of_key} cannot be read; write {} and {}, and {} if there is one, each as a text \
         in quotes, and nothing else",
        KEYS[0], KEYS[1], KEYS[2]
    )
}

impl Bucket {
    /// The bucket and prefix of `s3://bucket/prefix`; none when `url` is no such URL.
    pub fn from_url(url: &str) -> Option<Self> {
        let (name, prefix) = match url.strip_prefix("s3://")?.split_once('/') {
            Some((name, prefix)) => (name, prefix.trim_end_matches('/')),
            None => (url.strip_prefix("s3://")?, ""),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let is_name = !name.is_empty() && name.chars().all(plain);
        let is_prefix = prefix.split('/').all(|part| {
            prefix.is_empty() || !part.is_empty() && part != ".." && part.chars().all(plain)
        });
        (is_name && is_prefix).then(|| Self {
            name: name.into(),
            prefix: prefix.into(),
            endpoint: None,
            region: None,
            credentials: None,
        })
    }

    fn credentials(&self) -> Result<Option<Credentials>, Error> {
        let Some(path) = &self.credentials else {
            return Ok(None);
        };
        let failed = |what: String| Error::Bucket {
            bucket: self.to_string(),
            what: format!("{}: {what}", path.display()),
        };
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        // Nothing of the parser's message: it may show a value.
        let read = toml::from_str(&text).map_err(|e| failed(misread(&text, e.span())))?;
        Ok(Some(read))
    }

    /// A client for it. Nothing is asked of it yet.
    pub(super) fn connect(&self) -> Result<Arc<dyn ObjectStore>, Error> {
        // The process's default for the store's client; ours name their provider themselves. An error
        // means that it is set.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(&self.name)
            .with_checksum_algorithm(Checksum::SHA256)
            .with_client_options(
                ClientOptions::new()
                    .with_connect_timeout(Duration::from_secs(5))
                    .with_timeout(Duration::from_secs(30)),
            )
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: Duration::from_millis(100),
                    max_backoff: Duration::from_secs(5),
                    base: 2.0,
                },
                max_retries: 5,
                retry_timeout: Duration::from_secs(30),
            });
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
        if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
            log::warn!("archive {self}: its endpoint is http: what is stored travels unencrypted");
            builder = builder.with_allow_http(true);
        }
        if let Some(keys) = self.credentials()? {
            builder = builder
                .with_access_key_id(keys.access_key_id)
                .with_secret_access_key(keys.secret_access_key);
            if let Some(token) = keys.session_token {
                builder = builder.with_token(token);
            }
        }
        let store = builder.build().map_err(|e| Error::Bucket {
            bucket: self.to_string(),
            what: e.to_string(),
        })?;
        Ok(match self.prefix.as_str() {
            "" => Arc::new(store),
            prefix => Arc::new(PrefixStore::new(store, prefix)),
        })
    }
}

impl std::fmt::Display for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}", self.name)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        if let Some(endpoint) = &self.endpoint {
            write!(f, " at {endpoint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_bucket_and_a_prefix() {
        let read = |url| Bucket::from_url(url).map(|bucket| (bucket.name, bucket.prefix));
        let pair = |name: &str, prefix: &str| Some((name.to_owned(), prefix.to_owned()));
        assert_eq!(read("s3://lectures"), pair("lectures", ""));
        assert_eq!(read("s3://lectures/"), pair("lectures", ""));
        assert_eq!(read("s3://lectures/a/b/"), pair("lectures", "a/b"));
        for wrong in [
            "",
            "s3://",
            "/var/x",
            "http://x/y",
            "s3:///a",
            "s3://b/../c",
            "s3://a b",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_secret_is_in_no_message() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        let bucket = Bucket {
            credentials: Some(path.clone()),
            ..Bucket::from_url("s3://b").unwrap()
        };
        for (text, place) in [
            ("secret_access_key = \"hush\"\nwrong = 1\n", "line 2 cannot"),
            (
                "secret_access_key = hush",
                "line 1 (secret_access_key) cannot",
            ),
            (
                "access_key_id = \"a\"\nsecret_access_key = 77077",
                "line 2 (secret_access_key) cannot",
            ),
            ("access_key_id = \"a\"\nhush = 1", "line 2 cannot"),
            (
                "access_key_id = \"a\"\nsecret_access_key = \"hush\"\nhush = \"hush",
                "line 3 cannot",
            ),
            ("access_key_id = \"hush\"", "cannot be read"),
        ] {
            std::fs::write(&path, text).unwrap();
            let said = bucket.connect().map(|_| ()).unwrap_err().to_string();
            assert!(said.contains("keys.toml") && said.contains(place), "{said}");
            assert!(!said.contains("hush") && !said.contains("77077"), "{said}");
        }
    }
}
