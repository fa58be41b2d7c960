//! Every wrong file that may be given as a key, and the limits of the right ones.

use super::*;

const GOOD: &str = include_str!("../../../../tests/fixtures/keys/rsa3072-test-only.pub.pem");
const PRIVATE: &str = include_str!("../../../../tests/fixtures/keys/rsa3072-test-only.pem");
const CERTIFICATE: &str = include_str!("../../../../tests/fixtures/tls/ca.pem");
const PKCS1: &str = include_str!("../../../../tests/fixtures/keys/pkcs1-test-only.pub.pem");

fn error(pem: &str) -> KeyError {
    PublicKey::from_pem(pem.as_bytes()).unwrap_err()
}

#[test]
fn the_sellers_key_is_read() {
    assert_eq!(PublicKey::from_pem(GOOD.as_bytes()).unwrap().modulus_bits(), 3072);
    for (name, pem) in [
        ("a checkout on Windows", GOOD.replace('\n', "\r\n")),
        ("a comment", format!("the key of the demo product, not its PRIVATE KEY\n\n{GOOD}\n")),
        ("no line end", GOOD.trim_end().to_owned()),
        ("base64 in one line", {
            let (_, rest) = GOOD.split_once('\n').unwrap();
            let (body, _) = rest.split_once("-----END").unwrap();
            let body = body.replace('\n', "");
            format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
        }),
    ] {
        assert_eq!(PublicKey::from_pem(pem.as_bytes()).unwrap().modulus_bits(), 3072, "{name}");
    }
}

#[test]
fn each_wrong_file_is_told_what_it_is() {
    for (name, pem, expected) in [
        ("empty", String::new(), KeyError::NotPem),
        ("an SSH key", "ssh-rsa AAAA user@host".into(), KeyError::NotPem),
        ("base64 alone", GOOD.lines().nth(1).unwrap().to_owned(), KeyError::NotPem),
        ("a web page", "<html><body>Sign in</body></html>".into(), KeyError::NotPem),
        ("the key twice", GOOD.repeat(2), KeyError::SeveralBlocks),
        ("the key after another form of it", format!("{PKCS1}{GOOD}"), KeyError::SeveralBlocks),
        ("the key before another form of it", format!("{GOOD}{PKCS1}"), KeyError::SeveralBlocks),
        ("the key and a certificate", format!("{GOOD}{CERTIFICATE}"), KeyError::SeveralBlocks),
        ("no base64", GOOD.replacen("MII", "MI!", 1), KeyError::Damaged),
        ("half of it", GOOD[..GOOD.len() / 2].to_owned(), KeyError::Damaged),
        ("no end", GOOD.replace("-----END PUBLIC KEY-----", ""), KeyError::Damaged),
        ("another end", GOOD.replace("END PUBLIC", "END RSA PUBLIC"), KeyError::Damaged),
        ("indented", GOOD.lines().map(|line| format!("  {line}\n")).collect(), KeyError::Damaged),
        ("no DER", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".into(), KeyError::Damaged),
        ("nothing in it", "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n".into(), KeyError::Damaged),
        ("the begin line alone", "-----BEGIN ".into(), KeyError::OtherBlock),
        ("a certificate", CERTIFICATE.into(), KeyError::Certificate),
        ("PKCS#1", PKCS1.into(), KeyError::Pkcs1),
        ("a request", GOOD.replace("PUBLIC KEY", "CERTIFICATE REQUEST"), KeyError::OtherBlock),
        (
            "an elliptic curve",
            include_str!("../../../../tests/fixtures/keys/ec-test-only.pub.pem").into(),
            KeyError::NotRsa,
        ),
        (
            "RSA for PSS only",
            include_str!("../../../../tests/fixtures/keys/rsa-pss-test-only.pub.pem").into(),
            KeyError::NotRsa,
        ),
        (
            "RSA-1024",
            include_str!("../../../../tests/fixtures/keys/rsa1024-test-only.pub.pem").into(),
            KeyError::Size(1024),
        ),
    ] {
        assert_eq!(error(&pem), expected, "{name}");
    }
    assert_eq!(PublicKey::from_pem(&[0x30, 0x82, 0xff, 0xfe]).unwrap_err(), KeyError::NotPem, "DER");
}

#[test]
fn a_private_key_is_called_one_whatever_else_is_wrong() {
    for (name, pem) in [
        ("PKCS#8", PRIVATE.to_owned()),
        ("PKCS#1", PRIVATE.replace("PRIVATE KEY", "RSA PRIVATE KEY")),
        ("encrypted", PRIVATE.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY")),
        ("OpenSSH's", PRIVATE.replace("PRIVATE KEY", "OPENSSH PRIVATE KEY")),
        ("Ed25519", include_str!("../../../../tests/fixtures/keys/ed25519-test-only.pem").to_owned()),
        ("cut off", PRIVATE[..200].to_owned()),
        ("cut off at the front", PRIVATE[200..].to_owned()),
        ("behind the public key", format!("{GOOD}{PRIVATE}")),
        ("before the public key", format!("{PRIVATE}{GOOD}")),
    ] {
        assert_eq!(error(&pem), KeyError::PrivateKey, "{name}");
    }
}

#[test]
fn each_error_says_what_to_do_and_shows_nothing_of_the_file() {
    let all = [
        KeyError::NotPem,
        KeyError::Damaged,
        KeyError::SeveralBlocks,
        KeyError::PrivateKey,
        KeyError::Certificate,
        KeyError::Pkcs1,
        KeyError::OtherBlock,
        KeyError::NotRsa,
        KeyError::Size(1024),
        KeyError::Exponent,
    ];
    let texts: std::collections::BTreeSet<_> = all.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), all.len(), "each is told apart");
    for text in texts {
        let (_, step) = text.split_once(';').unwrap_or_default();
        assert!(!step.is_empty() && !text.ends_with('.') && !text.contains('\n'), "{text}");
    }
    let key = PublicKey::from_pem(GOOD.as_bytes()).unwrap();
    assert_eq!(format!("{key:?}"), "PublicKey(RSA, 3072 bits)");
}

