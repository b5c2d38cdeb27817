//! An S3 server as a process, and a proxy in front of it: what a network, a full bucket or a careless
//! machine on the way does to a receiver's requests.
//!
//! The server (moto) keeps everything in memory: to be away and come back it is stopped (SIGSTOP), or the
//! proxy cuts its connections. It does not compare an object with its checksum as AWS does: the proxy
//! does that for it.

use crate::programs;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Name;
use object_store::{ClientOptions, ObjectStoreExt, RetryConfig};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const SECRET: &str = "a-secret-that-no-log-may-hold";

/// An S3 server on loopback; ends with this value.
pub struct S3 {
    process: std::process::Child,
    pub address: String,
    pub store: AmazonS3,
}

impl S3 {
    /// With an empty bucket `lectures`.
    pub fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/s3");
        // What pip says where it cannot install the server.
        let said = tempfile::NamedTempFile::new().unwrap();
        let process = std::process::Command::new(script)
            .arg(address.port().to_string())
            .stderr(said.reopen().unwrap())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let address = address.to_string();
        let store = client(&address).build().unwrap();
        let mut server = Self {
            process,
            address,
            store,
        };
        programs::wait_until(300, "the S3 server", || {
            if let Some(status) = server.process.try_wait().unwrap() {
                let said = std::fs::read_to_string(said.path()).unwrap_or_default();
                panic!("the S3 server: {status}\n{said}");
            }
            TcpStream::connect(&server.address).is_ok()
        });
        let mut socket = TcpStream::connect(&server.address).unwrap();
        let host = &server.address;
        write!(
            socket,
            "PUT /lectures HTTP/1.0\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 200 "), "{answer}");
        server
    }

    pub async fn object(&self, name: &str) -> Vec<u8> {
        let name = Name::from(format!("hall/{name}"));
        let found = self.store.get(&name).await.unwrap();
        found.bytes().await.unwrap().to_vec()
    }

    pub async fn put(&self, name: &str, bytes: Vec<u8>) {
        let name = Name::from(format!("hall/{name}"));
        self.store.put(&name, bytes.into()).await.unwrap();
    }

    /// Stops the process, or lets it go on: requests wait in the kernel meanwhile.
    pub fn stop(&self, stopped: bool) {
        let signal = if stopped { "-STOP" } else { "-CONT" };
        programs::run("kill", &[signal, &self.process.id().to_string()]);
    }

    /// Settings of a receiver whose archive is in the bucket, reached at `address`.
    pub fn settings(address: &str, home: &Path) {
        std::fs::create_dir_all(home).unwrap();
        let keys = home.join("s3-keys.toml");
        let text = format!("access_key_id = \"key\"\nsecret_access_key = \"{SECRET}\"\n");
        std::fs::write(&keys, text).unwrap();
        let text = format!(
            "store_url = \"s3://lectures/hall\"\ns3_endpoint = \"http://{address}\"\ns3_region = \"eu-1\"\n\
             s3_credentials = \"{}\"\nstate_dir = \"{}\"\n",
            keys.display(),
            home.join("state").display()
        );
        std::fs::write(home.join("receiver.toml"), text).unwrap();
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A client of the bucket, the server or its proxy being at `address`.
fn client(address: &str) -> AmazonS3Builder {
    // Another test of this process may have set it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    AmazonS3Builder::new()
        .with_bucket_name("lectures")
        .with_endpoint(format!("http://{address}"))
        .with_allow_http(true)
        .with_region("eu-1")
        .with_access_key_id("key")
        .with_secret_access_key(SECRET)
}

/// What becomes of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    Through,
    /// Connections are cut as soon as they are made.
    Cut,
    /// Writes get this status and S3 code for an answer; the rest goes through.
    RefusesWrites(u16, &'static str),
    /// A byte of each object whose name has this in it is changed.
    Flips(&'static str),
    /// This request, counted from 0, meets [`Strike`]; the rest goes through.
    Strikes(u64, Strike),
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strike {
    InternalError,
    SlowDown,
    /// No answer until the client gives up; nothing is done.
    Silence,
    /// The connection is cut; nothing is done.
    Reset,
    /// It is done, and the connection is cut instead of an answer.
    ResetAfter,
    /// It is done, and half of the answer arrives.
    HalfAnswer,
}

#[derive(Debug)]
struct State {
    way: Way,
    requests: u64,
    flipped: u64,
}

/// The proxy; its thread ends with the process.
pub struct Proxy {
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// In front of `server`.
    pub fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State {
            way: Way::Through,
            requests: 0,
            flipped: 0,
        }));
        let (of_thread, server) = (state.clone(), server.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (state, server) = (of_thread.clone(), server.clone());
                // A client that is gone needs no answer.
                std::thread::spawn(move || drop(answer(client, &server, &state)));
            }
        });
        Self { address, state }
    }

    /// From now on; requests are counted from 0 again.
    pub fn set(&self, way: Way) {
        let mut state = self.state.lock().unwrap();
        (state.way, state.requests) = (way, 0);
    }

    /// Requests since the last [`Proxy::set`].
    pub fn requests(&self) -> u64 {
        self.state.lock().unwrap().requests
    }

    /// How many objects were changed on their way.
    pub fn flipped(&self) -> u64 {
        self.state.lock().unwrap().flipped
    }

    /// A client that tries everything once, so that each fault is met.
    pub fn impatient(&self) -> AmazonS3 {
        let once = RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        };
        let options = ClientOptions::new()
            .with_allow_http(true)
            .with_timeout(Duration::from_secs(2));
        let client = client(&self.address).with_retry(once);
        client.with_client_options(options).build().unwrap()
    }
}

