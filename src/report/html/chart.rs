//! Charts as SVG that stands in the page.
//!
//! What is ink is drawn black and then handed to the page's own text colour, so that charts can be read on light and on dark
//! paper; the colours of series are ones that stand out from both.

use maud::{Markup, PreEscaped, html};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use std::error::Error;

/// Where a chart is drawn.
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Drawing into memory is not expected to fail.
type Drawn = Result<(), Box<dyn Error>>;

const WIDTH: u32 = 720;
const INK: RGBColor = RGBColor(0, 0, 0);
/// How [`INK`] is spelled in SVG, as a whole attribute: texts are escaped and hold no quotation marks.
const INK_VALUE: &str = "\"#000000\"";

/// Of the source model.
pub(super) const BEFORE: RGBColor = RGBColor(0x8a, 0x90, 0x9a);
/// Of the impaired weights.
pub(super) const IMPAIRED: RGBColor = RGBColor(0xd9, 0x82, 0x2b);
/// Of the finished model.
pub(super) const AFTER: RGBColor = RGBColor(0x3b, 0x82, 0xc4);
/// For series without a meaning of their own, in turn.
pub(super) const OTHERS: [RGBColor; 6] = [
    AFTER,
    IMPAIRED,
    RGBColor(0x2f, 0x9e, 0x6e),
    RGBColor(0xc0, 0x5a, 0x8e),
    RGBColor(0x8a, 0x6f, 0xd1),
    RGBColor(0xa8, 0x8a, 0x2c),
];

/// Values drawn in a curve at most; longer ones are averaged.
const POINTS: usize = 400;
/// Characters of a name beside a bar.
const NAME: usize = 26;

/// Horizontal bars: for each row a bar a series, from 0 to `max`. Names of the series stand in [`legend`].
pub(super) struct Bars<'a> {
    /// What the chart shows, for those who cannot see it.
    pub label: &'a str,
    /// Colour of each series.
    pub colours: &'a [RGBColor],
    /// Name and values, one a series; there is no bar without a value.
    pub rows: &'a [(String, Vec<Option<f64>>)],
    /// The longest bar.
    pub max: f64,
    /// How a value is written.
    pub show: fn(f64) -> String,
}

impl Bars<'_> {
    pub(super) fn draw(&self) -> Markup {
        const BAR: i32 = 14;
        const GAP: i32 = 8;
        let (left, right) = (200, WIDTH as i32 - 70);
        let row = BAR * self.colours.len() as i32 + GAP;
        let height = row * self.rows.len() as i32 + GAP;
        let max = if self.max > 0.0 { self.max } else { 1.0 };
        svg(height as u32, self.label, |area| {
            for ((name, values), top) in self.rows.iter().zip((0..).map(|i| GAP + i * row)) {
                let name_style = text(Pos::new(HPos::Right, VPos::Center));
                area.draw(&Text::new(short(name), (left - 8, top + (row - GAP) / 2), name_style))?;
                for ((value, colour), top) in values.iter().zip(self.colours).zip((top..).step_by(BAR as usize)) {
                    let Some(value) = value else { continue };
                    let end = left + (f64::from(right - left) * (value / max).clamp(0.0, 1.0)).round() as i32;
                    area.draw(&Rectangle::new([(left, top + 1), (end, top + BAR - 1)], colour.filled()))?;
                    let style = text(Pos::new(HPos::Left, VPos::Center));
                    area.draw(&Text::new((self.show)(*value), (end + 5, top + BAR / 2), style))?;
                }
            }
            area.draw(&PathElement::new([(left, 2), (left, height - 2)], INK.mix(0.6)))?;
            Ok(())
        })
    }
}

/// Curves over steps, counted from 1.
pub(super) fn curves(label: &str, series: &[(RGBColor, &[f32])]) -> Markup {
    let finite = || series.iter().flat_map(|(_, values)| values.iter().copied()).filter(|v| v.is_finite());
    let (low, high) =
        finite().map(f64::from).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let steps = series.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
    if low > high {
        return html! {};
    }
    let pad = if high > low { 0.05 * (high - low) } else { 1.0 };
    svg(240, label, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(26)
            .y_label_area_size(64)
            .build_cartesian_2d(1..steps.max(2), low - pad..high + pad)?;
        chart
            .configure_mesh()
            .label_style(text(Pos::new(HPos::Left, VPos::Top)))
            .axis_style(INK.mix(0.6))
            .bold_line_style(INK.mix(0.15))
            .light_line_style(TRANSPARENT)
            .x_labels(8)
            .y_labels(6)
            .draw()?;
        for (colour, values) in series {
            let points = averaged(values);
            if points.len() < 3 {
                chart.draw_series(points.iter().map(|&p| Circle::new(p, 3, colour.filled())))?;
            }
            chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
        }
        Ok(())
    })
}

