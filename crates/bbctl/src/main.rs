fn main() -> std::process::ExitCode {
    bbctl::commands::main()
}
