//! The only file that imports the AWS SDK.
