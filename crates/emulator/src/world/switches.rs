//! Switches: where AWS's documents leave an answer open, the emulator can give each of the possible answers.
//!
//! Each switch has a name, two or three named answers and the question that it settles. The first answer is the
//! default: the one that the evidence favours, or, without evidence, the one that is harder for a client.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value, json};

/// A question that AWS's documents leave open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switch {
    AbsentNonce,
    AbsentRotation,
    AllocationsDiffer,
    AuthorizationCode,
    BatchHours,
    ClaimCase,
    ClientTokenLife,
    ClientTokenScope,
    DeprovisionedFlush,
    DryRun,
    DryRunChecks,
    EksFargate,
    EntitlementPages,
    EventLicenseArn,
    ExpirationFormat,
    ExpiredEntitlement,
    ExpiredKey,
    HourBeforeStart,
    IdenticalBatchRecord,
    IssuedAt,
    LicenseWithProductCode,
    NewestLicense,
    OtherRegion,
    PodStart,
    PricingMismatch,
    QuotaBurst,
    RefusedPod,
    RepeatedClientToken,
    ResolveQuota,
    RotationClaim,
    SaltLength,
    TokenResubmission,
    TwoCustomerFilters,
    UnitMismatch,
    UnknownCustomer,
    UnknownEntitlementProduct,
}

/// A switch's name, its answers (the first is the default), and its question.
pub(crate) struct Entry {
    switch: Switch,
    pub(crate) name: &'static str,
    pub(crate) answers: &'static [&'static str],
    pub(crate) question: &'static str,
}

const fn entry(
    switch: Switch,
    name: &'static str,
    answers: &'static [&'static str],
    question: &'static str,
) -> Entry {
    Entry { switch, name, answers, question }
}

