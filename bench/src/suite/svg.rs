//! Line charts as SVG: small, without scripts or fonts of their own.

use std::{fmt::Write, fs, path::Path};

use anyhow::Context;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 76.0;
const TOP: f64 = 64.0;
const RIGHT: f64 = 250.0;
const BOTTOM: f64 = 60.0;
/// Colours that people with any colour vision tell apart (Okabe and Ito).
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555",
];
/// Dashes for when there are more lines than colours.
const DASHES: [&str; 3] = ["", "7 4", "2 3"];

/// A chart of lines over one axis.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    /// In smaller letters below the title.
    pub(crate) about: String,
    pub(crate) x_name: String,
    pub(crate) x: XAxis,
    pub(crate) y_name: String,
    pub(crate) y: YAxis,
    pub(crate) lines: Vec<Line>,
    /// A limit with its name, over the whole width.
    pub(crate) limit: Option<(String, f64)>,
}

#[derive(Clone, Debug)]
pub(crate) enum XAxis {
    /// Points are at 0, 1, 2 and so on.
    Names(Vec<String>),
    /// From the first point to the last.
    Numbers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum YAxis {
    /// From zero.
    Linear,
    /// In powers of ten; what is not above zero is left out.
    Logarithmic,
}

#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A chart and what its file is called.
pub(crate) struct Picture {
    pub(crate) name: String,
    pub(crate) chart: Chart,
}

impl Picture {
    /// Writes its file.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let file = folder.join(format!("{}.svg", self.name));
        fs::write(&file, self.chart.draw()).with_context(|| file.display().to_string())
    }

    /// As a report shows it that is beside its file.
    pub(crate) fn in_markdown(&self) -> String {
        format!("\n![{}]({}.svg)\n", self.chart.title, self.name)
    }
}

/// What is on the axes.
struct Scale {
    x: (f64, f64),
    y: (f64, f64),
    axis: YAxis,
}

impl Scale {
    fn of(chart: &Chart) -> Self {
        let points = || chart.lines.iter().flat_map(|line| &line.points);
        let xs = points().map(|(x, _)| *x);
        let x = match &chart.x {
            XAxis::Names(names) => (-0.3, names.len() as f64 - 0.7),
            XAxis::Numbers => {
                let (min, max) = bounds(xs).unwrap_or((0.0, 0.0));
                (min, if max > min { max } else { min + 1.0 })
            }
        };
        let limit = chart.limit.iter().map(|(_, limit)| *limit);
        let ys = points().map(|(_, y)| *y).chain(limit);
        let y = match chart.y {
            YAxis::Linear => (0.0, bounds(ys).map_or(1.0, |(_, max)| max.max(1.0)) * 1.05),
            YAxis::Logarithmic => {
                let (min, max) = bounds(ys.filter(|y| *y > 0.0)).unwrap_or((1.0, 10.0));
                (min.log10().floor(), (max * 1.05).log10().ceil())
            }
        };
        let axis = chart.y;
        Self { x, y, axis }
    }

    fn x(&self, x: f64) -> f64 {
        let part = (x - self.x.0) / (self.x.1 - self.x.0);
        LEFT + part * (WIDTH - LEFT - RIGHT)
    }

    /// `None` for what an axis of logarithms does not have.
    fn y(&self, y: f64) -> Option<f64> {
        let value = match self.axis {
            YAxis::Linear => y,
            YAxis::Logarithmic if y > 0.0 => y.log10(),
            YAxis::Logarithmic => return None,
        };
        let part = (value - self.y.0) / (self.y.1 - self.y.0);
        Some(HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM))
    }

    fn y_ticks(&self) -> Vec<f64> {
        match self.axis {
            YAxis::Linear => ticks(self.y.0, self.y.1),
            YAxis::Logarithmic => (self.y.0 as i32..=self.y.1 as i32)
                .map(|power| 10_f64.powi(power))
                .collect(),
        }
    }
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |bounds, value| match bounds {
        None => Some((value, value)),
        Some((min, max)) => Some((value.min(min), value.max(max))),
    })
}

/// Round numbers, about five of them; `to` is above `from`.
fn ticks(from: f64, to: f64) -> Vec<f64> {
    let rough = (to - from) / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let step = steps.into_iter().find(|step| step * power >= rough);
    let step = step.unwrap_or(10.0) * power;
    let first = (from / step).ceil() as i64;
    let last = (to / step).floor() as i64;
    (first..=last).map(|tick| tick as f64 * step).collect()
}

/// A number on an axis, short.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        value if value >= 1e9 => (value / 1e9, " G"),
        value if value >= 1e6 => (value / 1e6, " M"),
        value if value >= 1e3 => (value / 1e3, " k"),
        value => (value, ""),
    };
    // As many decimals as it has, up to two.
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

