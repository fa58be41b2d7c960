//! Whose usage it is, and the text for it on disk.

/// Whose usage it is: the pod's own account's, or in mode `saas` that of a customer of the seller.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Customer {
    /// The account that runs the pod.
    #[default]
    Own,
    /// An account, with the license ARN under Concurrent Agreements.
    Account {
        /// `CustomerAWSAccountId`
        account_id: String,
        /// `LicenseArn`
        license_arn: Option<String>,
    },
    /// The legacy `CustomerIdentifier`.
    Identifier(String),
}

impl Customer {
    /// The text for the customer on disk.
    #[must_use]
    pub fn canonical(&self) -> String {
        match self {
            Self::Own => String::new(),
            Self::Account { account_id, license_arn } => {
                format!("account {account_id} {}", license_arn.as_deref().unwrap_or_default())
            }
            Self::Identifier(identifier) => format!("identifier {identifier}"),
        }
    }

    /// [`Customer::canonical`] for display, without the trailing space of an account without a license.
    #[must_use]
    pub fn shown(canonical: &str) -> &str {
        canonical.trim_end()
    }

    /// Reads [`Customer::canonical`].
    #[must_use]
    pub fn from_canonical(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::Own);
        }
        let (kind, rest) = text.split_once(' ')?;
        match kind {
            "identifier" => Some(Self::Identifier(rest.to_owned())),
            "account" => {
                let (account_id, license_arn) = rest.split_once(' ')?;
                let license_arn = (!license_arn.is_empty()).then(|| license_arn.to_owned());
                Some(Self::Account { account_id: account_id.to_owned(), license_arn })
            }
            _ => None,
        }
    }
}

/// Longest legacy identifier of a customer (service model, `CustomerIdentifier`).
const IDENTIFIER_CHARS_MAX: usize = 255;

/// Longest account of a customer (service model, `CustomerAWSAccountId`). AWS's own have 12 digits.
const ACCOUNT_CHARS_MAX: usize = 255;

/// Whether AWS accepts a text as `CustomerIdentifier`. AWS's own are letters and digits; one with a NUL could not be
/// stored in every ledger.
#[must_use]
pub fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.chars().nth(IDENTIFIER_CHARS_MAX).is_none() && !text.contains('\0')
}

/// Whether AWS accepts a text as `CustomerAWSAccountId`.
#[must_use]
pub fn is_account(text: &str) -> bool {
    (1..=ACCOUNT_CHARS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a text is an account number. AWS's pattern accepts any digits (service model, `CustomerAWSAccountId`), but
/// every account has twelve: AWS would refuse the whole batch for a number that has lost its leading zero.
#[must_use]
pub fn is_account_number(text: &str) -> bool {
    text.len() == 12 && is_account(text)
}

/// Whether AWS accepts a text as `LicenseArn`: `arn:aws…:service:region:account:resource`, with the lengths and
/// characters of the service model's pattern. The pattern does not limit the partition; here it is as long as a part.
#[must_use]
pub fn is_license_arn(text: &str) -> bool {
    let place = |part: &str, min: usize| {
        (min..=63).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_/.-".contains(&byte))
    };
    let mut parts = text.splitn(6, ':');
    let [Some("arn"), Some(partition), Some(service), Some(region), Some(account), Some(resource)] =
        std::array::from_fn(|_| parts.next())
    else {
        return false;
    };
    let starts = |part: &str| part.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    partition
        .strip_prefix("aws")
        .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-'))
        && partition.len() <= 63
        && place(service, 1)
        && starts(service)
        && place(region, 0)
        && place(account, 0)
        && (1..=1024).contains(&resource.len())
        && starts(resource)
        && resource.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":_/+=,@.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_keep_to_the_service_models_limits() {
        assert!(is_identifier("c") && is_identifier(&"ü".repeat(255)));
        assert!(!is_identifier("") && !is_identifier(&"c".repeat(256)) && !is_identifier("a\0b"));
        assert!(is_account("111122223333") && is_account(&"1".repeat(255)));
        assert!(!is_account("") && !is_account(&"1".repeat(256)) && !is_account("١") && !is_account("1a"));
        assert!(is_account_number("012345678901"));
        for bad in ["", "12345678901", "1111222233334", "11112222333a"] {
            assert!(!is_account_number(bad), "{bad}");
        }
        let long = |length: usize| format!("arn:aws:license-manager::1:{}", "l".repeat(length));
        for good in [
            "arn:aws:license-manager::111122223333:license:l-demo",
            "arn:aws-cn:license-manager:cn-north-1:1:license/l",
            &long(1024),
        ] {
            assert!(is_license_arn(good), "{good}");
        }
        for bad in [
            "",
            "arn:x",
            "arn:aws:license-manager::1",
            "arn:aws:license-manager::1:",
            "arn:gcp:license-manager::1:l",
            "arn:aws1:license-manager::1:l",
            "arn:aws:-x::1:l",
            "arn:aws:lm::1:-l",
            "arn:aws:lm::1:l l",
            "arn:aws:lm::1:l\n",
            &long(1025),
        ] {
            assert!(!is_license_arn(bad), "{bad}");
        }
    }
}
