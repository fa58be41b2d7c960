//! Whose usage it is, and the one text that stands for it.

/// Who used it: nobody in particular (the pod's own account), or a customer of the seller in mode `saas`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Customer {
    /// The account that runs the pod.
    #[default]
    Own,
    /// An account, with the licence under Concurrent Agreements.
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
    /// The text that stands for the customer on disk.
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
