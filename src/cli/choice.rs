//! Which destination the options choose; at most one, with what belongs to it.

use super::Failure;
use super::args::DestinationArgs;
use super::destination::{Destination, Passing};

/// The destination that `args` name: standard input and output if none.
///
/// # Errors
/// A usage failure for two destinations, or an option that lacks the command it is about.
pub fn destination(args: &DestinationArgs) -> Result<Destination, Failure> {
    let named: Vec<&str> = [
        ("a command", !args.command.is_empty()),
        ("--pass-fd", args.pass_fd.is_some()),
        ("--fdpass", args.fdpass),
        ("--connect", args.connect.is_some()),
        ("--listen", args.listen.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect();
    if let [first, second, ..] = named[..] {
        return Err(exclude(first, second));
    }
    if args.exec && args.exec_fd.is_some() {
        return Err(exclude("--exec", "--exec-fd"));
    }
    for (option, given) in [
        ("--exec", args.exec),
        ("--exec-fd", args.exec_fd.is_some()),
        ("--user", args.user.is_some()),
    ] {
        if given && args.command.is_empty() {
            return Err(Failure::usage(
                format!("{option} lacks the command that it is about"),
                "put the command at the end, after --, as in -- cat",
            ));
        }
    }
    if args.command.first().is_some_and(|name| name.is_empty()) {
        return Err(Failure::usage(
            "the command's name is empty",
            "write it after --, as in -- cat",
        ));
    }
    Ok(if !args.command.is_empty() {
        Destination::Command {
            argv: args.command.clone(),
            passing: if args.exec_fd.is_some() { Passing::Descriptor3 } else { Passing::Inetd },
            user: args.user.clone(),
        }
    } else if let Some(path) = &args.pass_fd {
        Destination::PassFd(path.clone())
    } else if args.fdpass {
        Destination::FdPass
    } else if let Some(service) = &args.connect {
        Destination::Connect(service.clone())
    } else if let Some(address) = &args.listen {
        Destination::Listen(address.clone())
    } else {
        Destination::Stdio
    })
}

fn exclude(first: &str, second: &str) -> Failure {
    Failure::usage(
        format!("{first} and {second} exclude each other"),
        "choose one place for the connection to go",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Args;
    use clap::Parser;

    fn chosen(words: &[&str]) -> Result<Destination, String> {
        let args = Args::parse_from(["tcp-punch"].iter().chain(words));
        destination(&args.punch.destination).map_err(|failure| failure.happened)
    }

    #[test]
    fn each_destination() {
        let command = |passing, user: Option<&str>| Destination::Command {
            argv: vec!["cat".into(), "-n".into()],
            passing,
            user: user.map(str::to_owned),
        };
        assert_eq!(chosen(&[]), Ok(Destination::Stdio));
        assert_eq!(chosen(&["--", "cat", "-n"]), Ok(command(Passing::Inetd, None)));
        assert_eq!(chosen(&["--exec", "--", "cat", "-n"]), Ok(command(Passing::Inetd, None)));
        assert_eq!(
            chosen(&["--exec-fd", "3", "--user", "ann", "--", "cat", "-n"]),
            Ok(command(Passing::Descriptor3, Some("ann")))
        );
        assert_eq!(chosen(&["--pass-fd", "/s"]), Ok(Destination::PassFd("/s".into())));
        assert_eq!(chosen(&["--fdpass"]), Ok(Destination::FdPass));
        assert_eq!(chosen(&["--connect", "h:22"]), Ok(Destination::Connect("h:22".to_owned())));
        assert_eq!(chosen(&["--listen", ":22"]), Ok(Destination::Listen(":22".to_owned())));
    }

    #[test]
    fn what_does_not_go_together() {
        for (words, says) in [
            (&["--fdpass", "--", "cat"][..], "a command and --fdpass exclude each other"),
            (&["--pass-fd", "/s", "--listen", "x"], "--pass-fd and --listen exclude each other"),
            (&["--exec", "--exec-fd", "3", "--", "cat"], "--exec and --exec-fd exclude each other"),
            (&["--exec"], "--exec lacks the command that it is about"),
            (&["--exec-fd", "3", "--fdpass"], "--exec-fd lacks the command that it is about"),
            (&["--user", "ann"], "--user lacks the command that it is about"),
            (&["--", ""], "the command's name is empty"),
        ] {
            assert_eq!(chosen(words), Err(says.to_owned()));
        }
    }
}
