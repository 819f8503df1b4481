//! `docs/recipes.md`, read as what it is: blocks of configuration under the headings of recipes.

use std::collections::BTreeMap;

/// What is executed.
const TEXT: &str = include_str!("../../../../docs/recipes.md");

/// The two sides of a recipe, and how it is seen to work.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    /// The node's `spec.bgp`.
    pub(crate) node: String,
    /// The router's configuration.
    pub(crate) router: String,
    /// The commands that are given on the router.
    pub(crate) commands: String,
}

impl Recipe {
    /// What stands under the heading `title`, with a router on which `speaker` runs.
    pub(crate) fn of(title: &str, speaker: &str) -> Self {
        let blocks = blocks();
        let text = |language: &[&str], side: &str| {
            let all: Vec<&str> = blocks
                .iter()
                .filter(|block| {
                    block.title == title && block.side == side && language.contains(&block.language)
                })
                .map(|block| block.text.as_str())
                .collect();
            assert_eq!(all.len(), 1, "{title} has {} blocks `{language:?} {side}`, expected one", all.len());
            all[0].to_owned()
        };
        Self {
            node: text(&["yaml"], "node"),
            router: text(&["text", "toml"], speaker),
            commands: text(&["sh"], speaker),
        }
    }
}

/// The NodeConfig that `spec.bgp` is missing from.
pub(crate) fn node_config() -> String {
    let mut all = blocks().into_iter().filter(|block| block.side == "nodeconfig");
    let block = all.next().expect("a block `yaml nodeconfig`");
    assert!(all.next().is_none(), "a second block `yaml nodeconfig`");
    block.text
}

/// What a command in the node's cluster sets the password to.
pub(crate) fn password() -> String {
    let (_, rest) = TEXT.split_once("--from-literal=password=").expect("the command for the Secret");
    rest.split(['`', '\n']).next().unwrap().to_owned()
}

/// The recipes, each with the sides that have blocks there.
pub(crate) fn recipes() -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::<String, Vec<String>>::new();
    for block in blocks().into_iter().filter(|block| block.side != "nodeconfig") {
        found.entry(block.title.to_owned()).or_default().push(format!("{} {}", block.language, block.side));
    }
    found
}

struct Block {
    title: &'static str,
    language: &'static str,
    /// `node`, `nodeconfig`, or the router's speaker.
    side: &'static str,
    text: String,
}

fn blocks() -> Vec<Block> {
    let (mut title, mut found, mut open) = ("", Vec::new(), None::<Block>);
    for line in TEXT.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(""), Some(_)) => found.extend(open.take()),
            (Some(info), None) => {
                let (language, side) =
                    info.split_once(' ').unwrap_or_else(|| panic!("a block without a side: ```{info}"));
                open = Some(Block { title, language, side, text: String::new() });
            }
            (Some(_), Some(_)) => panic!("a block in a block, under {title}"),
            (None, Some(block)) => block.text.extend([line, "\n"]),
            (None, None) => title = line.strip_prefix("## ").unwrap_or(title),
        }
    }
    assert!(open.is_none(), "the last block has no end");
    found
}
