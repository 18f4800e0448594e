//! Tables that fit the terminal.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{Paint, Style, clean};

/// One cell of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub fn new(text: &str) -> Self {
        Self::styled(text, Style::Plain)
    }

    pub fn styled(text: &str, style: Style) -> Self {
        Self {
            text: clean(text),
            style,
        }
    }
}

/// A header, and rows with the same number of cells.
#[derive(Debug)]
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

const GAP: usize = 2;
/// No column is made narrower than this.
const NARROWEST: usize = 8;

impl Table {
    pub fn new(header: &[&'static str]) -> Self {
        Self {
            header: header.to_vec(),
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.header.len());
        self.rows.push(cells);
    }

    /// The lines, each with its line end. `width`: columns of the terminal. Text that does not fit
    /// is shortened with an ellipsis.
    pub fn render(&self, width: Option<usize>, paint: Paint) -> String {
        let natural: Vec<usize> = (0..self.header.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                let widest = cells.map(|cell| cell.text.width()).max().unwrap_or(0);
                widest.max(self.header[column].width())
            })
            .collect();
        let widths = match width {
            Some(width) => fit(natural, width),
            None => natural,
        };
        let header: Vec<Cell> = self
            .header
            .iter()
            .map(|name| Cell::styled(name, Style::Strong))
            .collect();
        let mut text = String::new();
        for row in std::iter::once(&header).chain(&self.rows) {
            line(&mut text, row, &widths, paint);
        }
        text
    }
}

/// Makes the widest column narrower until all fit.
fn fit(mut widths: Vec<usize>, available: usize) -> Vec<usize> {
    let gaps = GAP * widths.len().saturating_sub(1);
    let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(available);
    while excess > 0 {
        let widest = widths.iter_mut().max().filter(|widest| **widest > NARROWEST);
        let Some(widest) = widest else { break };
        *widest -= 1;
        excess -= 1;
    }
    widths
}

fn line(text: &mut String, row: &[Cell], widths: &[usize], paint: Paint) {
    let mut padding = 0;
    for (cell, width) in row.iter().zip(widths) {
        let shown = cut(&cell.text, *width);
        if !shown.is_empty() {
            text.push_str(&" ".repeat(padding));
            padding = 0;
        }
        text.push_str(&paint.paint(
            if shown.is_empty() {
                Style::Plain
            } else {
                cell.style
            },
            &shown,
        ));
        padding += width.saturating_sub(shown.width()) + GAP;
    }
    text.push('\n');
}

/// `text`; if it is too wide, its beginning and an ellipsis.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let kept = text.chars().take_while(|c| {
        let columns = c.width().unwrap_or(0);
        let fits = columns <= left;
        left = left.saturating_sub(columns);
        fits
    });
    let kept: String = kept.collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Paint = Paint { colored: false };

    fn table() -> Table {
        let mut table = Table::new(&["HOST", "STATUS", "ERROR"]);
        table.row(vec![
            Cell::new("a"),
            Cell::styled("ok", Style::Good),
            Cell::new(""),
        ]);
        table.row(vec![
            Cell::new("a-host-of-twenty-one"),
            Cell::styled("errors", Style::Bad),
            Cell::new("日本 the package's script failed"),
        ]);
        table
    }

    #[test]
    fn as_wide_as_needed_and_without_blanks_at_the_end() {
        assert_eq!(
            table().render(None, PLAIN),
            "HOST                  STATUS  ERROR\n\
             a                     ok\n\
             a-host-of-twenty-one  errors  日本 the package's script failed\n"
        );
    }

    #[test]
    fn the_widest_column_gives_way() {
        for (width, expected) in [
            (50, "a-host-of-twenty-one  errors  日本 the package's…\n"),
            (40, "a-host-of-twen…  errors  日本 the packa…\n"),
            (5, "a-host-…  errors  日本 th…\n"),
        ] {
            let text = table().render(Some(width), PLAIN);
            let last = text.split_inclusive('\n').next_back().unwrap();
            assert_eq!(last, expected);
            assert!(width == 5 || last.trim_end().width() <= width, "{width}");
        }
    }

    #[test]
    fn colour_takes_no_room() {
        let text = table().render(None, Paint { colored: true });
        assert!(text.contains("\x1b[32mok\x1b[0m\n"), "{text:?}");
        assert!(text.contains("\x1b[31merrors\x1b[0m  日本"), "{text:?}");
    }
}
