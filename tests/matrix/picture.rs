//! A matrix as an SVG heat map of two triangles: below the diagonal tcp-punch, above it connect().
//! Colour and number say how many trials connected, the small number after how many milliseconds.

use std::fmt::Write as _;

use crate::cell::{Cell, Matrix, Score};
use crate::oracle::Expectation;

const CELL_WIDTH: usize = 54;
const CELL_HEIGHT: usize = 40;
/// Between the triangles.
const GAP: usize = 14;
/// For the names of the rows, at either side, and of the columns, above and below.
const MARGIN: usize = 112;
const TITLE: usize = 36;
/// What the legend takes.
const LEAST_WIDTH: usize = 560;
/// For the legend.
const FOOT: usize = 76;

/// Colours carry light and dark; a renderer without media queries shows the light one. The cells'
/// own are pale enough for dark words on either.
const STYLE: &str = "\
text{font:13px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#1f2328}
.title{font-size:16px;font-weight:bold}
.note{font-size:12px;fill:#59636e}
.paper{fill:#fff}
.none{fill:#eaeef2}
.rate{font-size:14px;font-weight:bold;fill:#1f2328}
.time{font-size:11px;fill:#333b44}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.note{fill:#9198a1}.paper{fill:#0d1117}.none{fill:#30363d}
.rate{fill:#1f2328}.time{fill:#333b44}.none+.rate{fill:#9198a1}
}";

/// From nothing to everything, in tenths: red, yellow, green.
const COLOURS: [&str; 11] = [
    "#f2a29b", "#f3ac96", "#f4b691", "#f5c08d", "#f6ca89", "#f7d486", "#e8d884", "#d5d986",
    "#c1d989", "#aad88e", "#8fd694",
];

impl Matrix {
    /// A self-contained SVG document.
    pub(crate) fn svg(&self) -> String {
        let count = self.kinds.len();
        // One more column, for either triangle has the diagonal.
        let right = MARGIN + (count + 1) * CELL_WIDTH + GAP;
        let top = TITLE + MARGIN;
        let bottom = top + count * CELL_HEIGHT;
        let (width, height) = ((right + MARGIN).max(LEAST_WIDTH), bottom + MARGIN + FOOT);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\">\n<style>{STYLE}</style>\n\
             <rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n"
        );
        text(&mut svg, (24, height - FOOT), "title", "start", "below the diagonal: tcp-punch");
        text(
            &mut svg,
            (width - 24, 32),
            "title",
            "end",
            "above the diagonal: a loop of timed connect()",
        );
        for (row, kind) in self.kinds.iter().enumerate() {
            let y = top + row * CELL_HEIGHT;
            let middle = y + CELL_HEIGHT / 2 + 5;
            text(&mut svg, (MARGIN - 8, middle), "", "end", kind.name);
            text(&mut svg, (right + 8, middle), "", "start", kind.name);
            let below = MARGIN + row * CELL_WIDTH;
            let above = below + CELL_WIDTH + GAP;
            slanted(&mut svg, (below + CELL_WIDTH / 2 + 6, bottom + 14), "end", kind.name);
            slanted(&mut svg, (above + CELL_WIDTH / 2 - 2, top - 8), "start", kind.name);
            for (column, other) in self.kinds.iter().enumerate() {
                let Some(cell) = self.pairs.iter().find(|it| it.is_of(kind.name, other.name))
                else {
                    continue;
                };
                let x = MARGIN + column * CELL_WIDTH;
                if column <= row {
                    draw(&mut svg, (x, y), &cell.punch, cell);
                }
                if column >= row {
                    draw(&mut svg, (x + CELL_WIDTH + GAP, y), &cell.connect, cell);
                }
            }
        }
        let legend = [
            "% of trials that connected; below it the median from the instant to both descriptors, ms",
            &format!(
                "one-way delay {}; ✕: no way through these two routers exists",
                self.one_way_delay
            ),
        ];
        for (y, line) in (height - FOOT + 24..).step_by(18).zip(legend) {
            text(&mut svg, (24, y), "note", "start", line);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn draw(svg: &mut String, (x, y): (usize, usize), score: &Score, cell: &Cell) {
    let impossible = matches!(cell.oracle, Expectation::Impossible { .. });
    let words = score.percent().map(|percent| format!("{percent:.0}"));
    let (fill, rate) = match (score.percent(), words) {
        // That nothing connects where nothing can is no failure.
        (Some(percent), Some(_)) if impossible && percent == 0.0 => {
            ("class=\"none\"".to_owned(), "✕".to_owned())
        }
        (Some(percent), Some(words)) => {
            let tenth = ((percent / 10.0).floor() as usize).min(10);
            (format!("fill=\"{}\"", COLOURS[tenth]), words)
        }
        _ => ("class=\"none\"".to_owned(), "–".to_owned()),
    };
    let _ = writeln!(
        svg,
        "<rect {fill} x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"3\"/>",
        x + 1,
        y + 1,
        CELL_WIDTH - 2,
        CELL_HEIGHT - 2
    );
    let middle = x + CELL_WIDTH / 2;
    text(
        svg,
        (middle, y + if score.median_ms.is_some() { 18 } else { 25 }),
        "rate",
        "middle",
        &rate,
    );
    if let Some(ms) = score.median_ms {
        let ms = if ms < 99.5 { format!("{ms:.1}") } else { format!("{ms:.0}") };
        text(svg, (middle, y + 33), "time", "middle", &ms);
    }
}

/// Names of kinds have no characters that XML reserves.
fn text(svg: &mut String, (x, y): (usize, usize), class: &str, anchor: &str, words: &str) {
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

fn slanted(svg: &mut String, (x, y): (usize, usize), anchor: &str, words: &str) {
    let _ = writeln!(
        svg,
        "<text transform=\"translate({x} {y}) rotate(-45)\" text-anchor=\"{anchor}\">{words}</text>"
    );
}
