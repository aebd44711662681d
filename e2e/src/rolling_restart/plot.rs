//! Bars of block characters.

use std::iter;

const EIGHTHS: [char; 9] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A lying bar of this width, filled in this proportion.
pub fn bar(value: usize, full: usize, width: usize) -> String {
    let eighths = value * width * 8 / full.max(1);
    let cells = (0..width).map(|cell| EIGHTHS[eighths.saturating_sub(cell * 8).min(8)]);
    cells.collect()
}

/// The rows of a column chart, from the top, where a column of this value is full.
pub fn columns(values: &[usize], full: usize, height: usize) -> Vec<String> {
    let row = |row: usize| {
        let cells = values.iter().map(|value| {
            // What there is can be seen, however small.
            let least = usize::from(*value > 0);
            let eighths = (value * height * 8 / full.max(1)).max(least);
            LEVELS[eighths.saturating_sub(row * 8).min(8)]
        });
        cells.collect()
    };
    (0..height).rev().map(row).collect()
}

/// A text with marks at some columns, in ascending order.
pub fn marks(marks: &[(usize, String)]) -> String {
    let mut line = String::new();
    for (column, mark) in marks {
        let gap = column.saturating_sub(line.chars().count());
        line.extend(iter::repeat_n(' ', gap));
        line.push_str(mark);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_filled_in_proportion() {
        assert_eq!(bar(0, 10, 4), "    ");
        assert_eq!(bar(5, 10, 4), "██  ");
        assert_eq!(bar(9, 16, 4), "██▎ ");
        assert_eq!(bar(10, 10, 4), "████");
    }

    #[test]
    fn columns_share_a_scale_and_little_is_more_than_nothing() {
        assert_eq!(columns(&[0, 1, 100, 50, 25], 100, 2), ["  █  ", " ▁██▄"]);
    }

    #[test]
    fn marks_stand_at_their_columns() {
        let text = marks(&[(2, "A".to_owned()), (5, "BB".to_owned())]);
        assert_eq!(text, "  A  BB");
    }
}
