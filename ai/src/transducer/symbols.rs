//! The tokens of `tokens.txt`: `symbol id` a line, U+2581 for a space, `<0xE4>` for a byte of a letter that has no token.

use std::collections::HashMap;

/// Most tokens: the largest known lists have some ten thousand.
const MAX_TOKENS: usize = 1 << 20;

/// A list of tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Symbols {
    symbols: Vec<String>,
    unknown: Option<usize>,
}

impl Symbols {
    /// Reads `tokens.txt`.
    ///
    /// # Errors
    /// A sentence naming the line that cannot be.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut symbols: Vec<String> = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let at = index + 1;
            // A token may itself be a space or hold one.
            let (symbol, id) = line.trim_end().rsplit_once([' ', '\t']).ok_or_else(|| format!("line {at} is not `symbol id`"))?;
            let id: usize = id.parse().map_err(|_| format!("line {at}: `{id}` is no id"))?;
            if id != symbols.len() || id >= MAX_TOKENS {
                return Err(format!("line {at} has the id {id}, {} is needed", symbols.len()));
            }
            symbols.push(if symbol.is_empty() { " ".to_owned() } else { symbol.to_owned() });
        }
        if symbols.len() < 2 {
            return Err("it has no tokens".to_owned());
        }
        let unknown = symbols.iter().position(|symbol| symbol == "<unk>");
        Ok(Self { symbols, unknown })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.symbols.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// A token as the list writes it.
    pub fn get(&self, id: usize) -> &str {
        self.symbols.get(id).map_or("", String::as_str)
    }

    /// The token for what is unknown, which is never written.
    pub fn unknown(&self) -> Option<usize> {
        self.unknown
    }

    /// Ids by the tokens' text, special ones left out.
    pub fn by_text(&self) -> HashMap<&str, usize> {
        let special = |symbol: &str| symbol.len() > 2 && symbol.starts_with('<') && symbol.ends_with('>');
        self.symbols.iter().enumerate().filter(|(_, symbol)| !special(symbol)).map(|(id, symbol)| (symbol.as_str(), id)).collect()
    }

    /// The token that stands for nothing: the first of the usual names, else the first token.
    pub fn blank(&self) -> usize {
        let named = |name: &&str| self.symbols.iter().position(|symbol| symbol == name);
        ["<blk>", "<eps>", "<blank>"].iter().find_map(named).unwrap_or(0)
    }

    /// The byte that a token stands for.
    pub fn byte(&self, id: usize) -> Option<u8> {
        let hex = self.get(id).strip_prefix("<0x")?.strip_suffix('>')?;
        u8::from_str_radix(hex, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_what_is_none_is_told() {
        let symbols = Symbols::read("<blk> 0\n<unk> 1\n\u{2581}the 2\n<0xE4> 3\n  4\n").expect("it is a list");
        assert_eq!(
            (symbols.len(), symbols.unknown(), symbols.byte(3), symbols.byte(2), symbols.get(4)),
            (5, Some(1), Some(0xe4), None, " ")
        );
        for (text, word) in [("", "no tokens"), ("a\n", "line 1"), ("a 0\nb 2\n", "id 2"), ("a x\n", "`x`")] {
            let reason = Symbols::read(text).expect_err("it is none");
            assert!(reason.contains(word), "{reason}");
        }
    }
}
