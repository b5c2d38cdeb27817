//! The server program: see `hallcast::receiver`.

fn main() -> std::process::ExitCode {
    hallcast::receiver::main()
}
