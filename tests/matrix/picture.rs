//! A matrix as an SVG heat map of two triangles: below the diagonal tcp-punch, above it connect().
//! Of meetings there is the lower one alone.
//! The colour says how many trials connected. The number is the median in milliseconds where all
//! did, else how many did, in percent.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::cell::{Cell, Matrix, Score};
use crate::oracle::Expectation;

// All kinds together are some 900 wide, as a README shows pictures.
const CELL_WIDTH: usize = 24;
const CELL_HEIGHT: usize = 22;
/// Between the triangles.
const GAP: usize = 8;
/// For the names of the rows, at either side, and of the columns, above and below.
const MARGIN: usize = 98;
const TITLE: usize = 34;
/// What the legend takes.
const LEAST_WIDTH: usize = 760;
const LINE: usize = 17;
/// Characters of the legend in one line.
const LINE_CHARACTERS: usize = 112;

/// Colours carry light and dark; a renderer without media queries shows the light one. The cells'
/// own are pale enough for dark words on either.
const STYLE: &str = "\
text{font:12px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#1f2328}
.title{font-size:15px;font-weight:bold}
.note{font-size:12px;fill:#59636e}
.paper{fill:#fff}
.none{fill:#eaeef2}
.cell{font-size:11px;fill:#1f2328}
.less{font-size:10px;font-weight:bold;fill:#1f2328}
.cross{font-size:11px;fill:#59636e}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.note{fill:#9198a1}.paper{fill:#0d1117}.none{fill:#30363d}
.cell,.less{fill:#1f2328}.cross{fill:#9198a1}
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
        let alone = self.is_of_meetings();
        // One more column, for either triangle has the diagonal.
        let right = MARGIN + (count + 1) * CELL_WIDTH + GAP;
        let top = if alone { GAP } else { TITLE + MARGIN };
        let bottom = top + count * CELL_HEIGHT;
        let foot = bottom + MARGIN;
        let notes = self.notes();
        let width = (right + MARGIN).max(LEAST_WIDTH);
        let height = foot + 3 * LINE + notes.len() * LINE + 8;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\">\n<style>{STYLE}</style>\n\
             <rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n"
        );
        let below = if alone {
            "tcp-punch meet: both are told nothing but a code"
        } else {
            "below the diagonal: tcp-punch"
        };
        text(&mut svg, (16, foot + 6), "title", "start", below);
        if !alone {
            let above = "above the diagonal: a loop of timed connect()";
            text(&mut svg, (width - 16, 26), "title", "end", above);
        }
        for (row, kind) in self.kinds.iter().enumerate() {
            let y = top + row * CELL_HEIGHT;
            let middle = y + CELL_HEIGHT / 2 + 4;
            text(&mut svg, (MARGIN - 6, middle), "", "end", kind.name);
            let below = MARGIN + row * CELL_WIDTH;
            slanted(&mut svg, (below + CELL_WIDTH / 2 + 6, bottom + 12), "end", kind.name);
            if !alone {
                let above = below + CELL_WIDTH + GAP;
                text(&mut svg, (right + 6, middle), "", "start", kind.name);
                slanted(&mut svg, (above + CELL_WIDTH / 2, top - 6), "start", kind.name);
            }
            for (column, other) in self.kinds.iter().enumerate() {
                let Some(cell) = self.pairs.iter().find(|it| it.is_of(kind.name, other.name))
                else {
                    continue;
                };
                let x = MARGIN + column * CELL_WIDTH;
                if column <= row {
                    draw(&mut svg, (x, y), &Look::of(&cell.punch, cell));
                }
                if let Some(connect) = cell.connect.as_ref().filter(|_| column >= row) {
                    draw(&mut svg, (x + CELL_WIDTH + GAP, y), &Look::of(connect, cell));
                }
            }
        }
        let examples = [
            (
                Look::share(100.0, "20"),
                "every trial connected, after so many milliseconds (median)",
            ),
            (Look::share(90.0, "90%"), "so many did"),
            (Look::share(0.0, "0"), "none did"),
            (Look::impossible(), "no way with a key"),
        ];
        let mut x = 16;
        for (look, words) in examples {
            draw(&mut svg, (x, foot + LINE), &look);
            text(&mut svg, (x + CELL_WIDTH + 6, foot + LINE + 15), "note", "start", words);
            x += CELL_WIDTH + 24 + words.len() * 6;
        }
        for (y, line) in (foot + 3 * LINE + 4..).step_by(LINE).zip(notes) {
            text(&mut svg, (16, y), "note", "start", &line);
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// What the colours do not say.
    fn notes(&self) -> Vec<String> {
        let whys: BTreeSet<_> = (self.pairs.iter())
            .filter_map(|cell| match &cell.oracle {
                Expectation::Impossible { why } => Some(format!("✕ {why}.")),
                Expectation::Possible { .. } => None,
            })
            .collect();
        let span = if self.is_of_meetings() {
            "the second program's start until both have the other's byte"
        } else {
            "the instant until both ends have the connection"
        };
        let time =
            format!("Milliseconds from {span}, the one-way delay being {}.", self.one_way_delay);
        [time].into_iter().chain(whys).flat_map(|note| lines(&note)).collect()
    }
}

/// Broken at spaces.
fn lines(words: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in words.split(' ') {
        let last = lines.last_mut().expect("there is one");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + word.chars().count() < LINE_CHARACTERS {
            let _ = write!(last, " {word}");
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// How a cell looks.
struct Look {
    fill: String,
    class: &'static str,
    words: String,
}

impl Look {
    fn of(score: &Score, cell: &Cell) -> Self {
        let impossible = matches!(cell.oracle, Expectation::Impossible { .. });
        match (score.percent(), score.median_ms) {
            // That nothing connects where nothing can is no failure.
            (Some(percent), _) if impossible && percent == 0.0 => Self::impossible(),
            (Some(percent), Some(ms)) if percent == 100.0 => {
                Self::share(percent, &format!("{ms:.0}"))
            }
            (Some(percent), None) => Self::share(percent, "0"),
            // What is not quite all is not shown as all.
            (Some(percent), _) => Self::share(percent, &format!("{:.0}%", percent.floor())),
            (None, _) => Self { words: "–".to_owned(), ..Self::impossible() },
        }
    }

    fn share(percent: f64, words: &str) -> Self {
        let tenth = ((percent / 10.0).floor() as usize).min(COLOURS.len() - 1);
        let class = if words.ends_with('%') { "less" } else { "cell" };
        Self { fill: format!("fill=\"{}\"", COLOURS[tenth]), class, words: words.to_owned() }
    }

    fn impossible() -> Self {
        Self { fill: "class=\"none\"".to_owned(), class: "cross", words: "✕".to_owned() }
    }
}

fn draw(svg: &mut String, (x, y): (usize, usize), look: &Look) {
    let _ = writeln!(
        svg,
        "<rect {} x=\"{}.5\" y=\"{}.5\" width=\"{}\" height=\"{}\" rx=\"2\"/>",
        look.fill,
        x,
        y,
        CELL_WIDTH - 1,
        CELL_HEIGHT - 1
    );
    text(svg, (x + CELL_WIDTH / 2, y + CELL_HEIGHT / 2 + 4), look.class, "middle", &look.words);
}

/// Names of kinds and the oracle's words have no characters that XML reserves.
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
