//! `make bench`: runs the benchmarks, prints a table of the results, and stores them as JSON.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use bench::benches::{self, Skip};
use bench::peers::Peer;
use bench::process::Programs;
use bench::report::{Report, Unmeasured};
use clap::{Parser, Subcommand};

/// Measures agent and master, and compares them with limits and with peers. Starts everything it
/// needs.
#[derive(Parser)]
#[command(name = "bench", version, args_conflicts_with_subcommands = true)]
struct Cli {
    /// Benchmarks to run [default: all]
    names: Vec<String>,
    /// List the benchmarks
    #[arg(long)]
    list: bool,
    /// Folder with the programs hostagent and bbmaster [default: the folder of this program]
    #[arg(long)]
    programs: Option<PathBuf>,
    /// The hostagent program linked statically, as it ships [default: hostagent in the folder of
    /// programs]
    #[arg(long)]
    static_agent: Option<PathBuf>,
    /// Folder for the JSON file
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Programs to compare with; the benchmarks start them
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
        "unknown benchmarks: {unknown:?}; --list shows all names"
    );
    let programs = Programs::new(cli.programs, cli.static_agent)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut report = Report::begin(programs.agent_link());
    let chosen = |name: &str| cli.names.is_empty() || cli.names.iter().any(|chosen| chosen == name);
    for bench in benches::ALL.iter().filter(|bench| chosen(bench.name)) {
        let started = Instant::now();
        eprintln!("{}: {} ...", bench.name, bench.about);
        match runtime.block_on((bench.run)(&programs)) {
            Ok(rows) => report.rows.extend(rows),
            Err(error) => {
                let skipped = error.is::<Skip>();
                let reason = format!("{error:#}");
                let what = if skipped { "skipped" } else { "failed" };
                eprintln!("{}: {what}: {reason}", bench.name);
                let bench = bench.name;
                match skipped {
                    true => report.skipped.push(Unmeasured { bench, reason }),
                    false => report.failed.push(Unmeasured { bench, reason }),
                }
            }
        }
        eprintln!("{}: took {:.0} s", bench.name, started.elapsed().as_secs_f64());
        // After each benchmark, so that an interrupted run leaves its results so far.
        report.write(&cli.results)?;
    }
    println!("{}", report.table());
    println!("\nStored in {}", report.write(&cli.results)?.display());
    // A missed target is a result, and so is a skip; a benchmark that failed is not.
    Ok(if report.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
