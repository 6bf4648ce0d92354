//! The command line as clap reads it. Values stay text here: [`super::punch`] reads them, so that
//! every wrong one gets its own two lines.
// What stands here is what --help prints, brackets and all.
#![allow(rustdoc::broken_intra_doc_links)]

use super::log;
use clap::{ArgAction, Parser, Subcommand, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;
use tracing_subscriber::filter::LevelFilter;

const EXAMPLES: &str = "\
Examples; the peer runs the same with this host's public address:
  Type to each other, starting at the next full ten seconds:
    sudo tcp-punch --peer 203.0.113.7:40000 --at every:10s
  Give the peer this host's ssh server (there, end with --listen 127.0.0.1:2222 instead):
    sudo tcp-punch --peer 203.0.113.7:40000 --at 2026-11-21T12:00:00Z --connect 127.0.0.1:22";

/// Opens one direct TCP connection between two hosts behind NATs, at an agreed instant.
#[derive(Debug, Parser)]
#[command(
    name = "tcp-punch",
    version,
    override_usage = "tcp-punch --peer <IP:PORT> --at <WHEN> [OPTIONS] [-- COMMAND...]\n       \
                      tcp-punch <SUBCOMMAND>",
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    subcommand_value_name = "SUBCOMMAND",
    subcommand_help_heading = "Subcommands",
    max_term_width = 100
)]
pub struct Args {
    /// What to do instead of punching.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The punch.
    #[command(flatten)]
    pub punch: PunchArgs,
}

/// The main form.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PunchArgs {
    /// The peer's public address; IPv6 as [ADDR]:PORT, a host name is resolved
    #[arg(long, value_name = "IP:PORT", value_hint = ValueHint::Hostname)]
    pub peer: Option<String>,
    /// The instant at which the SYN leaves: RFC 3339, Unix seconds, +2s from now, or every:10s
    /// for the next whole multiple of 10 s at least 1 s away
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    pub at: Option<String>,
    /// Local port and address [default: the peer's port number, address by route]
    #[arg(long, value_name = "[IP:]PORT")]
    pub local: Option<String>,
    /// File with the shared secret: 64 hex digits or a passphrase line, mode 600
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key: Option<PathBuf>,
    /// Environment variable with the shared secret
    #[arg(long, value_name = "NAME")]
    pub key_env: Option<OsString>,
    /// How it is done.
    #[command(flatten)]
    pub how: HowArgs,
    /// What is written down and said.
    #[command(flatten)]
    pub records: RecordArgs,
    /// Where the connection goes.
    #[command(flatten)]
    pub destination: DestinationArgs,
}

/// How a punch is done.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct HowArgs {
    /// Give up this long after the instant
    #[arg(long, value_name = "DUR", default_value = "10s", allow_hyphen_values = true)]
    pub timeout: String,
    /// Ways to meet, with commas between: auto, or any of syn, syn-ack, mid-stream (the last two
    /// need a key)
    #[arg(long, value_name = "LIST", default_value = "auto")]
    pub strategy: String,
    /// Punch N consecutive ports at once, both ends alike; the first to finish wins. With a key two
    /// more are used: for mid-stream, and for a second instant 0.4 s later
    #[arg(long, value_name = "N", default_value = "1", allow_hyphen_values = true)]
    pub spread: String,
    /// How this side's router numbers its ports, or a file that says so: preserving, stable,
    /// sequential:next=PORT,rate=N, parity, random[:LO-HI], stable-random[:LO-HI], linux-random
    #[arg(long, value_name = "MODEL", help_heading = "Routers that change ports")]
    pub nat_model: Option<String>,
    /// How the peer's router does; what one side gives here the other gives as --nat-model
    #[arg(long, value_name = "MODEL", help_heading = "Routers that change ports")]
    pub peer_model: Option<String>,
    /// Measure this side's router at a STUN-over-TCP server instead; repeatable
    #[arg(long, value_name = "HOST[:PORT]", value_hint = ValueHint::Hostname,
          conflicts_with = "nat_model", help_heading = "Routers that change ports")]
    pub stun: Vec<String>,
    /// What a search may cost each side: packets=4000,entries=2000,rate=10000 or some of it; rate
    /// is packets a second, entries are those of the router's table
    #[arg(long, value_name = "BUDGET", help_heading = "Routers that change ports")]
    pub budget: Option<String>,
    /// Search even where success is unlikely
    #[arg(long, help_heading = "Routers that change ports")]
    pub anyway: bool,
    /// Hop limit of the low-TTL opener: auto (first hop past the outermost NAT), off, or 1 to 255
    #[arg(long, value_name = "auto|off|TTL", default_value = "auto")]
    pub opener: String,
    /// How long before the instant the opener leaves
    #[arg(long, value_name = "DUR", default_value = "250ms", allow_hyphen_values = true)]
    pub opener_lead: String,
    /// How packets are caught and resets are held back: ebpf programs, packet sockets, or auto,
    /// the first of these that works here
    #[arg(long, value_name = "auto|packet|ebpf", default_value = "auto")]
    pub datapath: String,
}

