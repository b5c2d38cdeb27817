//! TLS as the uplink wants it: 1.3 only, both ends certified, nothing resumed.

use super::identity::Credentials;
use crate::clock::NotBefore;
use crate::wire::ALPN;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::{CipherSuite, ClientConfig, Error, RootCertStore};
use std::sync::Arc;

/// The client side for one connection attempt.
///
/// No tickets and no 0-RTT: a resumed session would skip the receiver's look at the certificate.
pub(super) fn client(credentials: Credentials) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(credentials.authority)?;
    let clock = Arc::new(NotBefore(credentials.passed));
    let provider = Arc::new(provider(has_aes()));
    let mut config = ClientConfig::builder_with_details(provider, clock)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![credentials.certificate], credentials.key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// ring, with ChaCha20 first where the processor has no AES instructions (Raspberry Pi 4 and
/// before): the receiver follows this order. AES-128 stays, QUIC's first packets need it.
fn provider(has_aes: bool) -> CryptoProvider {
    let mut provider = ring::default_provider();
    if !has_aes {
        let chacha = CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
        provider
            .cipher_suites
            .sort_by_key(|suite| suite.suite() != chacha);
    }
    provider
}

fn has_aes() -> bool {
    // `flags` on x86, `Features` on ARM. When unreadable, AES is the better guess.
    match std::fs::read_to_string("/proc/cpuinfo") {
        Ok(text) => text.split_whitespace().any(|word| word == "aes"),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::time_provider::TimeProvider;

    #[test]
    fn chacha_comes_first_without_aes_instructions_and_aes_128_stays() {
        let suites = |has_aes| -> Vec<CipherSuite> {
            let provider = provider(has_aes);
            provider.cipher_suites.iter().map(|s| s.suite()).collect()
        };
        assert_eq!(
            suites(false)[0],
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        );
        assert_ne!(suites(true)[0], CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
        assert!(suites(false).contains(&CipherSuite::TLS13_AES_128_GCM_SHA256));
    }

    #[test]
    fn no_time_is_believed_before_one_that_has_passed() {
        let far = 40_000_000_000;
        assert_eq!(NotBefore(far).current_time().unwrap().as_secs(), far as u64);
        assert!(NotBefore(0).current_time().unwrap().as_secs() < far as u64);
    }
}
