//! The probe server: liveness, startup, readiness, entitlement and metrics, read-only.
