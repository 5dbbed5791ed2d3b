//! What is read as a key, and what is refused.

use onnx_unlearn::provenance::keys::{Curve, KeyError, PrivateKey, PublicKey};
use std::fs;

#[test]
fn a_new_key_signs_and_its_public_half_checks() {
    for curve in [Curve::P256, Curve::P384] {
        let folder = crate::common::temporary();
        let path = folder.path().join("k.pem");
        let public = PrivateKey::generate(curve).expect("a key").write(&path).expect("written");
        let (key, public) = (PrivateKey::read(&path).expect("read"), PublicKey::read(&public).expect("read"));
        let signature = key.sign(b"bytes");
        assert!(public.signed(b"bytes", &signature));
        assert!(!public.signed(b"bytez", &signature));
        assert_eq!(key.sign(b"bytes"), signature, "nonces of RFC 6979: the same signature again");
        let other = PrivateKey::generate(curve).expect("a key");
        assert!(!other.public().signed(b"bytes", &signature));
    }
}

#[cfg(unix)]
#[test]
fn a_private_key_is_for_its_owner_and_is_never_replaced() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = crate::common::temporary();
    let path = folder.path().join("k.pem");
    let key = PrivateKey::generate(Curve::P256).expect("a key");
    let public = key.write(&path).expect("written");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    let before = fs::read(&path).expect("read");
    assert!(matches!(key.write(&path), Err(KeyError::Exists { .. })));
    fs::remove_file(&public).expect("removed");
    assert!(matches!(PrivateKey::generate(Curve::P256).expect("a key").write(&path), Err(KeyError::Exists { .. })));
    assert_eq!(fs::read(&path).expect("read"), before);
}

#[test]
fn line_ends_of_a_public_key_do_not_count() {
    let folder = crate::common::temporary();
    let public = PrivateKey::generate(Curve::P256).expect("a key").public();
    let path = folder.path().join("k.pub");
    fs::write(&path, public.to_pem().replace('\n', "\r\n")).expect("written");
    assert_eq!(PublicKey::read(&path).expect("read").hint(), public.hint());
}

#[test]
fn the_wrong_half_of_a_key_is_named() {
    let folder = crate::common::temporary();
    let path = folder.path().join("k.pem");
    let public = PrivateKey::generate(Curve::P256).expect("a key").write(&path).expect("written");
    let error = PublicKey::read(&path).expect_err("a private key").to_string();
    assert!(error.contains("holds a private key") && error.contains("k.pem"), "{error}");
    let error = PrivateKey::read(&public).err().expect("a public key").to_string();
    assert!(error.contains("holds a public key"), "{error}");
}