/// One DER element, of up to 65,535 octets.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut element = vec![tag];
    match length {
        0..=0x7f => element.push(length as u8),
        0x80..=0xff => element.extend([0x81, length as u8]),
        _ => element.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    element.extend(content);
    element
}

fn integer(unsigned: &[u8]) -> Vec<u8> {
    let sign: &[u8] = if unsigned[0] >= 0x80 { &[0] } else { &[] };
    der(INTEGER, &[sign, unsigned].concat())
}

fn spki_of(parameters: &[u8], rsa: &[u8]) -> Vec<u8> {
    let algorithm = der(SEQUENCE, &[&der(OBJECT_IDENTIFIER, RSA_ENCRYPTION), parameters].concat());
    der(SEQUENCE, &[algorithm, der(BIT_STRING, &[&[0], rsa].concat())].concat())
}

fn spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    spki_of(NULL, &der(SEQUENCE, &[integer(modulus), integer(exponent)].concat()))
}

/// An odd number of that many bits.
fn modulus(bits: usize) -> Vec<u8> {
    let mut octets = vec![0xff; bits.div_ceil(8)];
    octets[0] >>= (8 - bits % 8) % 8;
    octets
}

const F4: &[u8] = &[1, 0, 1];

#[test]
fn the_modulus_has_2048_to_8192_bits() {
    for (bits, fits) in
        [(512, false), (2040, false), (2047, false), (2048, true), (2049, true), (8192, true), (8193, false)]
    {
        let expected = if fits { Ok(bits) } else { Err(KeyError::Size(bits)) };
        assert_eq!(PublicKey::from_spki(&spki(&modulus(bits), F4)).map(|key| key.modulus_bits()), expected);
    }
    let mut even = modulus(3072);
    even[383] = 0xfe;
    assert_eq!(PublicKey::from_spki(&spki(&even, F4)).unwrap_err(), KeyError::Damaged);
}

