//! `make bench`: measures, prints a table, keeps it as JSON.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use bench::benches;
use bench::peers::Peer;
use bench::process::Programs;
use bench::report::{Report, Unmeasured};
use clap::{Parser, Subcommand};

/// Measures agent and master beside limits and peers, each on what it starts itself.
#[derive(Parser)]
#[command(name = "bench", version, args_conflicts_with_subcommands = true)]
struct Cli {
    /// Which benchmarks to run; none: all
    names: Vec<String>,
    /// Lists the benchmarks
    #[arg(long)]
    list: bool,
    /// Folder of hostagent and bbmaster; not set: this program's own
    #[arg(long)]
    programs: Option<PathBuf>,
    /// hostagent as it ships, linked statically; not set: that of --programs
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Folder for the JSON file
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// What is measured beside; started by the benchmarks
    #[command(hide = true, subcommand)]
    Peer(Peer),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Command::Peer(peer)) => peer.run().map(|()| ExitCode::SUCCESS),
        None => run(cli),
    };
    done.unwrap_or_else(|error| {
        eprintln!("bench: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(cli: Cli) -> Result<ExitCode> {
    if cli.list {
        for bench in benches::ALL {
            println!("{:<12} {}", bench.name, bench.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let unknown: Vec<&String> = cli
        .names
        .iter()
        .filter(|name| !benches::ALL.iter().any(|b| b.name == **name))
        .collect();
    ensure!(
        unknown.is_empty(),
        "no such benchmark: {unknown:?}; --list names them"
    );
    let programs = Programs::new(cli.programs, cli.agent)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut report = Report::begin();
    let chosen = |name: &str| cli.names.is_empty() || cli.names.iter().any(|chosen| chosen == name);
    for bench in benches::ALL.iter().filter(|bench| chosen(bench.name)) {
        let started = Instant::now();
        eprintln!("{}: {} ...", bench.name, bench.about);
        match runtime.block_on((bench.run)(&programs)) {
            Ok(rows) => report.rows.extend(rows),
            Err(error) => {
                let reason = format!("{error:#}");
                eprintln!("{}: {reason}", bench.name);
                report.unmeasured.push(Unmeasured {
                    bench: bench.name,
                    reason,
                });
            }
        }
        eprintln!("{}: took {:.0} s", bench.name, started.elapsed().as_secs_f64());
        // After each, so that a run that is cut short leaves what it has found.
        report.write(&cli.results)?;
    }
    println!("{}", report.table());
    println!("\nKept in {}", report.write(&cli.results)?.display());
    // A missed target is a finding, a benchmark that fell over is a failure.
    Ok(if report.unmeasured.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
