//! The one binary. All of it is in the library beside it.

use std::process::ExitCode;

/// A request of the proxy takes about ten pieces of memory, a compared answer thousands: 6 % fewer
/// instructions a request than with the C library's, at the same memory of an idle connection.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    outgrow::main()
}
