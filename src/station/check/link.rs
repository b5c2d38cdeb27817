//! The way to the receiver, from its name to its clock, and our clock beside it.

use super::certificate::Known;
use super::clock::date;
use super::running::Running;
use super::{Line, clock as judging, seconds};
use crate::clock;
use crate::station::config::{Config, Receiver};
use crate::uplink::ErrorCode;
use crate::uplink::quic;
use crate::uplink::quic::probe::{
    Found, Greeted, LEAST_PAYLOAD, Refusal, USUAL_PAYLOAD, Udp, headers, probe,
};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// A receiver's certificate that ends within so many seconds is said: it is renewed by a person.
const SOON: i64 = 14 * 86_400;

pub(super) fn lines(config: &Config, known: &Known, running: &Running) -> Vec<Line> {
    let enrolled = known.enrolled();
    let passed = enrolled.map(|(_, credentials)| credentials.passed);
    let Some(receiver) = &config.receiver else {
        let found = "none is configured: recordings stay on this box";
        let next = "name one in the settings, as `address = \"host:port\"` under `[receiver]`";
        return vec![
            Line::warn("receiver", found, next),
            judging::judge(clock::wall(), passed, None),
        ];
    };
    let epoch = match is_held(&config.state_directory) || !matches!(running, Running::No) {
        true => 0,
        false => enrolled.map_or(0, |(identity, _)| identity.passing_epoch()),
    };
    let mut driver = quic::Config::new(&receiver.address);
    driver.server_name = receiver.name.clone().unwrap_or(driver.server_name);
    driver.segmentation_offload = receiver.segmentation_offload;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let next = "end other programs: the machine is out of memory or file descriptors";
            return vec![Line::wrong("receiver", error.to_string(), next)];
        }
    };
    let identity = enrolled.map(|(identity, _)| identity);
    let found = runtime.block_on(probe(&driver, identity, epoch));
    // A look-up of a name may hang on a thread of its own.
    runtime.shutdown_background();
    let mut lines = judge(receiver, &driver.server_name, &found, known);
    let greeted = found
        .session
        .as_ref()
        .and_then(|session| session.as_ref().ok());
    let welcome = greeted.and_then(|greeted| greeted.welcome.as_ref());
    let ahead = welcome.and_then(|word| Some((word.ahead_nanos?, word.uncertainty)));
    lines.push(judging::judge(clock::wall(), passed, ahead));
    lines
}

/// Whether a box works on the state directory, whatever socket it listens on.
fn is_held(state: &Path) -> bool {
    let Ok(lock) = File::open(state.join("lock")) else {
        return false;
    };
    flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
}

/// Judges each step of the way; what comes after the first that fails was not tried.
fn judge(receiver: &Receiver, name: &str, found: &Found, known: &Known) -> Vec<Line> {
    let address = &receiver.address;
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let addresses = match &found.addresses {
        Ok(addresses) => addresses,
        Err(error) => return vec![judge_name(host, error)],
    };
    let mut lines = Vec::new();
    if !addresses
        .iter()
        .any(|a| a.ip().to_string() == host.trim_matches(['[', ']']))
    {
        let all: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
        lines.push(Line::ok("name", format!("{host} is {}", all.join(", "))));
    }
    let Some((far, udp)) = &found.udp else {
        let next = "correct its entry in the DNS, or write its address into the settings";
        lines.push(Line::wrong("name", format!("{host} has no address"), next));
        return lines;
    };
    lines.push(judge_udp(udp, &far.to_string(), host, port));
    match &found.session {
        Some(Ok(greeted)) => {
            lines.push(judge_payload(greeted.payload, *far));
            let now = clock::wall().unix_nanos / 1_000_000_000;
            lines.push(judge_greeted(greeted, address, now));
        }
        Some(Err(Refusal::Silent)) => lines.push(judge_narrow(found.packet, *far)),
        Some(Err(refusal)) => lines.push(judge_refusal(refusal, address, name)),
        None if matches!(udp, Udp::Answered(_)) => {
            let found = "not tried: it takes the box's certificate (see above)";
            let next = match known {
                Known::Hidden => "run the check as root, as in `sudo hallcast check`",
                _ => "enrol the box, then check again",
            };
            lines.push(Line::warn("receiver", found, next));
        }
        None => {}
    }
    lines
}

fn judge_name(host: &str, error: &io::Error) -> Line {
    let text = error.to_string();
    let unreached = error.kind() == io::ErrorKind::TimedOut || text.contains("Temporary failure");
    if unreached {
        let found = format!("{host}: no DNS server answers ({text})");
        let next = "check the cable and that this box has an address and a DNS server \
                    (`resolvectl status`)";
        return Line::wrong("name", found, next);
    }
    let next = "correct `receiver.address` in the settings, or have the name entered in the DNS";
    Line::wrong("name", format!("{host} is not known: {text}"), next)
}

