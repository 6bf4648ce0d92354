//! A ladder as text.

use super::{Arrow, Ladder, Row, Side, ms};
use crate::cli::exit::one_line;
use std::fmt::Write as _;

/// Columns between the two lifelines.
const SPAN: usize = 30;
/// Columns of a time.
const TIME: usize = 9;

impl Ladder {
    /// The ladder as lines of text, milliseconds relative to the instant at either side.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.title {
            let _ = writeln!(text, "{}", one_line(line));
        }
        let blank = " ".repeat(TIME);
        let _ = writeln!(text, "{:>TIME$}  {}", "ms", one_line(&self.left));
        let _ = writeln!(text, "{:>w$}", one_line(&self.right), w = TIME + 2 + SPAN + 2);
        let rail = format!("{blank}  │{}│", " ".repeat(SPAN));
        let _ = writeln!(text, "{rail}");
        let mut instant = self.rows.first().is_some_and(|row| row.at_ns() < 0);
        for (i, row) in self.rows.iter().enumerate() {
            if instant && row.at_ns() >= 0 {
                instant = false;
                let _ = writeln!(text, "{:>TIME$}  ┼{}┼ the instant", ms(0), "┄".repeat(SPAN));
            }
            if self.cut() == Some(i) {
                let _ = writeln!(text, "{blank}  ⋮ {} more left out", self.omitted);
            }
            let _ = writeln!(text, "{}", self.line(row).trim_end());
        }
        if self.cut() == Some(self.rows.len()) {
            let _ = writeln!(text, "{blank}  ⋮ {} more left out", self.omitted);
        }
        let _ = writeln!(text, "{rail}");
        text
    }

    fn line(&self, row: &Row) -> String {
        match row {
            Row::Mark { side: Side::Left, at_ns, text } => {
                format!("{:>TIME$}  ◆ {text:<w$}│", ms(*at_ns), w = SPAN - 1)
            }
            Row::Mark { side: Side::Right, at_ns, text } => {
                let blank = " ".repeat(TIME);
                format!("{blank}  │{text:>w$} ◆{:>TIME$}", ms(*at_ns), w = SPAN - 1)
            }
            Row::Arrow(arrow) => self.arrow(arrow),
        }
    }

    fn arrow(&self, arrow: &Arrow) -> String {
        let (left_ns, right_ns) = match arrow.from {
            Side::Left => (arrow.sent_ns, arrow.arrived_ns),
            Side::Right => (arrow.arrived_ns, arrow.sent_ns),
        };
        let time = |ns: Option<i64>| ns.map(ms).unwrap_or_default();
        let label = format!(" {} ", one_line(&arrow.label));
        let shaft = SPAN.saturating_sub(label.chars().count() + 1);
        let long = "─".repeat(shaft);
        let (line, gap) = ("─".repeat(shaft / 2), " ".repeat(shaft - shaft / 2));
        // Lost on the way, or made on the way.
        let lost = !arrow.whole && arrow.sent_ns.is_some();
        let body = match (arrow.from, arrow.whole) {
            (Side::Left, true) => format!("├{label}{long}▶│"),
            (Side::Right, true) => format!("│◀{long}{label}┤"),
            (Side::Left, false) if lost => format!("├{label}{line}✕{gap}│"),
            (Side::Right, false) if lost => format!("│{gap}✕{line}{label}┤"),
            (Side::Left, false) => format!("│{gap}{label}{line}▶│"),
            (Side::Right, false) => format!("│◀{line}{label}{gap}│"),
        };
        let right = if self.both { format!("{:>TIME$}", time(right_ns)) } else { String::new() };
        format!("{:>TIME$}  {body}{right}  {}", time(left_ns), one_line(&arrow.what))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::reports;
    use super::*;

    #[test]
    fn both_ends() {
        let (a, b) = reports();
        assert_eq!(
            Ladder::of_both(&a, &b).text(),
            "\
A: connected 20.2 ms after the instant
B: connected 20.1 ms after the instant
       ms  A 10.0.1.2:40000
                           B 10.0.2.2:40001
           │                              │
           │      ✕────── SYN seq 0 ttl 2 ┤ -249.996  opener
 -249.992  ├ SYN seq 0 ttl 2 ──────✕      │           opener
           │             ICMP ───────────▶│ -247.786  time exceeded from 198.18.0.1
 -247.782  │◀─────────── ICMP             │           time exceeded from 198.18.0.1
    0.000  ┼┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┼ the instant
   10.049  │◀────────────────── SYN seq 0 ┤    0.009  SYN at the instant
    0.017  ├ SYN seq 0 ──────────────────▶│   10.057  SYN at the instant
   10.049  ├ SYN-ACK seq 0 ack 1 ────────▶│   20.120  SYN-ACK, by the kernel
   20.126  │◀──────── SYN-ACK seq 0 ack 1 ┤   10.088  SYN-ACK to the peer's SYN
           │                  established ◆   20.120
   20.126  ◆ established                  │
   20.238  ◆ descriptor ready             │
           │             descriptor ready ◆   20.238
           │                              │
"
        );
    }

    #[test]
    fn one_end() {
        let (a, _) = reports();
        assert_eq!(
            Ladder::of_one(&a).text(),
            "\
connected 20.2 ms after the instant
       ms  this host 10.0.1.2:40000
                     peer 203.0.113.2:40001
           │                              │
 -249.992  ├ SYN seq 0 ttl 2 ──────✕      │  opener
 -247.782  │◀─────────── ICMP             │  time exceeded from 198.18.0.1
    0.000  ┼┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┼ the instant
    0.017  ├ SYN seq 0 ──────────────────▶│  SYN at the instant
   10.049  │◀────────────────── SYN seq 0 ┤  peer's SYN
   10.049  ├ SYN-ACK seq 0 ack 1 ────────▶│  SYN-ACK, by the kernel
   20.126  │◀──────── SYN-ACK seq 0 ack 1 ┤  peer's SYN-ACK: established
   20.126  ◆ established                  │
   20.238  ◆ descriptor ready             │
           │                              │
"
        );
    }
}
