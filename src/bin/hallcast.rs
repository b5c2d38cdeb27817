//! The box.

fn main() -> std::process::ExitCode {
    hallcast::station::main()
}
