//! Metrics: names, units, registry.
