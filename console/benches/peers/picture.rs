//! A picture of ratios, as SVG: a bar for each row, and a line where both stores are as fast.

use std::fmt::Write;

/// Sizes, in units of the picture.
const ROW: usize = 24;
const LEFT: usize = 150;
const TOP: usize = 40;
const WIDTH: usize = 640;
/// The length of a bar for a ratio of one.
const ONE: f64 = 90.0;

/// Draws bars with their names and ratios.
pub fn draw(title: &str, bars: &[(String, f64)]) -> String {
    let height = TOP + bars.len() * ROW + 20;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-weight=\"bold\">{title}</text>\n"
    );
    for (number, (name, ratio)) in bars.iter().enumerate() {
        let y = TOP + number * ROW;
        let length = (ratio * ONE).min((WIDTH - LEFT - 60) as f64);
        let color = if *ratio < 1.0 { "#c0504d" } else { "#4f81bd" };
        let (text_y, text_x) = (y + 14, LEFT as f64 + length + 6.0);
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{text_y}\" text-anchor=\"end\">{name}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.0}\" height=\"18\" fill=\"{color}\"/>\n\
             <text x=\"{text_x:.0}\" y=\"{text_y}\">{ratio:.1}×</text>\n",
            LEFT - 8
        );
    }
    let (one, bottom) = (LEFT as f64 + ONE, height - 16);
    let _ = write!(
        svg,
        "<line x1=\"{one}\" y1=\"{}\" x2=\"{one}\" y2=\"{bottom}\" stroke=\"#000000\" \
         stroke-dasharray=\"4 3\"/>\n</svg>\n",
        TOP - 4
    );
    svg
}