#[test]
fn the_exponent_is_odd_and_of_3_to_33_bits_worth() {
    let modulus = modulus(2048);
    for good in [&[3][..], &[17], F4, &[0xff, 0xff, 0xff, 0xff], &[1, 0xff, 0xff, 0xff, 0xff]] {
        assert!(PublicKey::from_spki(&spki(&modulus, good)).is_ok(), "{good:x?}");
    }
    for bad in [&[1][..], &[2], &[4], &[1, 0, 0], &[2, 0, 0, 0, 1], &[1, 0, 0, 0, 0, 1], &modulus] {
        assert_eq!(PublicKey::from_spki(&spki(&modulus, bad)).unwrap_err(), KeyError::Exponent, "{bad:x?}");
    }
}

#[test]
fn der_has_one_spelling() {
    let n = integer(&modulus(2048));
    let e = integer(F4);
    let rsa = der(SEQUENCE, &[&n[..], &e].concat());
    assert!(PublicKey::from_spki(&spki_of(NULL, &rsa)).is_ok());
    assert!(PublicKey::from_spki(&spki_of(&[], &rsa)).is_ok(), "absent parameters are a known slip");
    let padded = [&[INTEGER, 0x82, 0x01, 0x02, 0, 0][..], &modulus(2048)].concat();
    let negative = der(INTEGER, &modulus(2048));
    for (name, der) in [
        ("other parameters", spki_of(&der(0x04, b"x"), &rsa)),
        ("a third number", spki_of(NULL, &der(SEQUENCE, &[&n[..], &e, &e].concat()))),
        ("one number", spki_of(NULL, &der(SEQUENCE, &n))),
        ("a padded number", spki_of(NULL, &der(SEQUENCE, &[&padded[..], &e].concat()))),
        ("a negative number", spki_of(NULL, &der(SEQUENCE, &[&negative[..], &e].concat()))),
        ("an exponent of zero", spki_of(NULL, &der(SEQUENCE, &[&n[..], &der(INTEGER, &[0])].concat()))),
        ("an empty exponent", spki_of(NULL, &der(SEQUENCE, &[&n[..], &der(INTEGER, &[])].concat()))),
        ("something behind the key", spki_of(NULL, &[&rsa[..], &[0]].concat())),
        ("something behind it all", [&spki_of(NULL, &rsa)[..], &[0]].concat()),
        ("an indefinite length", [&[SEQUENCE, 0x80][..], &spki_of(NULL, &rsa)[4..], &[0, 0]].concat()),
    ] {
        assert_eq!(PublicKey::from_spki(&der).unwrap_err(), KeyError::Damaged, "{name}");
    }
    let mut unused_bits = spki_of(NULL, &rsa);
    let at = unused_bits.windows(2).position(|pair| pair == [0, SEQUENCE]).unwrap();
    unused_bits[at] = 1;
    assert_eq!(PublicKey::from_spki(&unused_bits).unwrap_err(), KeyError::Damaged);
}

#[test]
fn no_prefix_of_the_der_is_a_key() {
    let der = pem::from_buf(&mut GOOD.as_bytes()).unwrap().unwrap().1;
    assert!(PublicKey::from_spki(&der).is_ok());
    for end in 0..der.len() {
        assert!(PublicKey::from_spki(&der[..end]).is_err(), "{end}");
    }
}

#[test]
fn a_ring_gives_each_version_its_key() {
    let key = PublicKey::from_pem(GOOD.as_bytes()).unwrap();
    let version = |n| PublicKeyVersion::try_new(n).unwrap();
    let mut ring = KeyRing::default();
    assert!(ring.is_empty());
    for n in [10, 2, 9] {
        ring.insert(version(n), key.clone());
    }
    assert_eq!(ring.versions().collect::<Vec<_>>(), [version(2), version(9), version(10)], "by number");
    assert!(ring.get(version(9)).is_some() && ring.get(version(3)).is_none());
}
