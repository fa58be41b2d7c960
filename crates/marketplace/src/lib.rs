//! The vocabulary of AWS Marketplace metering: newtypes for values from outside, the services as each of their users
//! sees them ([`service`]), and the classes of their faults.
//!
//! - Names are AWS's own (`ProductCode`, `PublicKeyVersion`, `Nonce`); limits come from the service model
//!   `meteringmarketplace/2016-01-14`.
//! - Values of these types are valid: constructors parse, and there are no setters.
//! - Nothing here uses the AWS SDK; only `tollgate-aws` does.

pub mod allocation;
pub mod customer;
pub mod entitlements;
pub mod exceptions;
pub mod fault;
pub mod hour;
pub mod license;
pub mod lifecycle;
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
pub use quantity::{Amount, Quantity};
pub use service::{Forward, License, Meter, Regional, Register, Resolve};
pub use tollgate_receipt::{
    Invalid, NONCE_BYTES, NONCE_CHARS_MAX, Nonce, PRODUCT_CODE_CHARS_MAX, ProductCode, PublicKeyVersion,
};

/// How far the clocks of machines may differ. A time that is further ahead comes from a wrong clock.
pub const AHEAD_MAX: Duration = Duration::from_secs(300);

/// Longest name of a usage dimension (service model, `UsageDimension`).
pub const DIMENSION_CHARS_MAX: usize = 255;

/// The most dimensions that AWS Marketplace allows a product.
pub const DIMENSIONS_MAX: usize = 200;

/// An AWS region name such as `eu-central-1`: an area of the world, a direction and a number.
///
/// A future region is accepted if it fits the names of AWS's partitions ("ap-southeast-9"); a misspelled one is not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Region(String);

/// The first parts of region names in each of AWS's partitions, as its SDKs publish them.
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
            // So far no direction of an area has more than seven regions; this leaves space for more.
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

/// Largest file with a token for credentials; a projected token has some kilobytes.
pub const CREDENTIAL_FILE_BYTES_MAX: usize = 64 * 1024;

/// Who must act on a fault. The class decides the state, the answers of the probe server, and the time of the next
/// attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultClass {
    /// AWS says that the buyer is not entitled: the buyer must subscribe.
    Denied,
    /// AWS rejects the request: the seller or the operator must correct the product, key version, region or platform.
    Misconfigured,
    /// AWS does not accept the caller, or there are no credentials: the operator must correct role, credentials or
    /// clock.
    Access,
    /// The session token has expired: reload the credentials and try again at once.
    ExpiredSession,
    /// AWS or the network failed: no action is needed, retries continue.
    Transient,
}

/// What failed: an attempt may need several services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The metering service.
    Metering,
    /// License Manager.
    LicenseManager,
    /// STS, which issues credentials for a web identity token.
    Sts,
    /// The credentials endpoint of the container: the ECS agent, or the EKS Pod Identity agent.
    Container,
    /// The instance metadata service.
    Imds,
    /// The ECS task metadata endpoint.
    TaskMetadata,
    /// The proxy.
    Proxy,
}

/// A call without a usable answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Who must act.
    pub class: FaultClass,
    /// The name of AWS's exception, or a code of ours if AWS did not answer (`Timeout`, `Dns`, …); shown as
    /// `reason.code`.
    pub code: FaultCode,
    /// AWS's clock minus ours in seconds, from the answer's `Date`, if there was one.
    pub clock_offset_seconds: Option<i64>,
    /// The answer carried the emulator's mark.
    pub emulated: bool,
    /// There was no connection or no credentials: the call certainly did not reach AWS.
    pub never_sent: bool,
    /// What failed.
    pub place: Place,
    /// Host and port of what failed, if it has a name; never a user or a password.
    pub host: Option<String>,
    /// Details for the debug log only: it may contain account numbers and role names, never a secret.
    pub detail: String,
    /// Details that everybody may read (a status, a host, an error of the system), shown after the message; empty if
    /// there is nothing to add.
    pub seen: String,
}

impl Fault {
    /// A fault without an HTTP answer.
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

    /// Sets [`Fault::seen`].
    #[must_use]
    pub fn seeing(self, seen: impl Into<String>) -> Self {
        Self { seen: seen.into(), ..self }
    }

    /// Sets [`Fault::place`] and [`Fault::host`].
    #[must_use]
    pub fn at(self, place: Place, host: Option<String>) -> Self {
        Self { place, host, ..self }
    }

    /// Sets [`Fault::never_sent`].
    #[must_use]
    pub fn unsent(self) -> Self {
        Self { never_sent: true, ..self }
    }

    /// Whether our clock differs from AWS's so much that AWS refuses our signatures.
    #[must_use]
    pub fn clock_is_off(&self) -> bool {
        self.class == FaultClass::Access
            && self
                .clock_offset_seconds
                .is_some_and(|offset| offset.unsigned_abs() >= CLOCK_OFFSET_SECONDS_MIN)
    }
}

/// AWS accepts 5 minutes, so a smaller offset is not why it rejects a signature; less a margin for slow answers.
const CLOCK_OFFSET_SECONDS_MIN: u64 = 240;

/// The name of a fault: an AWS exception's, or a code of ours. At most 64 letters and digits, so that it can be used
/// in a label, a log line and a URL.
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
        // AWS JSON 1.1 may add a namespace before ("ns#Name") and a URI after ("Name:http://…"), which may contain a
        // `#`.
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
        // All regions that AWS lists for its metering service, one of each other partition, and a future one.
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
