//! The command line: clap definitions; one file for each subcommand below.
