//! Identities made, moved, enrolled and damaged.

use super::*;
use rcgen::{CertificateSigningRequestParams, IsCa, Issuer};
use std::os::unix::fs::{PermissionsExt, chown};

fn sign(request: &str, organisation: &str) -> String {
    let authority_key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, organisation);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(params, authority_key);
    let request = CertificateSigningRequestParams::from_pem(request).unwrap();
    format!(
        "{}{}",
        request.signed_by(&issuer).unwrap().pem(),
        authority.pem()
    )
}

#[test]
fn an_identity_is_made_once_and_only_its_owner_reads_it() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("state");
    let first = Identity::open(&directory).unwrap();
    let second = Identity::open(&directory).unwrap();
    assert_eq!(first.box_id(), second.box_id());
    assert_eq!(first.key.serialize_der(), second.key.serialize_der());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory.join(KEY)), 0o600);
    assert_eq!(mode(&directory), 0o700);
    let other = Identity::open(&home.path().join("other")).unwrap();
    assert_ne!(first.box_id(), other.box_id());
}

#[test]
fn what_root_writes_is_of_the_user_whose_directory_it_is() {
    if !geteuid().is_root() {
        return println!("left out: only root writes for another user");
    }
    let home = tempfile::tempdir().unwrap();
    chown(home.path(), Some(4242), Some(4243)).unwrap();
    let identity = Identity::open(home.path()).unwrap();
    let request = identity.certificate_request(None).unwrap();
    identity.install(&sign(&request, "A university")).unwrap();
    identity.raise_epoch().unwrap();
    for name in [ID, KEY, CERTIFICATE, EPOCH] {
        let about = fs::metadata(home.path().join(name)).unwrap();
        assert_eq!((about.uid(), about.gid()), (4242, 4243), "{name}");
    }
    // Not by way of a link to what the user may not have.
    let secret = home.path().join("secret");
    fs::write(&secret, "root's").unwrap();
    std::os::unix::fs::symlink(&secret, home.path().join("box.pem.new")).unwrap();
    assert!(identity.install(&sign(&request, "A university")).is_err());
    assert_eq!(fs::metadata(&secret).unwrap().uid(), 0);
}

#[test]
fn a_copied_card_is_a_new_box_only_while_nothing_depends_on_the_old_one() {
    let home = tempfile::tempdir().unwrap();
    let open = |serial, is_unused| {
        let machine = Machine {
            serial: Some(serial),
            is_unused,
        };
        Identity::open_on(home.path(), machine).unwrap()
    };
    let first = open("A", true);
    assert_eq!(
        (first.made_on(), open("A", true).box_id()),
        (None, first.box_id())
    );
    // A machine that tells no serial number is no other machine.
    assert_eq!(
        Identity::open(home.path()).unwrap().box_id(),
        first.box_id()
    );

    let recorded = open("B", false);
    assert_eq!(
        (recorded.made_on(), recorded.box_id()),
        (Some("A"), first.box_id())
    );
    let copied = open("B", true);
    assert_eq!(copied.made_on(), None);
    assert_ne!(copied.box_id(), first.box_id());
    assert_ne!(copied.key.serialize_der(), first.key.serialize_der());

    let request = copied.certificate_request(None).unwrap();
    copied.install(&sign(&request, "A university")).unwrap();
    let moved = open("C", true);
    assert_eq!(
        (moved.made_on(), moved.box_id()),
        (Some("B"), copied.box_id())
    );
    moved.install(&sign(&request, "A university")).unwrap();
    assert_eq!(open("C", true).made_on(), None);
}

#[test]
fn a_file_that_exists_is_not_replaced_by_a_new_identity() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(KEY);
    fs::write(&path, "something").unwrap();
    assert!(write(&path, "new", Existing::Keep).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "something");
    assert!(matches!(
        Identity::open(home.path()),
        Err(Error::Damaged { .. })
    ));
    assert_eq!(fs::read_to_string(&path).unwrap(), "something");
}

#[test]
fn a_start_that_was_cut_short_leaves_no_half_file_in_the_way() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("box.key.new"), "half").unwrap();
    fs::write(home.path().join("epoch.new"), "half of a far longer one\n").unwrap();
    let identity = Identity::open(home.path()).unwrap();
    assert!(identity.raise_epoch().unwrap() >= STEP);
}

