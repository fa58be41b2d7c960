//! The vocabulary of AWS Marketplace metering: newtypes for what crosses a border, the service as each of its users
//! sees it ([`service`]), and the classes that its faults fall into.
//!
//! - Names are AWS's own (`ProductCode`, `PublicKeyVersion`, `Nonce`); limits come from the service model
//!   `meteringmarketplace/2016-01-14`.
//! - A value of these types is valid: the constructor parses, there are no setters.
//! - Nothing here knows the AWS SDK; `tollgate-aws` alone translates.

pub mod allocation;
pub mod customer;
pub mod exceptions;
pub mod fault;
pub mod hour;
pub mod license;
pub mod operation;
pub mod quantity;
mod regions;
pub mod schedule;
#[cfg(feature = "testing")]
pub mod scripted;
pub mod service;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use allocation::{Allocation, TagSet};
pub use customer::Customer;
pub use hour::Hour;
pub use license::{KeyFingerprint, ProductId};
pub use operation::{
    BatchMeterUsage, BatchMetered, Forwarded, HourUsage, Identified, MeterUsage, Metered, RecordStatus,
    RegisterUsage, Registered, ResolvedCustomer, Signing, UsageRecord,
};
pub use quantity::Quantity;
pub use service::{Forward, License, Meter, Regional, Register, Resolve};
pub use tollgate_receipt::{
    Invalid, NONCE_BYTES, NONCE_CHARS_MAX, Nonce, PRODUCT_CODE_CHARS_MAX, ProductCode, PublicKeyVersion,
};

/// Clocks of machines differ by so much. A time that is further ahead comes from a clock that is wrong.
pub const AHEAD_MAX: Duration = Duration::from_secs(300);

/// Longest name of a usage dimension (service model, `UsageDimension`).
pub const DIMENSION_CHARS_MAX: usize = 255;

/// AWS Marketplace allows a product at most so many dimensions.
pub const DIMENSIONS_MAX: usize = 200;

/// An AWS region name such as `eu-central-1`: an area of the world, a direction and a number.
///
/// A region of tomorrow is accepted where AWS's partitions foresee it ("ap-southeast-9"); a misspelled one is not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Region(String);

/// What names begin with in each of AWS's partitions, as its SDKs publish them.
const REGION_AREAS: [&str; 16] = [
    "af", "ap", "ca", "cn", "eu", "eu-isoe", "eusc-de", "il", "me", "mx", "sa", "us", "us-gov", "us-iso",
    "us-isob", "us-isof",
];

const REGION_DIRECTIONS: [&str; 9] =
    ["central", "east", "north", "northeast", "northwest", "south", "southeast", "southwest", "west"];

impl Region {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Region {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let parts = text.rsplit_once('-').and_then(|(rest, number)| {
            let (area, direction) = rest.rsplit_once('-')?;
            Some((area, direction, number))
        });
        let exists = parts.is_some_and(|(area, direction, number)| {
            // No direction of an area has more than seven regions so far, and some may be still to come.
            REGION_AREAS.contains(&area)
                && REGION_DIRECTIONS.contains(&direction)
                && matches!(number.as_bytes(), [b'1'..=b'9'] | [b'1', b'0'..=b'9'])
        });
        if exists {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid("is not the name of an AWS region, such as us-east-1"))
        }
    }
}

impl TryFrom<String> for Region {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Largest file with a token for credentials: a projected one has some kilobytes.
pub const CREDENTIAL_FILE_BYTES_MAX: usize = 64 * 1024;

/// Who must act on a fault, which decides the state, the answer of the probes and when AWS is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultClass {
    /// AWS says that the buyer is not entitled: the buyer's operator subscribes.
    Denied,
    /// AWS rejects what was asked: the seller or the operator corrects the product, key version, region or platform.
    Misconfigured,
    /// AWS does not accept who asks, or there is nothing to ask with: the operator corrects role, credentials, clock.
    Access,
    /// The session token ran out: reload the credentials and ask at once.
    ExpiredSession,
    /// AWS or the network could not answer: no action needed, retries continue.
    Transient,
}

/// What failed, where the pod asks several on its way to an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The metering service.
    Metering,
    /// License Manager.
    LicenseManager,
    /// STS, which gives credentials for a web identity token.
    Sts,
    /// The endpoint in the container that hands out credentials: the ECS agent, or EKS Pod Identity's.
    Container,
    /// The instance metadata service.
    Imds,
    /// The ECS task metadata endpoint.
    TaskMetadata,
    /// The proxy on the way.
    Proxy,
}

