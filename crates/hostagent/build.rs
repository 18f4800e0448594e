//! How the agent is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A static program that may lie anywhere in memory mends 9,000 addresses at its start, and has read a table of 215 kB
    // for it by then, which stays resident. Packed, the table is 2.5 kB. musl reads such tables since 1.2.4; a linker
    // that does not know them (binutils before 2.38) warns and goes on.
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