/// All switches, in the order of the enum.
pub(crate) const TABLE: [Entry; 36] = [
    entry(
        Switch::AbsentNonce,
        "absent_nonce",
        &["omitted", "null"],
        "RegisterUsage without Nonce: is the token's claim left out or null?",
    ),
    entry(
        Switch::AbsentRotation,
        "absent_rotation",
        &["null", "omitted"],
        "RegisterUsage with a current key: is PublicKeyRotationTimestamp null or left out?",
    ),
    entry(
        Switch::AllocationsDiffer,
        "allocations_differ",
        &["duplicate", "same"],
        "A repeat with the same quantity but other allocations: a conflict, or the same record?",
    ),
    entry(
        Switch::AuthorizationCode,
        "authorization_code",
        &["Authorization", "AccessDenied"],
        "License Manager for a role without the permission: AuthorizationException, as seen of a node's role, or \
         AccessDeniedException? Its model has both.",
    ),
    entry(
        Switch::BatchHours,
        "batch_hours",
        &["rounded", "exact"],
        "BatchMeterUsage: is the timestamp rounded down to the hour before records are compared?",
    ),
    entry(
        Switch::ClaimCase,
        "claim_case",
        &["camel", "pascal"],
        "The token's claims: productCode, as AWS's verifiers read them, or ProductCode, as its documents show them?",
    ),
    entry(
        Switch::ClientTokenLife,
        "client_token_life",
        &["10m", "forever"],
        "How long is a ClientToken of CheckoutLicense known? 10 minutes are documented for CreateToken alone.",
    ),
    entry(
        Switch::ClientTokenScope,
        "client_token_scope",
        &["pod", "account"],
        "Is a ClientToken known for the pod that sent it, or for the buyer's whole account?",
    ),
    entry(
        Switch::DeprovisionedFlush,
        "deprovisioned_flush",
        &["1h", "none"],
        "BatchMeterUsage for a customer whose license was just deprovisioned: taken for one more hour, as AWS's metering \
         skill has it, or CustomerNotSubscribed at once, as its guide for sellers has it?",
    ),
    entry(
        Switch::DryRun,
        "dry_run",
        &["answer", "exception"],
        "MeterUsage with DryRun and permission: 200 without a record, or the exception DryRunOperation?",
    ),
    entry(
        Switch::DryRunChecks,
        "dry_run_checks",
        &["permission", "everything"],
        "MeterUsage with DryRun: is only the permission checked, or all that a real call checks?",
    ),
    entry(
        Switch::EksFargate,
        "eks_fargate",
        &["supported", "refused"],
        "Is a pod of platform eks-fargate served like one of platform eks?",
    ),
    entry(
        Switch::EntitlementPages,
        "entitlement_pages",
        &["sparse", "full"],
        "GetEntitlements with a filter: may a page before the last have fewer entitlements than MaxResults, or none, as \
         its model warns, or is each full?",
    ),
    entry(
        Switch::EventLicenseArn,
        "event_license_arn",
        &["arn", "documented"],
        "license.arn in an event: the ARN as ResolveCustomer has it, as seen, or in the form of AWS's example, which \
         lacks arn: and license:?",
    ),
    entry(
        Switch::ExpirationFormat,
        "expiration_format",
        &["zone", "none"],
        "Times in License Manager's answers: with Z at their end, or without a zone? Clients were seen to read both.",
    ),
    entry(
        Switch::ExpiredEntitlement,
        "expired_entitlement",
        &["listed", "omitted"],
        "GetEntitlements after an entitlement's ExpirationDate, while its license is not deprovisioned: listed, or left \
         out?",
    ),
    entry(
        Switch::ExpiredKey,
        "expired_key",
        &["signed", "refused"],
        "RegisterUsage with a rotated key version: signed with PublicKeyRotationTimestamp, or \
         InvalidPublicKeyVersionException?",
    ),
    entry(
        Switch::HourBeforeStart,
        "hour_before_start",
        &["accepted", "refused"],
        "A timestamp after the pod's start in an hour that began before it: accepted, or out of bounds?",
    ),
    entry(
        Switch::IdenticalBatchRecord,
        "identical_batch_record",
        &["success", "duplicate-record"],
        "BatchMeterUsage with a record that is billed already, the same in every member: Success, as the service model \
         has it, or DuplicateRecord, as AWS's metering skill has it?",
    ),
    entry(
        Switch::IssuedAt,
        "issued_at",
        &["seconds", "omitted"],
        "The token's iat: seconds since 1970, or absent?",
    ),
    entry(
        Switch::LicenseWithProductCode,
        "license_with_product_code",
        &["refused", "accepted"],
        "BatchMeterUsage with both ProductCode and LicenseArn: refused, or accepted and billed apart?",
    ),
    entry(
        Switch::NewestLicense,
        "newest_license",
        &["wins", "oldest"],
        "Two usable licenses of one product and issuer: which one serves every checkout, the newest or the oldest?",
    ),
    entry(
        Switch::OtherRegion,
        "other_region",
        &["served", "redirect", "redirect-url"],
        "CheckoutLicense in another region than the license's home: served, or RedirectException, whose Location is the \
         region's name, or the URL of its endpoint?",
    ),
    entry(
        Switch::PodStart,
        "pod_start",
        &["unknown", "first-call"],
        "When does the software of a pod without started_at begin: not known, or with its first call?",
    ),
    entry(
        Switch::PricingMismatch,
        "pricing_mismatch",
        &["refused", "accepted"],
        "An operation that does not belong to the product's pricing: InvalidProductCodeException, or served?",
    ),
    entry(
        Switch::QuotaBurst,
        "quota_burst",
        &["one-second", "one-call"],
        "With --quotas, how many calls pass at once: those of a second, or one, the others evenly spread?",
    ),
    entry(
        Switch::RefusedPod,
        "refused_pod",
        &["refused-again", "accepted"],
        "RegisterUsage or MeterUsage again from a pod that was refused as not entitled: judged again, or accepted because \
         only the first call is judged?",
    ),
    entry(
        Switch::RepeatedClientToken,
        "repeated_client_token",
        &["same-token", "new-seat"],
        "CheckoutLicense again with the same ClientToken: the same LicenseConsumptionToken, or seats a second time?",
    ),
    entry(
        Switch::ResolveQuota,
        "resolve_quota",
        &["10-per-second", "none"],
        "ResolveCustomer, which AWS's list of quotas does not name: throttled like the others, or never?",
    ),
    entry(
        Switch::RotationClaim,
        "rotation_claim",
        &["omitted", "present"],
        "The token: without PublicKeyRotationTimestamp, or with it as a claim, null while the key is current?",
    ),
    entry(
        Switch::SaltLength,
        "salt_length",
        &["digest", "longest"],
        "The signature's PSS salt: 32 bytes, as RFC 7518 wants of PS256, or as long as the key allows?",
    ),
    entry(
        Switch::TokenResubmission,
        "token_resubmission",
        &["accepted", "invalid", "expired"],
        "ResolveCustomer with a token that was resolved before: the same customer, as AWS's metering skill has it, \
         InvalidTokenException, or ExpiredTokenException, as its text has it?",
    ),
    entry(
        Switch::TwoCustomerFilters,
        "two_customer_filters",
        &["refused", "accepted"],
        "GetEntitlements with CUSTOMER_IDENTIFIER and CUSTOMER_AWS_ACCOUNT_ID, which its model forbids: \
         InvalidParameterException, or what fits both?",
    ),
    entry(
        Switch::UnitMismatch,
        "unit_mismatch",
        &["no-entitlements", "validation"],
        "CheckoutLicense of an entitlement in another unit than the license's: NoEntitlementsAllowedException, as seen, or \
         ValidationException?",
    ),
    entry(
        Switch::UnknownCustomer,
        "unknown_customer",
        &["exception", "not-subscribed"],
        "BatchMeterUsage for a customer that does not exist: InvalidCustomerIdentifierException, or status \
         CustomerNotSubscribed?",
    ),
    entry(
        Switch::UnknownEntitlementProduct,
        "unknown_entitlement_product",
        &["empty", "refused"],
        "GetEntitlements for a product code that does not exist: an empty list, as for another seller's, or \
         InvalidParameterException?",
    ),
];

