//! The `weighbridge` command line tool: arguments, output and exit codes around the library.

mod args;
mod cmd;
mod exit;
mod output;
mod progress;
mod sandbox;
mod style;
mod text;
mod version;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind as ClapKind;
use weighbridge::{Error, Result};

use args::{Cli, ColorWhen, Common, Verb};
use exit::Exit;
use output::Output;

fn main() -> ExitCode {
    exit::no_signal_of_file_sizes();
    let raw: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&raw) {
        Ok(cli) => cli,
        Err(e) => return usage(&e, &raw).into(),
    };
    if matches!(cli.verb, Some(Verb::Scan(_) | Verb::Disasm(_))) {
        exit::watch_for_interrupts();
    } else {
        exit::on_interrupt();
    }
    let mut out = Output::new(&cli.common);
    // Whatever goes wrong inside, the contract of exit codes holds.
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(cli, &mut out)));
    let done = done.unwrap_or_else(|_| {
        weighbridge::output::remove_temporaries();
        Err(
            Error::unsupported("internal", "weighbridge itself failed; this is a bug")
                .help("report it with the message above and, if you can, the file"),
        )
    });
    let exit = done
        .and_then(|exit| out.flush().map(|()| exit))
        .unwrap_or_else(|e| {
            out.failure(&e);
            Exit::Failed
        });
    exit.into()
}

fn run(cli: Cli, out: &mut Output) -> Result<Exit> {
    if cli.version {
        return version::print(cli.verbose, out);
    }
    match cli.verb {
        Some(Verb::Inspect(a)) => cmd::inspect::run(&a, out),
        Some(Verb::Check(a)) => cmd::check::run(&a, out),
        Some(Verb::Scan(a)) => cmd::scan::run(&a, out),
        Some(Verb::Disasm(a)) => cmd::disasm::run(&a, out),
        Some(Verb::Convert(a)) => cmd::convert::run(&a, out),
        Some(Verb::Edit(a)) => cmd::edit::run(&a, out),
        Some(Verb::Split(a)) => cmd::split::run(&a, out),
        Some(Verb::Merge(a)) => cmd::split::run_merge(&a, out),
        Some(Verb::Diff(a)) => cmd::diff::run(&a, out),
        Some(Verb::Quantize(a)) => cmd::quantize::run(&a, out),
        Some(Verb::Dequantize(a)) => cmd::dequantize::run(&a, out),
        Some(Verb::Recipe(a)) => cmd::recipe::run(&a, out),
        Some(Verb::Imatrix(a)) => cmd::imatrix::run(&a, out),
        None => Err(Error::parameter("cli.usage", "no verb is given")
            .help("weighbridge --help lists the verbs")),
    }
}

/// Reports what clap says of the command line: help is no failure, and a failure is a document
/// when `--json` is among the arguments.
fn usage(e: &clap::Error, raw: &[OsString]) -> Exit {
    let help = matches!(e.kind(), ClapKind::DisplayHelp | ClapKind::DisplayVersion);
    let json = raw.iter().take_while(|a| *a != "--").any(|a| a == "--json");
    if help || !json {
        // A closed standard output is how `head` ends.
        let _ = e.print();
        return if help { Exit::Done } else { Exit::Failed };
    }
    let text = e.render().to_string();
    let message = text.split("\n\n").next().unwrap_or_default().trim();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let common = Common {
        json: true,
        quiet: true,
        color: ColorWhen::Never,
    };
    Output::new(&common).failure(
        &Error::parameter("cli.usage", message).help("weighbridge --help lists verbs and flags"),
    );
    Exit::Failed
}
