//! The emulator of the metering service.