#[test]
fn raising_the_epoch_takes_no_room_after_the_first_time() {
    let home = tempfile::tempdir().unwrap();
    let identity = Identity::open(home.path()).unwrap();
    let files = || {
        ["epoch", "epoch.new"].map(|name| {
            let about = fs::metadata(home.path().join(name)).unwrap();
            (about.ino(), about.blocks())
        })
    };
    let mut last = identity.raise_epoch().unwrap();
    let [one, other] = files();
    for _ in 0..2 {
        let before = files();
        let next = identity.raise_epoch().unwrap();
        assert!(next > last);
        last = next;
        assert_eq!(files(), [before[1], before[0]], "they change names");
    }
    assert_eq!(files(), [one, other]);
}

#[test]
fn each_start_has_a_larger_epoch_and_no_copy_has_the_same() {
    let (home, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let raise = |home: &Path| Identity::open(home).unwrap().raise_epoch().unwrap();
    let first = raise(home.path());
    fs::copy(home.path().join(EPOCH), copy.path().join(EPOCH)).unwrap();
    let epochs = [first, raise(home.path()), raise(home.path())];
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
    assert_ne!(raise(copy.path()), epochs[1]);
    fs::write(home.path().join(EPOCH), "many").unwrap();
    let identity = Identity::open(home.path()).unwrap();
    assert!(matches!(identity.raise_epoch(), Err(Error::Damaged { .. })));
}

#[test]
fn an_epoch_goes_past_the_one_that_a_receiver_holds_and_never_runs_out() {
    let home = tempfile::tempdir().unwrap();
    let identity = Identity::open(home.path()).unwrap();
    let first = identity.raise_epoch().unwrap();
    let held = first + 41 * STEP;
    let past = identity.raise_epoch_past(held).unwrap();
    assert!(past > held);
    let next = identity.raise_epoch_past(7).unwrap();
    assert!(next > past);
    assert!(matches!(
        identity.raise_epoch_past(u64::MAX),
        Err(Error::Epoch(u64::MAX))
    ));
    let restarted = Identity::open(home.path()).unwrap();
    assert!(restarted.raise_epoch().unwrap() > next, "on the disk");
}

#[test]
fn a_time_heard_is_remembered_and_never_keeps_its_receiver_out() {
    let home = tempfile::tempdir().unwrap();
    let identity = Identity::open(home.path()).unwrap();
    let request = identity.certificate_request(None).unwrap();
    identity.install(&sign(&request, "A university")).unwrap();
    let made = identity.credentials().unwrap().passed;
    let (told, end) = (made + 2_000_000_000, made + 3_000_000_000);
    let heard = |seconds| identity.heard(seconds, end)().unwrap();
    let passed = || identity.credentials().unwrap().passed;
    for (heard_now, believed) in [
        (told, told),
        (told + 60, told), // much the same: not worth a write
        (made, told),
        (end + 1, told), // believed, the certificate would have ended
        (told + HEARD_EVERY, told + HEARD_EVERY),
    ] {
        heard(heard_now);
        assert_eq!(passed(), believed, "{heard_now}");
    }
    // A power cut while it was written, or a hand that edited it: as if nothing was heard.
    fs::write(home.path().join(HEARD), "soon").unwrap();
    assert_eq!(passed(), made);
}

#[test]
fn a_certificate_for_this_key_is_installed_and_no_other() {
    let home = tempfile::tempdir().unwrap();
    let identity = Identity::open(home.path()).unwrap();
    assert!(matches!(identity.credentials(), Err(Error::NotEnrolled(_))));
    let request = identity.certificate_request(None).unwrap();
    for (organisation, development) in [(DEVELOPMENT_CA, true), ("A university", false)] {
        identity.install(&sign(&request, organisation)).unwrap();
        assert_eq!(identity.credentials().unwrap().development, development);
    }
    let other = Identity::open(&home.path().join("other")).unwrap();
    let foreign = sign(&other.certificate_request(None).unwrap(), "A university");
    assert!(matches!(identity.install(&foreign), Err(Error::Refused(_))));
    assert!(matches!(
        identity.install("nonsense"),
        Err(Error::Refused(_))
    ));
    assert!(identity.credentials().is_ok());
}

#[test]
fn a_lost_key_is_not_made_anew_beside_its_certificate() {
    let home = tempfile::tempdir().unwrap();
    let identity = Identity::open(home.path()).unwrap();
    let request = identity.certificate_request(None).unwrap();
    identity.install(&sign(&request, "A university")).unwrap();
    fs::remove_file(home.path().join(KEY)).unwrap();
    assert!(matches!(
        Identity::open(home.path()),
        Err(Error::Damaged { .. })
    ));
}
