//! Prints a table of the BGP sessions of a running BIRD:
//! `cargo run -p flock-bird --example neighbors -- --socket /run/bird/bird.ctl`.
#![allow(clippy::print_stdout, reason = "printing is what the example is for")]

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use flock_bird::control::Client;
use flock_bird::protocols::{self, Protocol, Session};
use flock_core::excerpt;

const HELP: &str = "\
Prints a table of the BGP sessions of a running BIRD.

Usage: neighbors [--socket FILE]

  --socket FILE  BIRD's control socket [default: /run/flock/bird.ctl]
  -h, --help     this help

Routes are those taken from the peer and those that it is told, by family.
";

const HEADINGS: [&str; 7] = ["PEER", "ADDRESS", "ASN", "STATE", "SINCE", "ROUTES IN/OUT", "LAST ERROR"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if let Err(error) = neighbors().await {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

async fn neighbors() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let socket = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => "/run/flock/bird.ctl",
        ["--socket", socket] => socket,
        ["-h" | "--help"] => {
            print!("{HELP}");
            return Ok(());
        }
        _ => return Err(format!("found {arguments:?}, expected what this says:\n{HELP}").into()),
    };
    let client = Client::new(socket, Duration::from_secs(5));
    let protocols = protocols::protocols(&client).await?.known;
    let rows = protocols.iter().filter_map(|protocol| Some(row(protocol, protocol.bgp.as_ref()?)));
    print(&rows.collect::<Vec<_>>());
    Ok(())
}

fn row(protocol: &Protocol, session: &Session) -> [String; 7] {
    let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let range = session.neighbor_range.map(|range| range.to_string());
    let routes = protocol.channels.iter().filter_map(|channel| {
        let counts = channel.routes?;
        Some(format!("{} {}/{}", channel.name, counts.imported?, counts.exported?))
    });
    [
        protocol.name.clone(),
        text(session.neighbor.as_ref().map(ToString::to_string).or(range)),
        text(session.neighbor_asn.map(|asn| asn.to_string())),
        session.state.to_string(),
        protocol.since.to_string(),
        text(Some(routes.collect::<Vec<_>>().join(", ")).filter(|routes| !routes.is_empty())),
        // Part of it may be the peer's words.
        text(session.last_error.as_ref().map(|error| excerpt::line(error).to_string())),
    ]
}

/// Each column as wide as what stands in it.
fn print(rows: &[[String; 7]]) {
    let headings = HEADINGS.map(str::to_owned);
    let lines = || std::iter::once(&headings).chain(rows);
    let widths: [usize; 7] =
        std::array::from_fn(|column| lines().map(|line| line[column].len()).max().unwrap_or_default());
    for line in lines() {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
