//! A ladder as an SVG sequence diagram: time runs downwards, arrows slant from the moment of
//! sending to the moment of arrival, so that packets that crossed in flight are seen to cross.

use super::{Arrow, Kind, Ladder, Row, Side, ms};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const WIDTH: i32 = 900;
/// The lifelines.
const LEFT: i32 = 120;
const RIGHT: i32 = WIDTH - LEFT;
/// From one moment to the next.
const STEP: i32 = 36;
/// How far an arrow falls when its other moment is not known.
const FALL: i32 = 8;
/// How many characters fit between the lifelines.
const MOST_CHARS: usize = 76;

/// Colours carry light and dark; a renderer without media queries shows the light one.
const STYLE: &str = "\
text{font:13px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;fill:#1f2328}
.title{font-size:15px;font-weight:bold}
.time{font-size:12px;fill:#59636e}
.what{fill:#59636e}
.halo{paint-order:stroke;stroke:#fff;stroke-width:5px;stroke-linejoin:round}
.paper{fill:#fff}
.rail{stroke:#8c959f;stroke-width:2}
.instant{stroke:#8c959f;stroke-dasharray:2 5}
.arrow{fill:none;stroke-width:1.8}
.short{stroke-dasharray:6 4}
.syn{stroke:#0969da}.ack{stroke:#1a7f37}.rst{stroke:#cf222e}.icmp{stroke:#bc4c00}
.head{stroke:none}
.syn.head{fill:#0969da}.ack.head{fill:#1a7f37}.rst.head{fill:#cf222e}.icmp.head{fill:#bc4c00}
.mark{fill:#8250df}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.time,.what{fill:#9198a1}.halo{stroke:#0d1117}.paper{fill:#0d1117}
.rail,.instant{stroke:#656c76}.mark{fill:#ab7df8}
.syn{stroke:#4493f8}.ack{stroke:#3fb950}.rst{stroke:#f85149}.icmp{stroke:#db6d28}
.syn.head{fill:#4493f8}.ack.head{fill:#3fb950}.rst.head{fill:#f85149}.icmp.head{fill:#db6d28}
}";

impl Ladder {
    /// The ladder as a self-contained SVG document.
    pub fn svg(&self) -> String {
        let top = 44 + 22 * i32::try_from(self.title.len()).unwrap_or(0);
        let scale = Scale::of(self, top + 60);
        let bottom = scale.bottom + 16;
        let height = bottom + if self.omitted > 0 { 44 } else { 24 };
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<style>{STYLE}</style>\n\
             <rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n"
        );
        for (y, line) in (34..).step_by(22).zip(&self.title) {
            text(&mut svg, (24, y), "title", "start", line);
        }
        text(&mut svg, (LEFT - 8, top + 6), "", "start", &self.left);
        // Two long (IPv6) names would meet on one line.
        text(&mut svg, (RIGHT + 8, top + 24), "", "end", &self.right);
        text(&mut svg, (LEFT - 12, top + 32), "time", "end", "ms");
        for x in [LEFT, RIGHT] {
            let _ = writeln!(
                svg,
                "<line class=\"rail\" x1=\"{x}\" y1=\"{}\" x2=\"{x}\" y2=\"{bottom}\"/>",
                top + 34
            );
        }
        let y = scale.y((0, Rank::Instant));
        let _ = writeln!(
            svg,
            "<line class=\"instant\" x1=\"{LEFT}\" y1=\"{y}\" x2=\"{RIGHT}\" y2=\"{y}\"/>"
        );
        text(&mut svg, (WIDTH / 2, y - 4), "time halo", "middle", "the instant");
        text(&mut svg, (LEFT - 12, y + 4), "time", "end", &ms(0));
        // All lines before all labels, so that no line strikes through a label.
        for row in &self.rows {
            if let Row::Arrow(arrow) = row {
                draw(&mut svg, arrow, &scale);
            }
        }
        for row in &self.rows {
            match row {
                Row::Arrow(arrow) => label(&mut svg, arrow, &scale),
                Row::Mark { side, at_ns, text } => {
                    mark(&mut svg, *side, scale.y((*at_ns, Rank::Mark)), text);
                }
            }
        }
        for (side, moment) in self.moments() {
            let (x, anchor) = match side {
                Side::Left => (LEFT - 12, "end"),
                Side::Right => (RIGHT + 12, "start"),
            };
            text(&mut svg, (x, scale.y(moment) + 4), "time", anchor, &ms(moment.0));
        }
        if self.omitted > 0 {
            let more = format!("{} more packets left out", self.omitted);
            text(&mut svg, (WIDTH / 2, bottom + 24), "time", "middle", &more);
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Every moment that is known, with the end that knows it.
    fn moments(&self) -> Vec<(Side, Moment)> {
        let mut moments = Vec::new();
        for row in &self.rows {
            match row {
                Row::Mark { side, at_ns, .. } => moments.push((*side, (*at_ns, Rank::Mark))),
                Row::Arrow(arrow) => {
                    let known =
                        [(arrow.from, arrow.sent_ns), (arrow.from.other(), arrow.arrived_ns)];
                    for (side, at) in known {
                        moments.extend(at.map(|at| (side, (at, Rank::Packet))));
                    }
                }
            }
        }
        moments
    }
}

/// When, and in which order what happened at the same time is drawn.
type Moment = (i64, Rank);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Instant,
    Packet,
    /// Follows from a packet that came at the same time, and needs a line of its own.
    Mark,
}

/// Moments in order, each on its own height: true distances would squeeze what matters, some
/// microseconds around the instant, into one line.
struct Scale {
    heights: BTreeMap<Moment, i32>,
    bottom: i32,
}

impl Scale {
    fn of(ladder: &Ladder, top: i32) -> Self {
        let instant = (0, Rank::Instant);
        let mut heights: BTreeMap<Moment, i32> =
            ladder.moments().into_iter().map(|(_, moment)| (moment, top)).collect();
        heights.insert(instant, top);
        let mut y = top;
        let mut before = None;
        for ((ns, _), height) in &mut heights {
            y += match before {
                None => 0,
                Some(before) if ns.saturating_sub(before) > 5_000_000 => STEP * 4 / 3,
                Some(_) => STEP,
            };
            before = Some(*ns);
            *height = y;
        }
        Self { heights, bottom: y + FALL }
    }

    fn y(&self, moment: Moment) -> i32 {
        self.heights.get(&moment).copied().unwrap_or(self.bottom)
    }

    /// Heights of an arrow's two ends.
    fn ends(&self, arrow: &Arrow) -> (i32, i32) {
        let y = |at| self.y((at, Rank::Packet));
        match (arrow.sent_ns, arrow.arrived_ns) {
            // A clock that is behind may have it arrive before it left: drawn level.
            (Some(sent), Some(arrived)) => (y(sent), y(arrived.max(sent))),
            (Some(sent), None) => (y(sent), y(sent) + FALL),
            (None, Some(arrived)) => (y(arrived) - FALL, y(arrived)),
            (None, None) => (self.bottom, self.bottom),
        }
    }
}

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Syn => "syn",
        Kind::Ack => "ack",
        Kind::Reset => "rst",
        Kind::Icmp => "icmp",
    }
}

fn draw(svg: &mut String, arrow: &Arrow, scale: &Scale) {
    let (y1, y2) = scale.ends(arrow);
    let (x1, x2) = match arrow.from {
        Side::Left => (LEFT + 2, RIGHT - 2),
        Side::Right => (RIGHT - 2, LEFT + 2),
    };
    let class = class(arrow.kind);
    let middle = ((x1 + x2) / 2, (y1 + y2) / 2);
    let lost = !arrow.whole && arrow.sent_ns.is_some();
    let ((x1, y1), (x2, y2)) = match arrow.whole {
        true => ((x1, y1), (x2, y2)),
        false if lost => ((x1, y1), middle),
        false => (middle, (x2, y2)),
    };
    let short = if arrow.whole { "" } else { " short" };
    let _ = writeln!(
        svg,
        "<line class=\"arrow {class}{short}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"
    );
    let _ = if lost {
        writeln!(
            svg,
            "<path class=\"arrow {class}\" d=\"M{} {}l10 10m0 -10l-10 10\"/>",
            x2 - 5,
            y2 - 5
        )
    } else {
        // Triangle pointing right, turned to the line's direction.
        let angle = f64::from(y2 - y1).atan2(f64::from(x2 - x1)).to_degrees();
        writeln!(
            svg,
            "<path class=\"{class} head\" d=\"M0 0L-11 -5L-11 5Z\" \
             transform=\"translate({x2} {y2}) rotate({angle:.1})\"/>"
        )
    };
}

/// The words stand above the arrow's beginning, where no other line is; those of a packet that a
/// router made stand in the free half beside it.
fn label(svg: &mut String, arrow: &Arrow, scale: &Scale) {
    let (y, _) = scale.ends(arrow);
    let made_on_the_way = !arrow.whole && arrow.sent_ns.is_none();
    let (x, y, anchor) = match (arrow.from, made_on_the_way) {
        (Side::Left, false) => (LEFT + 14, y - 5, "start"),
        (Side::Right, false) => (RIGHT - 14, y - 5, "end"),
        (Side::Left, true) => (WIDTH / 2 - 10, y + 7, "end"),
        (Side::Right, true) => (WIDTH / 2 + 10, y + 7, "start"),
    };
    let most = if made_on_the_way { MOST_CHARS / 2 } else { MOST_CHARS };
    let room = most.saturating_sub(arrow.label.chars().count());
    let mut what: String = arrow.what.chars().take(room).collect();
    if what.len() < arrow.what.len() {
        what.push('…');
    }
    let _ = writeln!(
        svg,
        "<text class=\"halo\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{}\
         <tspan class=\"what\" dx=\"12\">{}</tspan></text>",
        escaped(&arrow.label),
        escaped(&what)
    );
}

fn mark(svg: &mut String, side: Side, y: i32, words: &str) {
    let (x, at, anchor) = match side {
        Side::Left => (LEFT, LEFT + 14, "start"),
        Side::Right => (RIGHT, RIGHT - 14, "end"),
    };
    let _ = writeln!(svg, "<path class=\"mark\" d=\"M{x} {}l7 7l-7 7l-7 -7Z\"/>", y - 7);
    text(svg, (at, y + 4), "mark halo", anchor, words);
}

fn text(svg: &mut String, (x, y): (i32, i32), class: &str, anchor: &str, words: &str) {
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>",
        escaped(words)
    );
}

/// Text as XML content; characters that XML cannot hold at all become a replacement.
fn escaped(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    for c in words.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::reports;
    use super::*;

    #[test]
    fn what_others_sent_cannot_break_the_document() {
        let (mut a, _) = reports();
        a.verdict = "</text><script>&\"\u{1b}".to_owned();
        let svg = Ladder::of_one(&a).svg();
        assert!(svg.contains("&lt;/text&gt;&lt;script&gt;&amp;&quot;\u{fffd}"));
        assert!(!svg.contains("<script>"));
    }

    #[test]
    fn every_packet_has_an_arrow_and_crossed_syns_cross() {
        let (a, b) = reports();
        let ladder = Ladder::of_both(&a, &b);
        assert_eq!(ladder.svg().matches("<line class=\"arrow").count(), 8);
        let scale = Scale::of(&ladder, 0);
        let syns: Vec<(i32, i32)> = ladder
            .rows
            .iter()
            .filter_map(|row| match row {
                Row::Arrow(a) if a.kind == Kind::Syn && a.whole => Some(scale.ends(a)),
                _ => None,
            })
            .collect();
        let [(sent_a, arrived_a), (sent_b, arrived_b)] = syns[..] else { panic!("{syns:?}") };
        assert!(sent_a < arrived_b && sent_b < arrived_a);
    }
}
