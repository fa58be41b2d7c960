//! Properties of every token: noise, one change of a valid token, and claims put together at random, compared with a
//! second implementation that does not read the token's text.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

static GOOD: LazyLock<String> = LazyLock::new(|| token_of(HEADER, &claims().to_string()));

/// A token has only one spelling: after any change, deletion, doubling or insertion of a character it is not valid.
#[test]
fn no_change_of_one_character_is_accepted() {
    let good = GOOD.as_str();
    assert!(judge(good).is_ok());
    let mut tried = 0_u32;
    let mut refused = |changed: String| {
        tried += 1;
        assert!(judge(&changed).is_err(), "{changed}");
    };
    for at in 0..good.len() {
        let (before, after) = (&good[..at], &good[at + 1..]);
        let byte = good.as_bytes()[at];
        // Every flip of one bit that leaves the text ASCII; the two-byte letter below covers the eighth bit.
        for bit in 0..7 {
            refused(format!("{before}{}{after}", char::from(byte ^ (1 << bit))));
        }
        refused(format!("{before}{after}"));
        refused(format!("{before}\u{e9}{after}"));
        refused(format!("{before}{0}{0}{after}", char::from(byte)));
        refused(format!("{before} {}{after}", char::from(byte)));
        refused(before.to_owned());
    }
    assert_eq!(tried as usize, 12 * good.len(), "twelve changes at each place");
}

/// A claim's text and its value.
#[derive(Debug, Clone, Copy)]
struct Spelt {
    text: &'static str,
    string: Option<&'static str>,
    integer: Option<i64>,
    number: Option<f64>,
}

const fn other(text: &'static str) -> Spelt {
    Spelt { text, string: None, integer: None, number: None }
}

const fn string(text: &'static str, value: &'static str) -> Spelt {
    Spelt { string: Some(value), ..other(text) }
}

const fn number(text: &'static str, value: f64) -> Spelt {
    Spelt { number: Some(value), ..other(text) }
}

const fn integer(text: &'static str, value: i64) -> Spelt {
    Spelt { integer: Some(value), ..number(text, value as f64) }
}