fn judge_udp(udp: &Udp, far: &str, host: &str, port: &str) -> Line {
    let rule = format!("allow UDP from this box to {host} port {port}");
    match udp {
        Udp::Answered(took) => {
            let took = seconds(*took);
            Line::ok("udp", format!("{far} answers after {took}"))
        }
        Udp::Refused => Line::wrong(
            "udp",
            format!(
                "{far} is there, but nobody listens on UDP port {port}, or a firewall rejects it"
            ),
            format!(
                "start hallcast-receiver there, or correct the port in `receiver.address`; at a firewall \
                 {rule} and the answers back"
            ),
        ),
        Udp::NoRoute(why) => Line::wrong(
            "udp",
            format!("there is no way to {far}: {why}"),
            "check the cable, this box's address and its gateway (`ip route`)",
        ),
        Udp::Forbidden(why) => Line::wrong(
            "udp",
            format!("this box's own firewall refuses to send to {far}: {why}"),
            format!("{rule} (`nft list ruleset`)"),
        ),
        Udp::Rejected(why) => Line::wrong(
            "udp",
            format!("a firewall on the way, or the receiver's, refuses UDP to {far}: {why}"),
            format!("{rule} and the answers back"),
        ),
        Udp::Silent => Line::wrong(
            "udp",
            format!("{far} does not answer at all: a firewall drops UDP, or the machine is off"),
            format!("{rule} and the answers back"),
        ),
    }
}

fn judge_payload(payload: u16, far: SocketAddr) -> Line {
    let packet = u32::from(payload) + headers(far);
    let found = format!("packets of {packet} bytes pass ({payload} of UDP payload)");
    if payload < USUAL_PAYLOAD {
        let found = format!("{found}: less than Ethernet carries, and enough");
        return Line::ok("mtu", found);
    }
    Line::ok("mtu", found)
}

/// Whole packets of the least size are not answered, though ones in pieces are.
fn judge_narrow(packet: Option<u32>, far: SocketAddr) -> Line {
    let least = u32::from(LEAST_PAYLOAD) + headers(far);
    match packet.filter(|packet| *packet < least) {
        Some(packet) => Line::wrong(
            "mtu",
            format!("only packets of {packet} bytes pass to {far}; QUIC needs {least}"),
            format!("raise the MTU of the tunnel or interface on the way to {least} or more"),
        ),
        None => Line::wrong(
            "mtu",
            format!(
                "{far} answers short greetings and no handshake: packets of {least} bytes are lost"
            ),
            format!(
                "find the tunnel or firewall on the way that drops packets of {least} bytes \
                 (`ping -M do -s {LEAST_PAYLOAD}`), or one that inspects QUIC"
            ),
        ),
    }
}

fn judge_greeted(greeted: &Greeted, address: &str, now: i64) -> Line {
    let mut found = format!(
        "{address} let the box in: handshake {}, round trip {}",
        seconds(greeted.handshake),
        seconds(greeted.rtt)
    );
    if let Some(ends) = greeted.ends {
        found += &format!(", its certificate is valid to {}", date(ends));
    }
    found += &match &greeted.welcome {
        Some(welcome) => format!(", {}", welcome.software),
        None => "; it keeps to this box's own connection and told no time".into(),
    };
    if greeted.ends.is_some_and(|ends| ends - now < SOON) {
        let next = "renew the receiver's certificate: from its end on no box is let in";
        return Line::warn("receiver", found, next);
    }
    Line::ok("receiver", found)
}