/// A call that brought no usable answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Who must act.
    pub class: FaultClass,
    /// AWS's exception name, or ours where AWS did not answer (`Timeout`, `Dns`, …); the key of `reason.code`.
    pub code: FaultCode,
    /// AWS's clock less ours in seconds, from the answer's `Date`, where there was one.
    pub clock_offset_seconds: Option<i64>,
    /// The answer carried the emulator's mark.
    pub emulated: bool,
    /// There was no connection yet, or no credentials: the call certainly did not reach AWS.
    pub never_sent: bool,
    /// What failed.
    pub place: Place,
    /// Host and port of what failed, where it has a name; never a user or a password.
    pub host: Option<String>,
    /// What was seen, for the debug log only: it may hold account numbers and role names, never a secret.
    pub detail: String,
    /// The same in a few words that everybody may read (a status, a host, what the system says), shown behind the
    /// message; empty where there is nothing to add.
    pub seen: String,
}

impl Fault {
    /// A fault that no HTTP answer came with.
    #[must_use]
    pub fn local(class: FaultClass, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            class,
            code: FaultCode::known(code),
            clock_offset_seconds: None,
            emulated: false,
            never_sent: false,
            place: Place::Metering,
            host: None,
            detail: detail.into(),
            seen: String::new(),
        }
    }

    /// The same, with what was seen.
    #[must_use]
    pub fn seeing(self, seen: impl Into<String>) -> Self {
        Self { seen: seen.into(), ..self }
    }

    /// The same, with what failed.
    #[must_use]
    pub fn at(self, place: Place, host: Option<String>) -> Self {
        Self { place, host, ..self }
    }

    /// The same, for a call that certainly did not reach AWS.
    #[must_use]
    pub fn unsent(self) -> Self {
        Self { never_sent: true, ..self }
    }

    /// Whether our clock is so far from AWS's that AWS refuses our signatures.
    #[must_use]
    pub fn clock_is_off(&self) -> bool {
        self.class == FaultClass::Access
            && self
                .clock_offset_seconds
                .is_some_and(|offset| offset.unsigned_abs() >= CLOCK_OFFSET_SECONDS_MIN)
    }
}

/// Offsets below this cannot be why AWS rejects a signature (it accepts 5 minutes), less a margin for slow answers.
const CLOCK_OFFSET_SECONDS_MIN: u64 = 240;

/// The name of a fault: an AWS exception's, or one of ours. At most 64 letters and digits, so that it can stand in a
/// label, a log line and a URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct FaultCode(std::borrow::Cow<'static, str>);

/// Longest fault code kept; AWS's longest exception name here has 34 characters.
pub const FAULT_CODE_CHARS_MAX: usize = 64;

impl FaultCode {
    /// A name from our own source.
    #[must_use]
    pub const fn known(code: &'static str) -> Self {
        Self(std::borrow::Cow::Borrowed(code))
    }

    /// A name from the wire; anything that is not a plain identifier becomes `UnknownError`.
    #[must_use]
    pub fn from_wire(code: &str) -> Self {
        // AWS JSON 1.1 may prefix the namespace ("ns#Name") and suffix a URI ("Name:http://…"), which may hold a `#`.
        let code = code.split(':').next().unwrap_or(code);
        let code = code.rsplit('#').next().unwrap_or(code);
        let plain = !code.is_empty()
            && code.len() <= FAULT_CODE_CHARS_MAX
            && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
        if plain { Self(code.to_owned().into()) } else { Self::known("UnknownError") }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FaultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions() {
        // All that AWS lists for its metering service, one of each other partition, and one that is still to come.
        let listed = "af-south-1 ap-east-1 ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-south-1 ap-south-2 \
                      ap-southeast-1 ap-southeast-4 ca-central-1 eu-central-1 eu-north-1 eu-south-2 eu-west-3 \
                      il-central-1 me-central-1 me-south-1 mx-central-1 sa-east-1 us-east-1 us-west-2 us-gov-east-1 \
                      us-gov-west-1 us-isob-east-1 us-iso-east-1 us-isof-south-1 eu-isoe-west-1 cn-northwest-1 \
                      eusc-de-east-1 ap-southeast-12";
        for good in listed.split(' ') {
            assert!(good.parse::<Region>().is_ok(), "{good}");
        }
        let bad = [
            "",
            "us",
            "useast1",
            "US-EAST-1",
            "us-east-",
            "us-east-1 ",
            "us--1",
            "evil.example/x-a-1",
            "us-esat-1",
            "su-east-1",
            "mars-north-1",
            "us-east-1a",
            "us-east-0",
            "us-east-123",
            "gov-west-1",
        ];
        for bad in bad {
            assert!(bad.parse::<Region>().is_err(), "{bad}");
        }
    }

    #[test]
    fn fault_codes_from_the_wire_are_plain_identifiers() {
        let code = |text: &str| FaultCode::from_wire(text).as_str().to_owned();
        assert_eq!(code("com.amazonaws.x#ThrottlingException"), "ThrottlingException");
        assert_eq!(code("ThrottlingException:http://internal.amazon.com/"), "ThrottlingException");
        assert_eq!(code("ns#ThrottlingException:http://internal.amazon.com/#top"), "ThrottlingException");
        assert_eq!(code("<html>"), "UnknownError");
        assert_eq!(code(&"x".repeat(65)), "UnknownError");
    }
}
