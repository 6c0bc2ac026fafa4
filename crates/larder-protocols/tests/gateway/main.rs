//! The gateway over real pools in temporary directories, without a network.

#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]
#![expect(clippy::print_stdout, reason = "a test says the seed that repeats it")]

mod control;
mod house;
mod nx;
mod poisoning;
mod refusals;