const PRODUCT: Spelt = string(r#""demohourly""#, "demohourly");
const NONCE: Spelt = string(r#""the-nonce""#, "the-nonce");
const VERSION: Spelt = integer("1", 1);

const VALUES: [Spelt; 20] = [
    PRODUCT,
    NONCE,
    VERSION,
    string(r#""demo\u0068ourly""#, "demohourly"),
    string(r#""the\u002dnonce""#, "the-nonce"),
    string(r#""Demohourly""#, "Demohourly"),
    string(r#""""#, ""),
    string(r#""1""#, "1"),
    integer("2", 2),
    integer("0", 0),
    number("1.0", 1.0),
    number("1e0", 1.0),
    integer("1795507200", NOW_S),
    integer("1795507501", NOW_S + 301),
    integer("1795506899", NOW_S - 301),
    other("null"),
    other("true"),
    other("false"),
    other(r#"["the-nonce"]"#),
    other(r#"{"nonce":"the-nonce"}"#),
];

/// A claim's name with its spelling, and its value.
type Claim = ((&'static str, &'static str), Spelt);

const fn plain(name: &'static str) -> (&'static str, &'static str) {
    (name, name)
}

const NAMES: [(&str, &str); 18] = [
    plain("productCode"),
    plain("nonce"),
    plain("publicKeyVersion"),
    plain("ProductCode"),
    plain("Nonce"),
    plain("PublicKeyVersion"),
    (r"\u0070roductCode", "productCode"),
    (r"n\u006fnce", "nonce"),
    (r"\u004eonce", "Nonce"),
    plain("PRODUCTCODE"),
    plain("publickeyversion"),
    plain("public_key_version"),
    plain("exp"),
    plain("nbf"),
    plain("iat"),
    plain("emulated"),
    plain("region"),
    plain(""),
];

/// One change of valid claims; positions are taken modulo the number of claims.
#[derive(Debug, Clone)]
enum Edit {
    Add(Index, usize, usize),
    Remove(Index),
    Rename(Index, usize),
    Revalue(Index, usize),
    Double(Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let (name, value) = (0..NAMES.len(), 0..VALUES.len());
    prop_oneof![
        4 => (any::<Index>(), name.clone(), value.clone()).prop_map(|(at, n, v)| Edit::Add(at, n, v)),
        1 => any::<Index>().prop_map(Edit::Remove),
        1 => (any::<Index>(), name).prop_map(|(at, n)| Edit::Rename(at, n)),
        3 => (any::<Index>(), value).prop_map(|(at, v)| Edit::Revalue(at, v)),
        1 => any::<Index>().prop_map(Edit::Double),
    ]
}

fn edited(casing: usize, edits: &[Edit]) -> Vec<Claim> {
    let name = |at: usize| NAMES[casing * 3 + at];
    let mut claims = vec![(name(0), PRODUCT), (name(1), NONCE), (name(2), VERSION)];
    for edit in edits {
        let length = claims.len();
        match edit {
            Edit::Add(at, n, v) => claims.insert(at.index(length + 1), (NAMES[*n], VALUES[*v])),
            _ if length == 0 => {}
            Edit::Remove(at) => drop(claims.remove(at.index(length))),
            Edit::Rename(at, n) => claims[at.index(length)].0 = NAMES[*n],
            Edit::Revalue(at, v) => claims[at.index(length)].1 = VALUES[*v],
            Edit::Double(at) => claims.push(claims[at.index(length)]),
        }
    }
    claims
}

/// The second implementation: the rule of the design for claims, applied to their values.
fn acceptable(claims: &[Claim]) -> bool {
    let value = |name: &str| claims.iter().find(|claim| claim.0.1 == name).map(|claim| claim.1);
    let names: BTreeSet<&str> = claims.iter().map(|claim| claim.0.1).collect();
    let ours =
        |name: &&str| ["productcode", "nonce", "publickeyversion"].contains(&&*name.to_ascii_lowercase());
    let asked: BTreeSet<&str> = names.iter().copied().filter(ours).collect();
    let answered =
        [["productCode", "nonce", "publicKeyVersion"], ["ProductCode", "Nonce", "PublicKeyVersion"]]
            .iter()
            .any(|[product, nonce, version]| {
                asked == BTreeSet::from([*product, *nonce, *version])
                    && value(product).unwrap().string == Some("demohourly")
                    && value(nonce).unwrap().string == Some("the-nonce")
                    && value(version).unwrap().integer == Some(1)
            });
    let now = NOW_S as f64;
    let time = |name: &str, holds: fn(f64, f64) -> bool| {
        value(name).is_none_or(|value| value.number.is_some_and(|at| holds(at, now)))
    };
    names.len() == claims.len()
        && answered
        && time("exp", |exp, now| exp >= now - 300.0)
        && time("nbf", |nbf, now| nbf <= now + 300.0)
        && time("iat", |_, _| true)
        && value("emulated").is_none_or(|value| value.text == "false")
}

fn payload_of(claims: &[Claim], space: &str) -> String {
    let members: Vec<String> = claims
        .iter()
        .map(|((spelling, _), value)| format!("{space}\"{spelling}\"{space}:{space}{}{space}", value.text))
        .collect();
    format!("{space}{{{}}}{space}", members.join(","))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// For valid claims with some changes, the verdict is the second implementation's, and accepted claims are shown
    /// unchanged.
    #[test]
    fn claims_are_judged_as_the_design_says(
        casing in 0..2_usize,
        edits in prop::collection::vec(edit(), 0..4),
        space in select(&["", " ", "\n\t\r "][..]),
    ) {
        let claims = edited(casing, &edits);
        let payload = payload_of(&claims, space);
        match judge(&token_of(HEADER, &payload)) {
            Ok(receipt) => {
                prop_assert!(acceptable(&claims), "accepted: {payload}");
                prop_assert_eq!(receipt.claims_json(), payload);
            }
            Err(error) => prop_assert!(!acceptable(&claims), "refused as {error:?}: {payload}"),
        }
    }
}

/// The property above is only meaningful if a fair part of its claims is valid and a fair part is not.
#[test]
fn the_edits_make_good_claims_and_bad_ones() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let edits = prop::collection::vec(edit(), 0..4);
    let good =
        (0..2000).filter(|_| acceptable(&edited(0, &edits.new_tree(&mut runner).unwrap().current()))).count();
    assert!((400..1600).contains(&good), "{good} of 2000");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any bytes give an error, never a panic or a receipt.
    #[test]
    fn noise_is_refused(token in prop_oneof![".{0,200}", "[.A-Za-z0-9_=+/ \n-]{0,9000}"]) {
        prop_assert!(judge(&token).is_err());
    }

    #[test]
    fn noise_in_three_parts_is_refused(
        header in prop::collection::vec(any::<u8>(), 0..60),
        payload in prop::collection::vec(any::<u8>(), 0..200),
        signature in prop::collection::vec(any::<u8>(), 384),
    ) {
        let token = format!("{}.{}.{}", encode(header), encode(payload), encode(signature));
        prop_assert!(judge(&token).is_err());
    }

    /// A random signature of a valid header and payload.
    #[test]
    fn a_signature_of_noise_is_refused(signature in prop::collection::vec(any::<u8>(), 384)) {
        let message = GOOD.rsplit_once('.').unwrap().0;
        prop_assert_eq!(refusal(&format!("{message}.{}", encode(signature))), VerifyError::SignatureInvalid);
    }

    /// Random bytes as header and payload, signed by the seller's key: an error, never a panic.
    #[test]
    fn signed_noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 1..200), text in ".{1,100}") {
        for noise in [&bytes[..], text.as_bytes()] {
            for (header, payload) in [(HEADER.as_bytes(), noise), (noise, claims().to_string().as_bytes())] {
                let message = format!("{}.{}", encode(header), encode(payload));
                let signature = sign_with(&SIGNER, &RSA_PSS_SHA256, message.as_bytes());
                let refused = refusal(&format!("{message}.{}", encode(signature)));
                prop_assert!(matches!(
                    refused,
                    VerifyError::HeaderInvalid
                        | VerifyError::AlgorithmNotAllowed
                        | VerifyError::PayloadInvalid
                        | VerifyError::ClaimMissing
                ), "{refused:?}");
            }
        }
    }

    /// A token is valid with every nonce and product code that AWS's patterns allow.
    #[test]
    fn every_nonce_comes_back(nonce in "\\PC{1,100}", product in "[-a-zA-Z0-9/=:_.@]{1,80}") {
        let payload = json!({"productCode": product, "nonce": nonce, "publicKeyVersion": 1}).to_string();
        let token = token_of(HEADER, &payload);
        let (product_code, nonce) = (product.parse().unwrap(), nonce.parse().unwrap());
        let expected = Expected {
            product_code: &product_code,
            public_key_version: PublicKeyVersion::FIRST,
            nonce: &nonce,
            now: now(),
            allow_emulated: false,
        };
        let receipt = verify(&token, &KEY, &expected).unwrap();
        prop_assert_eq!(receipt.token(), &token);
        prop_assert_eq!(receipt.nonce(), &nonce);
        prop_assert_eq!(receipt.product_code(), &product_code);
        let doubled = format!("{}{}", nonce.as_str(), nonce.as_str()).parse();
        if let Ok(another) = doubled {
            let replayed = verify(&token, &KEY, &Expected { nonce: &another, ..expected });
            prop_assert_eq!(replayed.map(|_| ()), Err(VerifyError::NonceMismatch));
        }
    }
}