/// What is written down and said.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Records")]
pub struct RecordArgs {
    /// Write every packet sent and received as pcapng
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub pcap: Option<PathBuf>,
    /// Write the attempt as JSON; - writes to standard error
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub report: Option<PathBuf>,
    /// Draw the attempt as a sequence diagram
    #[arg(long, value_name = "FILE.svg", value_hint = ValueHint::FilePath)]
    pub ladder: Option<PathBuf>,
    /// Say only errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; -vv names every packet
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

impl RecordArgs {
    /// How much is said.
    pub fn level(&self) -> LevelFilter {
        log::level(self.quiet, self.verbose)
    }
}

/// What leads to the server.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServerArgs {
    /// The rendezvous server [default: the environment's TCP_PUNCH_SERVER, then the
    /// configuration file]
    #[arg(long, value_name = "HOST[:PORT]", value_hint = ValueHint::Hostname)]
    pub server: Option<String>,
}

/// Meets a peer under a code.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct MeetArgs {
    /// The peer's code, as in 7-guitar-umbrella; none makes one and prints it
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
    /// The meeting.
    #[command(flatten)]
    pub meeting: MeetingArgs,
}

/// A meeting, however the peer is named.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct MeetingArgs {
    /// Where both meet.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Do not have the peer prove itself on the connection
    #[arg(long)]
    pub no_proof: bool,
    /// How it is done.
    #[command(flatten)]
    pub how: HowArgs,
    /// What is written down and said.
    #[command(flatten)]
    pub records: RecordArgs,
    /// Where the connection goes.
    #[command(flatten)]
    pub destination: DestinationArgs,
}

/// Long-lived keys, ours and others'.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct IdentityArgs {
    /// This host's key pair, made if it is missing [default: identity in ~/.config/tcp-punch, for
    /// root in /etc/tcp-punch]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub identity: Option<PathBuf>,
    /// Names and public keys of others [default: peers in the same folder]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub peers: Option<PathBuf>,
}

/// Keeps a service reachable.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ExposeArgs {
    /// The service
    #[arg(long, value_name = "HOST:PORT", value_hint = ValueHint::Hostname)]
    pub to: String,
    /// Who we are, and who may call.
    #[command(flatten)]
    pub identity: IdentityArgs,
    /// Where both meet.
    #[command(flatten)]
    pub server: ServerArgs,
    /// How it is done.
    #[command(flatten)]
    pub how: HowArgs,
    /// Say only warnings
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; -vv names every packet
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

/// Reaches it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ReachArgs {
    /// Its name in the peers file, or its public key
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Who we are, and who it is.
    #[command(flatten)]
    pub identity: IdentityArgs,
    /// The meeting.
    #[command(flatten)]
    pub meeting: MeetingArgs,
}

/// Where the connection goes; none of them joins it to standard input and output.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Where the connection goes [default: standard input and output]")]
pub struct DestinationArgs {
    /// Run COMMAND with the connection as its standard input and output, as inetd does (the
    /// default with a command)
    #[arg(long)]
    pub exec: bool,
    /// Run COMMAND with the connection as descriptor 3, told by LISTEN_FDS
    #[arg(long, value_name = "3", value_parser = ["3"], hide_possible_values = true)]
    pub exec_fd: Option<String>,
    /// Run COMMAND as this user [default: under sudo, who called it]
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Username)]
    pub user: Option<String>,
    /// Send the descriptor over the Unix stream socket PATH and exit
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub pass_fd: Option<PathBuf>,
    /// Send the descriptor over standard output and exit: OpenSSH's ProxyUseFdpass
    #[arg(long)]
    pub fdpass: bool,
    /// Join the connection to a local service
    #[arg(long, value_name = "HOST:PORT", value_hint = ValueHint::Hostname)]
    pub connect: Option<String>,
    /// Join the connection to the first local client that connects here
    #[arg(long, value_name = "HOST:PORT", value_hint = ValueHint::Hostname)]
    pub listen: Option<String>,
    /// The command to run, and its arguments
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

