//! The endpoint's own keys, the same after each start.
//!
//! A box whose receiver was killed goes on sending to it. The next process knows nothing of that
//! connection; with the keys of the one before, it sees that the connection's name is its own and says
//! so with a stateless reset (RFC 9000, section 10.3), which the box believes at once.

use crate::receiver::authority::Authority;
use quinn::EndpointConfig;
use quinn::crypto::{CryptoError, HmacKey};
use quinn_proto::HashedConnectionIdGenerator;
use std::sync::Arc;

/// Makes the tokens of stateless resets.
struct ResetKey([u8; blake3::KEY_LEN]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        let made = blake3::keyed_hash(&self.0, data);
        for (to, from) in signature.iter_mut().zip(made.as_bytes()) {
            *to = *from;
        }
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // The comparison takes the same time for all.
        match blake3::Hash::from_slice(signature) {
            Ok(signature) if signature == blake3::keyed_hash(&self.0, data) => Ok(()),
            _ => Err(CryptoError),
        }
    }
}

/// The configuration of the endpoint of this authority's receiver.
pub(super) fn config(authority: &Authority) -> EndpointConfig {
    let (_, key) = authority.server();
    let derive = |what| blake3::derive_key(what, key.secret_der());
    let reset_key = derive("hallcast 2026-11-22 receiver: stateless reset");
    let names = derive("hallcast 2026-11-22 receiver: connection ids");
    let mut first = [0; 8];
    first.copy_from_slice(&names[..8]);
    let name_key = u64::from_le_bytes(first);
    let mut config = EndpointConfig::new(Arc::new(ResetKey(reset_key)));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(name_key)));
    config
}
