//! The server.

fn main() -> std::process::ExitCode {
    hallcast::receiver::main()
}