/// Colours and their names.
pub(super) fn legend<'a>(entries: impl IntoIterator<Item = (RGBColor, &'a str)>) -> Markup {
    html! {
        p.legend {
            @for (RGBColor(r, g, b), name) in entries {
                span { i style=(format!("background:#{r:02x}{g:02x}{b:02x}")) {} (name) } " "
            }
        }
    }
}

/// At most [`POINTS`] points, each the mean of equally many steps, at the last of them.
fn averaged(values: &[f32]) -> Vec<(usize, f64)> {
    let each = values.len().div_ceil(POINTS).max(1);
    let mean = |part: &[f32]| part.iter().map(|&v| f64::from(v)).sum::<f64>() / part.len() as f64;
    values.chunks(each).enumerate().map(|(i, part)| (i * each + part.len(), mean(part))).collect()
}

fn short(name: &str) -> String {
    if name.chars().count() <= NAME {
        return name.to_owned();
    }
    // The end of a tensor's name tells more than the middle.
    let (first, last): (String, Vec<char>) = (name.chars().take(NAME / 2 - 1).collect(), name.chars().collect());
    let rest: String = last[last.len() - (NAME - NAME / 2)..].iter().collect();
    format!("{first}…{rest}")
}

fn text<'a>(at: Pos) -> TextStyle<'a> {
    ("sans-serif", 15).into_font().color(&INK).pos(at)
}

fn svg(height: u32, label: &str, draw: impl FnOnce(&Area<'_>) -> Drawn) -> Markup {
    let mut drawing = String::new();
    let drawn = {
        let area = SVGBackend::with_string(&mut drawing, (WIDTH, height)).into_drawing_area();
        draw(&area).and_then(|()| Ok(area.present()?))
    };
    if let Err(error) = drawn {
        return html! { p.note { "The chart could not be drawn: " (error) } };
    }
    let ink = drawing.replace(INK_VALUE, "\"currentColor\"");
    // The root element opens the text; its label goes where a screen reader looks.
    let inner = ink.strip_prefix("<svg").unwrap_or(&ink);
    html! { div.chart role="img" aria-label=(label) { (PreEscaped("<svg")) (PreEscaped(inner)) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_charts_are_escaped_and_their_ink_is_the_page_s() {
        let rows = [("<script>\"#000000\"".to_owned(), vec![Some(0.5), None])];
        let bars =
            Bars { label: "a \"label\"", colours: &[BEFORE, AFTER], rows: &rows, max: 1.0, show: |v| format!("{v}") };
        let chart = bars.draw().into_string();
        assert!(chart.contains("&lt;script&gt;&quot;#000000&quot;") && !chart.contains("<script"), "{chart}");
        assert!(chart.contains("fill=\"currentColor\"") && !chart.contains(INK_VALUE), "{chart}");
        assert!(chart.contains("aria-label=\"a &quot;label&quot;\""), "{chart}");
        assert_eq!(chart.matches("#8A909A").count(), 1, "a bar for the value, none for the other:\n{chart}");
        assert!(!chart.contains("#3B82C4"), "{chart}");
    }

    #[test]
    fn a_long_curve_is_averaged_and_a_short_one_is_not() {
        let long: Vec<f32> = (0..1000).map(|i| i as f32).collect();
        let points = averaged(&long);
        assert_eq!((points.len(), points[0], points[333]), (334, (3, 1.0), (1000, 999.0)));
        assert_eq!(averaged(&[2.0, 4.0]), [(1, 2.0), (2, 4.0)]);
        assert_eq!(curves("nothing", &[(AFTER, &[])]).into_string(), "");
        assert!(curves("one step", &[(AFTER, &[1.0])]).into_string().contains("<circle"));
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(short("conv.weight"), "conv.weight");
        let name = short("backbone.stage3.block11.attention.query.weight");
        assert_eq!((name.chars().count(), name.as_str()), (NAME, "backbone.sta….query.weight"));
    }
}
