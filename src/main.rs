//! The command line of the engine.
#![allow(clippy::print_stdout, clippy::print_stderr)] // what a command line is for

mod cli;

use clap::Parser;
use dreamid_engine::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    env_logger::Builder::new().filter_level(cli.log_level()).parse_default_env().format_timestamp(None).init();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Cancelled) => {
            eprintln!("stopped");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {}", cli::with_causes(&error));
            ExitCode::FAILURE
        }
    }
}
