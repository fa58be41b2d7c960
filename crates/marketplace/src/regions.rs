//! The regions that this version knows.

use super::Region;

/// The regions of all partitions, from AWS's SDKs of November 2026. A region that is missing works too: the list only
/// decides which warnings and reasons are shown.
const LISTED: &str = "\
    af-south-1 ap-east-1 ap-east-2 ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-south-1 ap-south-2 ap-southeast-1 \
    ap-southeast-2 ap-southeast-3 ap-southeast-4 ap-southeast-5 ap-southeast-6 ap-southeast-7 ca-central-1 ca-west-1 \
    cn-north-1 cn-northwest-1 eu-central-1 eu-central-2 eu-isoe-west-1 eu-north-1 eu-south-1 eu-south-2 eu-west-1 \
    eu-west-2 eu-west-3 eusc-de-east-1 il-central-1 me-central-1 me-south-1 mx-central-1 sa-east-1 us-east-1 us-east-2 \
    us-gov-east-1 us-gov-west-1 us-iso-east-1 us-iso-west-1 us-isob-east-1 us-isob-west-1 us-isof-east-1 \
    us-isof-south-1 us-west-1 us-west-2";

impl Region {
    /// Whether it existed when this version was released.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        LISTED.split(' ').any(|listed| listed == self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_is_not_listed_is_accepted_and_known_for_it() {
        for name in LISTED.split(' ') {
            assert!(name.parse::<Region>().is_ok_and(|region| region.is_listed()), "{name}");
        }
        assert!("us-east-9".parse::<Region>().is_ok_and(|region| !region.is_listed()));
    }
}
