//! The `tcp-punch` program; everything it does is in [`tcp_punch::cli`].

fn main() -> std::process::ExitCode {
    tcp_punch::cli::main()
}