/// `nat`: from where to measure.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct NatArgs {
    /// The tcp-punch server to measure with [default: the environment's TCP_PUNCH_SERVER]
    #[arg(long, value_name = "HOST[:PORT]", value_hint = ValueHint::Hostname)]
    pub server: Option<String>,
    /// A STUN-over-TCP server that says how it sees this host; repeatable. Without --server only
    /// mappings can be known
    #[arg(long, value_name = "HOST[:PORT]", value_hint = ValueHint::Hostname)]
    pub stun: Vec<String>,
    /// First local port to measure, and address [default: any free port, address by route]
    #[arg(long, value_name = "[IP:]PORT")]
    pub local: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Say only errors, and one line of result
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more: what each finding follows from; -vv names every packet
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

/// The rendezvous server.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServeArgs {
    /// Address and port to listen on; [::] is every address of both IP versions
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:3478")]
    pub listen: String,
    /// The second port
    #[arg(long, value_name = "PORT", default_value = "3479", allow_hyphen_values = true)]
    pub alt_port: String,
    /// Another address of this host, for both ports: clients then learn how their routers filter
    /// by address; repeatable, once for each IP version
    #[arg(long, value_name = "ADDR")]
    pub alt_addr: Vec<String>,
    /// Tell figures to Prometheus here, under /metrics
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<String>,
    /// Join every server on this NATS cluster: clients of one meet clients of another; repeatable
    /// or comma-separated, the same cluster's
    #[arg(long, value_name = "nats://HOST:PORT", value_delimiter = ',')]
    pub bus: Vec<String>,
    /// What one address may have: connections=512,waiting=64 at once, meetings=120,probes=240 a
    /// minute, requests=1000 a second, or some of it
    #[arg(long, value_name = "QUOTA")]
    pub quota: Option<String>,
    /// Clients at once, of all addresses
    #[arg(long, value_name = "N", default_value = "120000", allow_hyphen_values = true)]
    pub capacity: String,
    /// How to log on standard error
    #[arg(long, value_name = "text|json", default_value = "text", value_parser = ["text", "json"],
          hide_possible_values = true)]
    pub log: String,
    /// Log only errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Log more
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

/// What else the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Meet whoever uses the same code at a server, and punch: nobody types an address or an instant
    Meet(Box<MeetArgs>),
    /// Keep a service of this host reachable under a long-lived key, for peers that are listed
    Expose(Box<ExposeArgs>),
    /// Reach what a peer exposes
    Reach(Box<ReachArgs>),
    /// Print this host's public key
    Key {
        /// Its key pair, made if it is missing [default: identity in ~/.config/tcp-punch, for root
        /// in /etc/tcp-punch]
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        identity: Option<PathBuf>,
    },
    /// Run the rendezvous server: meetings, STUN over TCP and a clock
    Serve(ServeArgs),
    /// Check kernel, capabilities, eBPF, clock and firewall; name the command that mends each
    ///
    /// To root it also shows what the eBPF datapaths that run now, other processes' too, have
    /// counted.
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure what this host's NAT does with TCP, and say what that means
    Nat(NatArgs),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
    /// Draw the reports of one end, or of both, as a packet ladder
    #[command(hide = true)]
    Ladder {
        /// The left end's report
        a: PathBuf,
        /// The right end's report
        b: Option<PathBuf>,
        /// Draw SVG instead of text
        #[arg(long)]
        svg: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn clap_finds_no_fault() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_command_keeps_its_own_options() {
        let args = Args::parse_from(["tcp-punch", "--peer", "x:1", "--", "cat", "--at", "-n"]);
        assert_eq!(args.punch.destination.command, ["cat", "--at", "-n"]);
        assert_eq!(args.punch.at, None);
    }

    #[test]
    fn subcommands_need_no_peer() {
        let args = Args::parse_from(["tcp-punch", "doctor", "--json"]);
        assert!(matches!(args.command, Some(Command::Doctor { json: true })));
    }

    #[test]
    fn help_ends_with_the_two_examples() {
        let help = Args::command().render_long_help().to_string();
        assert!(help.trim_end().ends_with(EXAMPLES), "{help}");
        assert!(!help.contains("ladder A"), "{help}");
    }
}
