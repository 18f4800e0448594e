fn main() -> std::process::ExitCode {
    bbmaster::commands::main()
}
