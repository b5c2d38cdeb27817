//! A box reduced to its end of the wire: a quinn client that says what a test wants said.

#![allow(dead_code, reason = "each test that includes this uses a part of it")]

use hallcast::media::{BoxId, RecordingId};
use hallcast::mp4::parse_provenance;
use hallcast::wire::framing::{self, MessageReader};
use hallcast::wire::message::{Hello, Message, OpenRecording, Welcome};
use hallcast::wire::stream::{SegmentHeader, chunk_head, hash, segment_head, trailer};
use hallcast::wire::{ALPN, ErrorCode};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, VarInt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// A key with the certificates that a receiver gave for it.
#[derive(Clone)]
pub struct Identity {
    pub box_id: BoxId,
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Identity {
    /// Makes a key and has the receiver's own program sign it.
    pub fn signed(state_dir: &Path, box_id: BoxId) -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, box_id.to_string());
        let request = state_dir.join(format!("{box_id}.csr"));
        std::fs::write(
            &request,
            params.serialize_request(&key).unwrap().pem().unwrap(),
        )
        .unwrap();
        let signed = sign(state_dir, &request);
        let chain = CertificateDer::pem_slice_iter(&signed);
        Self {
            box_id,
            chain: chain.map(Result::unwrap).collect(),
            key: key.serialize_der(),
        }
    }

    fn endpoint(&self, authority: &CertificateDer<'static>, window: Option<u32>) -> Endpoint {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::Pkcs8(self.key.clone().into());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(self.chain.clone(), key)
            .unwrap();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let tls = QuicClientConfig::try_from(tls).unwrap();
        let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        if let Some(window) = window {
            let mut transport = quinn::TransportConfig::default();
            transport.stream_receive_window(VarInt::from_u32(window));
            config.transport_config(Arc::new(transport));
        }
        endpoint.set_default_client_config(config);
        endpoint
    }

    /// Connects, trusting the receiver whose state directory this is.
    pub async fn connect(
        &self,
        boxes: &str,
        state_dir: &Path,
    ) -> Result<Connection, ConnectionError> {
        self.connect_with(boxes, state_dir, None).await
    }

    async fn connect_with(
        &self,
        boxes: &str,
        state_dir: &Path,
        window: Option<u32>,
    ) -> Result<Connection, ConnectionError> {
        let pem = std::fs::read(state_dir.join("ca.pem")).unwrap();
        let authority = CertificateDer::from_pem_slice(&pem).unwrap();
        let endpoint = self.endpoint(&authority, window);
        let connecting = endpoint
            .connect(boxes.parse().unwrap(), "localhost")
            .unwrap();
        connecting.await
    }
}

/// Has the receiver's own program sign a request; the chain it prints.
pub fn sign(state_dir: &Path, request: &Path) -> Vec<u8> {
    let signed = Command::new(env!("CARGO_BIN_EXE_hallcast-receiver"))
        .arg("sign")
        .arg(request)
        .args(["--room", "Test room", "--state-dir"])
        .arg(state_dir)
        .output()
        .unwrap();
    assert!(signed.status.success(), "{signed:?}");
    signed.stdout
}

/// The end of a connection, as a code of ours or, from TLS, its alert's.
pub async fn ended(connection: &Connection) -> ErrorCode {
    let closed = hallcast::clock::within(Duration::from_secs(20), connection.closed());
    code(&closed.await.expect("the connection ends"))
}

/// The code of an ended connection.
pub fn code(error: &ConnectionError) -> ErrorCode {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ErrorCode::from_quic(close.error_code.into_inner()).unwrap()
        }
        ConnectionError::ConnectionClosed(close) => {
            let alert = u64::from(close.error_code) - 0x100;
            ErrorCode::from_tls_alert(alert as u8).unwrap()
        }
        other => panic!("{other}"),
    }
}