impl Chart {
    /// The picture.
    pub(crate) fn draw(&self) -> String {
        let scale = Scale::of(self);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
        );
        text(
            &mut svg,
            LEFT,
            26.0,
            "font-size=\"17\" font-weight=\"bold\"",
            &self.title,
        );
        text(&mut svg, LEFT, 46.0, "fill=\"#555\"", &self.about);
        self.axes(&mut svg, &scale);
        if let Some((name, limit)) = &self.limit
            && let Some(y) = scale.y(*limit)
        {
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {y:.1}H{:.1}\" stroke=\"#222\" stroke-width=\"1.5\" \
                 stroke-dasharray=\"10 5\"/>",
                WIDTH - RIGHT
            );
            text(&mut svg, WIDTH - RIGHT + 10.0, y + 4.0, "", name);
        }
        for (number, line) in self.lines.iter().enumerate() {
            self.line(&mut svg, &scale, style(number), line);
        }
        self.legend(&mut svg, &scale);
        svg += "</svg>\n";
        svg
    }

    fn axes(&self, svg: &mut String, scale: &Scale) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in scale.y_ticks() {
            let Some(y) = scale.y(tick) else { continue };
            let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/>");
            text(
                svg,
                LEFT - 8.0,
                y + 4.0,
                "text-anchor=\"end\"",
                &short(tick),
            );
        }
        let names: Vec<(f64, String)> = match &self.x {
            XAxis::Names(names) => {
                let places = (0..names.len()).map(|at| at as f64);
                places.zip(names.iter().cloned()).collect()
            }
            XAxis::Numbers => {
                let ticks = ticks(scale.x.0, scale.x.1).into_iter();
                ticks.map(|tick| (tick, short(tick))).collect()
            }
        };
        for (x, name) in names {
            let middle = "text-anchor=\"middle\"";
            text(svg, scale.x(x), bottom + 20.0, middle, &name);
        }
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" stroke=\"#222\" fill=\"none\"/>"
        );
        let middle = (LEFT + right) / 2.0;
        text(
            svg,
            middle,
            bottom + 44.0,
            "text-anchor=\"middle\"",
            &self.x_name,
        );
        let turned = format!(
            "text-anchor=\"middle\" transform=\"rotate(-90 18 {0})\"",
            (TOP + bottom) / 2.0
        );
        text(svg, 18.0, (TOP + bottom) / 2.0, &turned, &self.y_name);
    }

    fn line(&self, svg: &mut String, scale: &Scale, style: Style, line: &Line) {
        let points = line.points.iter();
        let points = points.filter_map(|(x, y)| Some((scale.x(*x), scale.y(*y)?)));
        let points: Vec<(f64, f64)> = points.collect();
        let mut path = String::new();
        for (at, (x, y)) in points.iter().enumerate() {
            let _ = write!(path, "{}{x:.1} {y:.1}", if at == 0 { "M" } else { "L" });
        }
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2.5\" \
             stroke-dasharray=\"{}\" stroke-linejoin=\"round\"/>",
            style.colour, style.dash
        );
        // Where points are few, each can be seen.
        if matches!(self.x, XAxis::Names(_)) {
            for (x, y) in points {
                let colour = style.colour;
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>"
                );
            }
        }
    }

    /// Names beside the ends of the lines, or as near to them as there is room.
    fn legend(&self, svg: &mut String, scale: &Scale) {
        let end = |line: &Line| line.points.last().and_then(|(_, y)| scale.y(*y));
        let mut names: Vec<(f64, usize)> = (self.lines.iter().enumerate())
            .map(|(number, line)| (end(line).unwrap_or(HEIGHT - BOTTOM), number))
            .collect();
        let limit = self.limit.as_ref().and_then(|(_, limit)| scale.y(*limit));
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (x, mut lowest) = (WIDTH - RIGHT + 10.0, TOP - 10.0);
        for (y, number) in names {
            let mut y = y.max(lowest + 18.0);
            if limit.is_some_and(|limit| (y - limit).abs() < 18.0) {
                y = limit.map_or(y, |limit| limit + 18.0);
            }
            lowest = y;
            let Style { colour, dash } = style(number);
            let _ = writeln!(
                svg,
                "<path d=\"M{x} {y:.1}h24\" stroke=\"{colour}\" stroke-width=\"2.5\" \
                 stroke-dasharray=\"{dash}\"/>"
            );
            text(svg, x + 30.0, y + 4.0, "", &self.lines[number].name);
        }
    }
}

#[derive(Clone, Copy)]
struct Style {
    colour: &'static str,
    dash: &'static str,
}

fn style(number: usize) -> Style {
    Style {
        colour: COLOURS[number % COLOURS.len()],
        dash: DASHES[number / COLOURS.len() % DASHES.len()],
    }
}

fn text(svg: &mut String, x: f64, y: f64, attributes: &str, text: &str) {
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(y: YAxis, points: Vec<(f64, f64)>) -> Chart {
        Chart {
            title: "a < b & c".into(),
            about: String::new(),
            x_name: "x".into(),
            x: XAxis::Numbers,
            y_name: "y".into(),
            y,
            lines: vec![Line {
                name: "one".into(),
                points,
            }],
            limit: Some(("limit".into(), 100.0)),
        }
    }

    #[test]
    fn higher_values_are_higher_up_and_later_ones_further_right() {
        for axis in [YAxis::Linear, YAxis::Logarithmic] {
            let chart = chart(axis, vec![(0.0, 1.0), (1.0, 10.0)]);
            let scale = Scale::of(&chart);
            assert!(scale.y(10.0) < scale.y(1.0), "{axis:?}");
            assert!(scale.x(1.0) > scale.x(0.0));
            // The limit is within the picture.
            assert!(scale.y(100.0) >= Some(TOP), "{axis:?}");
        }
    }

    #[test]
    fn what_is_odd_is_drawn_without_odd_numbers() {
        let odd = [
            vec![],
            vec![(0.0, 0.0)],
            vec![(1.0, 0.0), (1.0, 0.0)],
            vec![(0.0, 1e12), (1.0, 0.001)],
        ];
        for points in odd {
            for axis in [YAxis::Linear, YAxis::Logarithmic] {
                let svg = chart(axis, points.clone()).draw();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{points:?}");
                assert!(svg.contains("a &lt; b &amp; c") && svg.ends_with("</svg>\n"));
            }
        }
    }

    #[test]
    fn ticks_are_round_numbers_within() {
        assert_eq!(ticks(0.0, 10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(short(1500.0), "1.5 k");
        assert_eq!(short(0.25), "0.25");
        assert_eq!(short(2e6), "2 M");
    }
}
