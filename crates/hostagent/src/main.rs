fn main() -> std::process::ExitCode {
    hostagent::commands::main()
}
