//! The codes of tollgate's own refusals. Answers that repeat AWS's code, or the verifier's, are not among them.

/// Declares the codes; `Code::ALL` is for the test that each has its entry in the runbook.
macro_rules! codes {
    ($($code:ident)*) => {
        /// A code of a problem document, or of an answer of the AWS door.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Code {
            $($code,)*
        }

        impl Code {
            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$code,)*];

            /// As it is answered.
            pub(super) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$code => stringify!($code),)*
                }
            }
        }
    };
}

codes! {
    AccessDeniedException
    BadRequest
    BodyTooLarge
    ContentTypeRefused
    DuplicateRequestException
    EventRefused
    HostRefused
    InDoubt
    Internal
    InvalidProductCodeException
    InvalidTagException
    LedgerUnavailable
    MethodNotAllowed
    NoContract
    NoUsage
    NotFound
    OriginRefused
    OtherForm
    OutcomeUnknown
    QuitSwitchedOff
    RepairSealed
    RequestTimeout
    RequestTooLargeException
    SerializationException
    ServiceUnavailableException
    ThrottlingException
    TokenRefused
    TooBusy
    TooManyAttestations
    UnknownOperationException
    UsageRejected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_section_in_the_runbook() {
        let runbook = include_str!("../../docs/RUNBOOK.md");
        for code in Code::ALL {
            let code = code.as_str();
            assert!(runbook.contains(&format!("\n### {code}\n")), "{code}");
        }
    }
}
