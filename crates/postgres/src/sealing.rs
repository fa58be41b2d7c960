//! Closes hours and seals their usage into records.