fn judge_refusal(refusal: &Refusal, address: &str, name: &str) -> Line {
    let (found, next) = match refusal {
        Refusal::Silent => ("no answer".into(), "check again".into()),
        Refusal::WrongName(text) => (
            format!("its certificate is not for the name {name}: {text}"),
            "correct `receiver.address` or set `receiver.name` to the name in the certificate".into(),
        ),
        Refusal::UnknownAuthority => (
            "its certificate is from another authority than this box's: it is another receiver, or \
             was set up anew"
                .into(),
            "correct `receiver.address`, or enrol the box at this receiver".into(),
        ),
        Refusal::Expired(text) => (
            format!("its certificate has ended, by this box's clock: {text}"),
            "check this box's clock (below); if it is right, renew the receiver's certificate".into(),
        ),
        Refusal::NotYet(text) => (
            format!("its certificate has not begun, by this box's clock: {text}"),
            "set this box's clock (below)".into(),
        ),
        Refusal::Ended(error) => {
            let next = match error.code() {
                Some(ErrorCode::CERTIFICATE) => {
                    "the receiver or this box refuses the other's certificate: enrol the box anew; if \
                     that does not help, check both clocks"
                        .into()
                }
                Some(code) => code.advice().to_owned(),
                None => "read the receiver's log".into(),
            };
            (error.to_string(), next)
        }
    };
    Line::wrong("receiver", format!("{address}: {found}"), next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::station::check::Verdict;
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    fn at(host: &str) -> Receiver {
        Receiver {
            address: format!("{host}:4433"),
            name: None,
            segmentation_offload: true,
        }
    }

    fn far() -> SocketAddr {
        "10.0.0.1:4433".parse().unwrap()
    }

    fn met(udp: Udp, session: Option<Result<Greeted, Refusal>>) -> Vec<Line> {
        let found = Found {
            addresses: Ok(vec![far()]),
            udp: Some((far(), udp)),
            packet: Some(1000),
            session,
        };
        judge(&at("hall.example"), "hall.example", &found, &Known::Hidden)
    }

    #[test]
    fn without_the_boxs_certificate_the_receiver_is_not_tried() {
        let answered = (far(), Udp::Answered(MS));
        for (known, says) in [
            (Known::Hidden, "as root"),
            (Known::Nothing, "enrol the box"),
        ] {
            let found = Found {
                addresses: Ok(vec![far()]),
                udp: Some(answered.clone()),
                packet: None,
                session: None,
            };
            let lines = judge(&at("10.0.0.1"), "10.0.0.1", &found, &known);
            let last = lines.last().unwrap();
            assert_eq!(last.verdict, Verdict::Warn);
            assert!(last.next.as_ref().unwrap().contains(says), "{last}");
        }
    }

    #[test]
    fn each_way_to_fail_is_told_apart_and_says_what_to_do() {
        let nobody = judge_name("x.example", &io::Error::other("Name or service not known"));
        let no_dns = io::Error::other("Temporary failure in name resolution");
        let no_dns = judge_name("x.example", &no_dns);
        assert!(nobody.found.contains("is not known"), "{nobody}");
        assert!(no_dns.found.contains("no DNS server answers"), "{no_dns}");
        let mut seen = vec![nobody, no_dns];
        for (udp, says) in [
            (
                Udp::Refused,
                "nobody listens on UDP port 4433, or a firewall rejects it",
            ),
            (Udp::NoRoute("unreachable".into()), "no way to 10.0.0.1"),
            (Udp::Forbidden("EPERM".into()), "own firewall"),
            (
                Udp::Rejected("EHOSTUNREACH".into()),
                "a firewall on the way, or the receiver's, refuses UDP to 10.0.0.1:4433",
            ),
            (Udp::Silent, "a firewall drops UDP"),
        ] {
            let lines = met(udp, None);
            assert_eq!(lines.len(), 2, "the name and UDP: {lines:?}");
            assert!(lines[1].found.contains(says), "{}", lines[1]);
            seen.push(lines[1].clone());
        }
        let rule = "allow UDP from this box to hall.example port 4433";
        for line in &seen[2..] {
            let next = line.next.as_deref().unwrap();
            assert_eq!(
                next.contains(rule),
                !line.found.contains("no way"),
                "{line}"
            );
        }
        let coded = |code, text: &str| {
            let text = text.to_owned();
            Refusal::Ended(quic::Error::Coded { code, text })
        };
        for (refusal, says) in [
            (Refusal::Silent, "only packets of 1000 bytes pass"),
            (
                Refusal::WrongName("only x".into()),
                "not for the name hall.example: only x",
            ),
            (Refusal::UnknownAuthority, "another authority"),
            (Refusal::Expired("then".into()), "has ended"),
            (Refusal::NotYet("then".into()), "has not begun"),
            (
                coded(ErrorCode::REVOKED, "box is revoked"),
                "box is revoked",
            ),
            (
                coded(ErrorCode::UNKNOWN_BOX, "not in the roster"),
                "not in the roster",
            ),
        ] {
            let lines = met(Udp::Answered(MS), Some(Err(refusal)));
            let last = lines.last().unwrap();
            assert!(last.found.contains(says), "{last}");
            seen.push(last.clone());
        }
        for line in &seen {
            assert_eq!(line.verdict, Verdict::Wrong, "{line}");
            assert!(line.next.as_ref().is_some_and(|next| !next.is_empty()));
        }
    }

    #[test]
    fn a_receiver_that_lets_the_box_in_is_shown_with_its_figures() {
        let greeted = Greeted {
            handshake: MS * 30,
            rtt: MS * 12,
            payload: 1252,
            // Whatever the clock of the machine that tests says.
            ends: Some(i64::MAX / 2_000_000_000),
            welcome: None,
        };
        let ends = greeted.ends.unwrap_or_default();
        let soon = |now| judge_greeted(&greeted, "x", now).verdict;
        assert_eq!(soon(ends - SOON), Verdict::Ok);
        assert_eq!(soon(ends - SOON + 1), Verdict::Warn);
        let lines = met(Udp::Answered(MS * 11), Some(Ok(greeted)));
        assert!(
            lines.iter().all(|line| line.verdict == Verdict::Ok),
            "{lines:?}"
        );
        let found: Vec<&str> = lines.iter().map(|line| line.found.as_str()).collect();
        assert_eq!(found[0], "hall.example is 10.0.0.1");
        assert_eq!(found[1], "10.0.0.1:4433 answers after 11 ms");
        assert!(found[2].starts_with("packets of 1280 bytes pass"));
        let by_ipv6 = judge_payload(1232, "[2001:db8::1]:4433".parse().unwrap());
        assert!(by_ipv6.found.starts_with("packets of 1280 bytes pass"));
        assert!(found[3].contains("handshake 30 ms, round trip 12 ms"));
    }
}