/// The answers in force. They are stored by name, so that a journal remains readable after a switch was added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Switches {
    /// Two bits for each switch: the number of its answer.
    answers: u128,
}

/// Bits for a switch's answer.
const ANSWER_BITS: usize = 2;

/// Old names of switches, which a journal may contain.
const RENAMED: [(&str, &str); 1] = [("refused_registration", "refused_pod")];

impl Switches {
    /// The number of the switch's answer that is in force.
    pub(crate) const fn answer(self, switch: Switch) -> usize {
        (self.answers >> (switch as usize * ANSWER_BITS)) as usize & ((1 << ANSWER_BITS) - 1)
    }

    /// Whether the switch's second answer is in force.
    pub(crate) const fn second(self, switch: Switch) -> bool {
        self.answer(switch) == 1
    }

    /// Sets a switch to one of its answers, both by name.
    pub(crate) fn set(&mut self, name: &str, answer: &str) -> Result<(), String> {
        let name = RENAMED.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| new);
        let Some(entry) = TABLE.iter().find(|entry| entry.name == name) else {
            let names: Vec<&str> = TABLE.iter().map(|entry| entry.name).collect();
            return Err(format!("there is no switch {name:?}; there are {}", names.join(", ")));
        };
        let Some(number) = entry.answers.iter().position(|known| *known == answer) else {
            let answers: Vec<String> = entry.answers.iter().map(|answer| format!("{answer:?}")).collect();
            return Err(format!("{name} is {}, not {answer:?}", answers.join(" or ")));
        };
        let place = entry.switch as usize * ANSWER_BITS;
        self.answers &= !(((1 << ANSWER_BITS) - 1) << place);
        self.answers |= (number as u128) << place;
        Ok(())
    }

    /// The name and answer of every switch.
    pub(crate) fn json(self) -> Value {
        let pairs = TABLE.iter().map(|entry| {
            let answer = entry.answers[self.answer(entry.switch)];
            (entry.name.to_owned(), json!(answer))
        });
        Value::Object(pairs.collect::<Map<_, _>>())
    }
}

impl Serialize for Switches {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Switches {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut switches = Self::default();
        for (name, answer) in BTreeMap::<String, String>::deserialize(deserializer)? {
            switches.set(&name, &answer).map_err(de::Error::custom)?;
        }
        Ok(switches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_switch_has_all_its_answers() {
        assert!(TABLE.len() * ANSWER_BITS <= 128);
        for (index, entry) in TABLE.iter().enumerate() {
            assert_eq!(entry.switch as usize, index, "{}", entry.name);
            assert!((2..1 << ANSWER_BITS).contains(&entry.answers.len()), "{}", entry.name);
            let mut switches = Switches::default();
            for (number, answer) in entry.answers.iter().enumerate().rev() {
                switches.set(entry.name, answer).unwrap();
                assert_eq!(switches.answer(entry.switch), number);
                assert_eq!(switches.json()[entry.name], *answer);
            }
            assert_eq!(switches, Switches::default());
        }
    }

    #[test]
    fn the_page_about_the_emulator_names_them_all() {
        let page = include_str!("../../../../docs/EMULATOR.md");
        for Entry { name, answers, .. } in &TABLE {
            assert!(page.contains(&format!("`{name}` {}", answers.join("/"))), "{name}");
        }
    }

    #[test]
    fn they_are_kept_by_name() {
        let mut switches = Switches::default();
        switches.set("dry_run", "exception").unwrap();
        let text = serde_json::to_string(&switches).unwrap();
        assert!(text.contains(r#""dry_run":"exception""#), "{text}");
        assert_eq!(serde_json::from_str::<Switches>(&text).unwrap(), switches);
        // As in a journal from before a switch was added.
        assert_eq!(serde_json::from_str::<Switches>(r#"{"dry_run":"exception"}"#).unwrap(), switches);
        assert!(serde_json::from_str::<Switches>(r#"{"dry_run":"maybe"}"#).is_err());
        // As in a journal from before a switch was renamed.
        let renamed = serde_json::from_str::<Switches>(r#"{"refused_registration":"accepted"}"#).unwrap();
        assert!(renamed.second(Switch::RefusedPod));
    }

    #[test]
    fn wrong_names_are_told_with_the_right_ones() {
        let mut switches = Switches::default();
        assert!(switches.set("dryrun", "answer").unwrap_err().contains("dry_run"));
        assert_eq!(
            switches.set("dry_run", "yes").unwrap_err(),
            r#"dry_run is "answer" or "exception", not "yes""#
        );
    }
}
