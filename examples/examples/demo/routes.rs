//! The router's BGP table as a table.

use flock_examples::screen::columns;

/// From BIRD's answer to `show route`:
///
/// ```text
/// Table master4:
/// 10.0.1.0/24   unicast [node1_v4 21:10:57.110] * (100) [AS64501i]
/// <tab>via 192.0.2.5 on node1
///               unicast [node2_v4 21:10:57.312] (100) [AS64502i]
/// ```
pub(crate) fn table(answer: &str) -> Vec<String> {
    let mut rows = Vec::new();
    let mut prefix = "";
    for line in answer.lines() {
        if let Some((head, rest)) = line.split_once(" unicast [") {
            // A further route to the same prefix leaves it out.
            prefix = if head.trim().is_empty() { prefix } else { head.trim() };
            let best = if rest.contains(" * ") { "*" } else { " " };
            let path =
                rest.rsplit_once('[').map_or("", |(_, path)| path.trim_end_matches([']', 'i', '?', 'e']));
            rows.push(vec![best.to_owned(), prefix.to_owned(), path.replace("AS", "AS "), String::new()]);
        } else if let (Some(hop), Some(row)) = (line.trim().strip_prefix("via "), rows.last_mut())
            && let (Some(cell), Some((address, interface))) = (row.last_mut(), hop.split_once(" on "))
        {
            let interface = interface.split_whitespace().next().unwrap_or(interface);
            *cell = format!("via {address} ({interface})");
        }
    }
    columns(&rows, usize::MAX)
}
