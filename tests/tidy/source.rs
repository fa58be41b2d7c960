//! The tokens of a Rust file, by the compiler's own lexer, as procedural macros use it.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// One file.
pub(crate) struct Source {
    /// Below the root, as in `crates/http/src/client.rs`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// Line and text of each string literal, as written.
    pub(crate) strings: Vec<(usize, String)>,
    /// Line and text of each word in a path or in an import.
    pub(crate) words: Vec<(usize, String)>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let tokens: TokenStream = text.parse().expect(path);
        let (path, text) = (path.to_owned(), text.to_owned());
        let mut source = Self { path, text, strings: Vec::new(), words: Vec::new() };
        source.read(tokens, false);
        source
    }

    /// Whether a line belongs to tests, whose data are no promises.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        let tests = self.text.find("#[cfg(test)]\nmod tests {");
        self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
            || tests.is_some_and(|at| line > self.text[..at].matches('\n').count())
    }

    fn read(&mut self, tokens: TokenStream, imported: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut imports = imported;
        for (at, token) in tokens.iter().enumerate() {
            let is = |at: Option<usize>, sign| matches!(at.and_then(|at| tokens.get(at)), Some(TokenTree::Punct(p)) if p.as_char() == sign);
            let colons = |first: Option<usize>| is(first, ':') && is(first.map(|at| at + 1), ':');
            let line = token.span().start().line;
            match token {
                TokenTree::Group(group) if !is_doc(group) => self.read(group.stream(), imports),
                TokenTree::Literal(literal) => {
                    if let Some((_, text)) = literal.to_string().split_once('"') {
                        let text = text.trim_end_matches('#').trim_end_matches('"');
                        self.strings.push((line, text.to_owned()));
                    }
                }
                // `use<…>` in a type is no import.
                TokenTree::Ident(word) if word == "use" => imports = !is(Some(at + 1), '<'),
                TokenTree::Ident(word) if imports || colons(Some(at + 1)) || colons(at.checked_sub(2)) => {
                    self.words.push((line, word.to_string()));
                }
                TokenTree::Punct(end) if end.as_char() == ';' => imports = imported,
                _ => {}
            }
        }
    }
}

/// Whether this is the lexer's form of a comment `///`.
fn is_doc(group: &Group) -> bool {
    group.delimiter() == Delimiter::Bracket
        && matches!(group.stream().into_iter().next(), Some(TokenTree::Ident(word)) if word == "doc")
}

/// `crates/http/src/client.rs` is `http::client`; the sidecar's root is empty, and tests belong to what they test.
pub(crate) fn module(path: &str) -> Vec<&str> {
    let parts = path.strip_suffix(".rs").unwrap_or(path).split('/');
    parts.filter(|part| !["crates", "src", "lib", "tests"].contains(part)).collect()
}
