//! What commands print for people and scripts.
//!
//! Standard output carries results alone, so that `TOKEN=$(larder token create …)` works; notes
//! and questions go to standard error. A reader that closed the pipe early is no error.

use std::io::{self, IsTerminal as _, Write as _};

/// Prints `text` and a line end on standard output.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Prints `text` and a line end on standard error. Whether that works changes nothing.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Asks a question whose answer is yes or no. `None`: there is nobody to ask.
pub(crate) fn confirm(question: &str) -> Option<bool> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return None;
    }
    let _ = write!(io::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).ok()?;
    Some(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Columns as wide as their widest cell. Cells come from people and clients, so control
/// characters are escaped.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let plain = |cell: &str| cell.chars().map(escaped).collect::<String>();
    let mut lines: Vec<Vec<String>> = vec![header.iter().map(|cell| plain(cell)).collect()];
    lines.extend(
        rows.iter()
            .map(|row| row.iter().map(|cell| plain(cell)).collect()),
    );
    let width = |column: usize| {
        lines
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..header.len())
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let text: Vec<String> = lines
        .iter()
        .map(|row| {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect();
    text.join("\n")
}

/// `c` so that no terminal obeys it.
pub(crate) fn escaped(c: char) -> String {
    if c.is_control() {
        c.escape_default().to_string()
    } else {
        c.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_and_cannot_be_broken_by_its_cells() {
        let rows = [
            vec!["1".to_owned(), "a\nb".to_owned()],
            vec!["10".to_owned(), "c".to_owned()],
        ];
        assert_eq!(table(&["ID", "NAME"], &rows), "ID  NAME\n1   a\\nb\n10  c");
    }
}