/// The stream of an archived segment, in chunks of at most 50 000 bytes.
pub fn segment_stream(bytes: &[u8]) -> Vec<u8> {
    let (provenance, _) = parse_provenance(bytes).unwrap();
    let mut stream = segment_head(&SegmentHeader {
        key: provenance.key,
        init: provenance.init,
    });
    for chunk in bytes.chunks(50_000) {
        stream.extend(chunk_head(chunk.len() as u32));
        stream.extend(chunk);
    }
    stream.extend(trailer(bytes.len() as u64, &hash(bytes)));
    stream
}

/// A connection whose control stream is open.
pub struct Device {
    pub connection: Connection,
    box_id: BoxId,
    send: SendStream,
    receive: RecvStream,
    reader: MessageReader,
    waiting: VecDeque<Message>,
}

impl Device {
    /// Connects and opens the control stream; says nothing yet.
    pub async fn connect(identity: &Identity, boxes: &str, state_dir: &Path) -> Self {
        Self::connect_with(identity, boxes, state_dir, None).await
    }

    /// The same; unless it reads, it is sent `window` bytes of messages and no more.
    pub async fn connect_with(
        identity: &Identity,
        boxes: &str,
        state_dir: &Path,
        window: Option<u32>,
    ) -> Self {
        let connecting = identity.connect_with(boxes, state_dir, window);
        let connection = connecting.await.unwrap();
        let (send, receive) = connection.open_bi().await.unwrap();
        Self {
            connection,
            box_id: identity.box_id,
            send,
            receive,
            reader: MessageReader::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Says `Hello`; `order` is epoch and connection number.
    pub async fn hello(&mut self, order: (u64, u64), nonce: u64, recordings: &[RecordingId]) {
        let open = |recording: &RecordingId| OpenRecording {
            recording: *recording,
            tracks: vec![],
        };
        self.say(&Message::Hello(Hello {
            box_id: self.box_id,
            epoch: order.0,
            connection: order.1,
            nonce,
            software: "test".into(),
            recordings: recordings.iter().map(open).collect(),
            clock: None,
        }))
        .await;
    }

    /// Says `Hello` and waits for the answer.
    pub async fn welcomed(
        &mut self,
        order: (u64, u64),
        nonce: u64,
        recordings: &[RecordingId],
    ) -> Welcome {
        self.hello(order, nonce, recordings).await;
        match self.next().await {
            Message::Welcome(welcome) => welcome,
            other => panic!("{other:?}"),
        }
    }

    /// Sends a message.
    pub async fn say(&mut self, message: &Message) {
        let bytes = framing::encode(message).unwrap();
        self.raw(&bytes).await;
    }

    /// Sends bytes on the control stream.
    pub async fn raw(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.unwrap();
    }

    /// Sends bytes on the control stream of a connection that may end for it.
    pub async fn send_anyway(&mut self, bytes: &[u8]) -> bool {
        self.send.write_all(bytes).await.is_ok()
    }

    /// Says `Hello` in the name of another box.
    pub async fn pretend(&mut self, box_id: BoxId) {
        self.box_id = box_id;
        self.hello((9, 9), 9, &[]).await;
    }

    /// The next message; RECEIVED is left out.
    pub async fn next(&mut self) -> Message {
        let next = async {
            loop {
                match self.waiting.pop_front() {
                    Some(Message::Received(_)) => continue,
                    Some(message) => return message,
                    None => {}
                }
                let mut buffer = [0; 4096];
                let length = self.receive.read(&mut buffer).await.unwrap().unwrap();
                let mut input = &buffer[..length];
                while let Some(message) = self.reader.next(&mut input).unwrap() {
                    self.waiting.push_back(message);
                }
            }
        };
        let next = hallcast::clock::within(Duration::from_secs(20), next);
        next.await.expect("a message")
    }

    /// Sends a whole unidirectional stream.
    pub async fn stream(&self, bytes: &[u8]) {
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.finish().unwrap();
    }

    /// Sends the start of a stream and resets it.
    pub async fn cut(&self, bytes: &[u8]) {
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.reset(VarInt::from_u32(0)).unwrap();
    }
}
