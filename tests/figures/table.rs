//! The figures side by side, for people and for programs.

use std::fmt::Write;

use serde::Serialize;

use crate::machine::Machine;
use crate::sample::Summary;

/// One figure beside its alternative.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) figure: String,
    pub(crate) measured: String,
    pub(crate) alternative: String,
    pub(crate) ratio: String,
    pub(crate) bar: &'static str,
    pub(crate) met: bool,
}

/// What one figure's measurement came to.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Measured {
    pub(crate) rows: Vec<Row>,
    pub(crate) samples: Vec<Summary>,
    /// How it was measured, and what else was seen.
    pub(crate) notes: Vec<String>,
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) machine: Machine,
    pub(crate) rows: Vec<Row>,
    pub(crate) samples: Vec<Summary>,
    pub(crate) notes: Vec<String>,
}

const HEADER: [&str; 6] = ["figure", "measured", "alternative", "ratio", "bar", "met?"];

impl Row {
    fn cells(&self) -> [String; 6] {
        let met = if self.met { "yes" } else { "NO" };
        let [figure, measured, alternative, ratio] =
            [&self.figure, &self.measured, &self.alternative, &self.ratio].map(Clone::clone);
        [figure, measured, alternative, ratio, self.bar.to_owned(), met.to_owned()]
    }
}

impl Table {
    pub(crate) fn new(machine: Machine, figures: Vec<Measured>) -> Self {
        let mut table = Self { machine, rows: vec![], samples: vec![], notes: vec![] };
        for figure in figures {
            table.rows.extend(figure.rows);
            table.samples.extend(figure.samples);
            table.notes.extend(figure.notes);
        }
        table
    }

    /// As Markdown, in columns so that a terminal shows a table as well.
    pub(crate) fn to_markdown(&self) -> String {
        let mut text = format!("{}\n\n", self.machine);
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| row.cells().to_vec()).collect();
        text += &columns(&HEADER, &rows);
        text += "\n";
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        text += "\n";
        let header = ["sample", "unit", "n", "min", "p50", "p90", "p99", "max"];
        let rows: Vec<Vec<String>> = self.samples.iter().map(sample_cells).collect();
        text + &columns(&header, &rows)
    }
}

fn sample_cells(sample: &Summary) -> Vec<String> {
    let mut cells = vec![sample.name.clone(), sample.unit.to_owned(), sample.count.to_string()];
    let values = [sample.min, sample.p50, sample.p90, sample.p99, sample.max];
    cells.extend(values.map(|value| format!("{value:.1}")));
    cells
}

fn columns(header: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(column, name)| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([name.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = String>| {
        let padded: Vec<String> =
            cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("| {} |\n", padded.join(" | "))
    };
    let mut text = line(&mut header.iter().map(|name| (*name).to_owned()));
    text += &line(&mut widths.iter().map(|width| "-".repeat(*width)));
    for row in rows {
        text += &line(&mut row.iter().cloned());
    }
    text
}
