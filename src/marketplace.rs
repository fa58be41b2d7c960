//! The vocabulary of AWS Marketplace metering: newtypes, the `Metering` seam, fault classes.