/// Reads one request, and answers it.
fn answer(mut client: TcpStream, server: &str, state: &Mutex<State>) -> io::Result<()> {
    if state.lock().unwrap().way == Way::Cut {
        return client.shutdown(Shutdown::Both);
    }
    let (head, mut body) = request(&mut client)?;
    let line = head.lines().next().unwrap_or_default();
    let is_put = line.starts_with("PUT ");
    let way = {
        let mut state = state.lock().unwrap();
        let number = state.requests;
        state.requests += 1;
        match state.way {
            Way::Strikes(at, _) if at != number => Way::Through,
            Way::Flips(part) if is_put && line.contains(part) => {
                state.flipped += 1;
                *body.last_mut().unwrap() ^= 1;
                Way::Through
            }
            way => way,
        }
    };
    match way {
        Way::RefusesWrites(status, code) if is_put => {
            return client.write_all(&refusal(status, code));
        }
        Way::Strikes(_, Strike::InternalError) => {
            return client.write_all(&refusal(500, "InternalError"));
        }
        Way::Strikes(_, Strike::SlowDown) => return client.write_all(&refusal(503, "SlowDown")),
        Way::Strikes(_, Strike::Silence) => return client.read(&mut [0]).map(drop),
        Way::Strikes(_, Strike::Reset) | Way::Cut => return client.shutdown(Shutdown::Both),
        _ => {}
    }
    // As AWS does.
    if let Some(expected) = header(&head, "x-amz-checksum-sha256")
        && expected != sha256(&body)
    {
        return client.write_all(&refusal(400, "BadDigest"));
    }
    let mut upstream = TcpStream::connect(server)?;
    let head = head.trim_end().to_owned() + "\r\nConnection: close\r\n\r\n";
    upstream.write_all(&[head.as_bytes(), &body].concat())?;
    let mut answered = Vec::new();
    upstream.read_to_end(&mut answered)?;
    let end = match way {
        Way::Strikes(_, Strike::ResetAfter) => 0,
        Way::Strikes(_, Strike::HalfAnswer) => answered.len() / 2,
        _ => answered.len(),
    };
    client.write_all(&answered[..end])?;
    client.shutdown(Shutdown::Both)
}

fn request(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut read = Vec::new();
    let mut piece = [0; 64 * 1024];
    loop {
        let head = read.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = head.map(|at| at + 4) {
            let head = String::from_utf8_lossy(&read[..end]).into_owned();
            let length = header(&head, "content-length").map_or(0, |text| text.parse().unwrap());
            if read.len() >= end + length {
                return Ok((head, read[end..].to_vec()));
            }
        }
        match client.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => read.extend(&piece[..length]),
        }
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim().to_owned())
}

fn refusal(status: u16, code: &str) -> Vec<u8> {
    let body = format!("<Error><Code>{code}</Code><Message>planted</Message></Error>");
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// In Base64, as the header has it.
fn sha256(bytes: &[u8]) -> String {
    let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let digest = suite.tls13().unwrap().common.hash_provider.hash(bytes);
    let letters: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').collect();
    let mut text = String::new();
    for three in digest.as_ref().chunks(3) {
        let number = (0..3).fold(0, |sum, n| {
            sum << 8 | usize::from(*three.get(n).unwrap_or(&0))
        });
        for n in 0..4 {
            let at = number >> (18 - 6 * n) & 63;
            let letter = letters.get(at).copied();
            text.push(match at {
                _ if n > three.len() => '=',
                62 => '+',
                63 => '/',
                _ => letter.unwrap(),
            });
        }
    }
    text
}
