//! Reads a Rust file just well enough to check it: its code without comments and literals, its string literals, and
//! every path that it names.
//!
//! A path is resolved as the compiler would for the forms that this crate uses (`crate`, `self`, `super`, a child
//! module, grouped and renamed imports, inline modules). Macros are read as plain tokens.

use std::collections::BTreeSet;

/// One file.
pub(crate) struct Source {
    /// Relative to the crate, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text with comments and literals blanked; lines stay where they are.
    pub(crate) code: String,
    /// String literals as written, with the line each starts on.
    pub(crate) strings: Vec<(usize, String)>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (code, strings) = split(text);
        Self { path: path.to_owned(), text: text.to_owned(), code, strings }
    }

    /// Whether a line holds nothing but tests: their data are no promises.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        let tests =
            self.text.find("#[cfg(test)]\nmod tests {").map(|at| self.text[..at].matches('\n').count() + 1);
        self.path.ends_with("/tests.rs")
            || self.path.contains("/tests/")
            || tests.is_some_and(|first| line >= first)
    }

    /// `src/usage/intake.rs` is `usage::intake`, `crates/http/src/client.rs` is `http::client`; the sidecar's root is empty.
    pub(crate) fn module(&self) -> Vec<String> {
        let mut module = self.root();
        let path = self.path.split_once("src/").map_or(self.path.as_str(), |(_, path)| path);
        let path = path.strip_suffix(".rs").unwrap_or(path);
        if path != "lib" {
            module.extend(path.split('/').map(str::to_owned));
        }
        module
    }

    /// What `crate` means in it: the name of its folder, or nothing for the sidecar.
    fn root(&self) -> Vec<String> {
        let folder = self.path.strip_prefix("crates/").and_then(|path| path.split('/').next());
        folder.into_iter().map(str::to_owned).collect()
    }
}

/// A path that a file names, resolved: `crate::…` for this crate's, else as written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mention {
    pub(crate) path: Vec<String>,
    pub(crate) line: usize,
}

/// Every path of at least two segments, and every imported one. `modules` are all modules of the crate.
pub(crate) fn mentions(source: &Source, modules: &BTreeSet<Vec<String>>) -> Vec<Mention> {
    let tokens = tokenise(&source.code);
    let mut reader = Reader { tokens: &tokens, at: 0, imports: false, found: Vec::new() };
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0_usize;
    let mut mentions = Vec::new();
    while let Some((token, _)) = tokens.get(reader.at) {
        let before = |n: usize| reader.at.checked_sub(n).map(|at| &tokens[at].0);
        // `a.b` is a field, `..b` a range.
        let belongs = before(1) == Some(&Token::Colons)
            || (before(1) == Some(&Token::Dot) && before(2) != Some(&Token::Dot));
        match token {
            Token::Open => depth += 1,
            Token::Close => {
                depth = depth.saturating_sub(1);
                inline.pop_if(|(_, opened)| *opened == depth);
            }
            Token::Word(word) if word == "mod" => {
                if let (Some(Token::Word(name)), Some(Token::Open)) = (reader.peek(1), reader.peek(2)) {
                    inline.push((name.clone(), depth));
                }
            }
            Token::Word(_) | Token::Colons if !belongs => {
                // `use<…>` in a type is no import.
                reader.imports =
                    *token == Token::Word("use".into()) && reader.peek(1) != Some(&Token::Other('<'));
                reader.at += usize::from(reader.imports);
                reader.tree(&[]);
                let imports = reader.imports;
                let mut module = source.module();
                module.extend(inline.iter().map(|(name, _)| name.clone()));
                let found = reader.found.drain(..).filter(|m| imports || m.path.len() > 1);
                mentions.extend(
                    found.map(|m| Mention { path: resolve(&source.root(), &module, modules, m.path), ..m }),
                );
                continue;
            }
            _ => {}
        }
        reader.at += 1;
    }
    mentions
}

fn resolve(
    root: &[String],
    module: &[String],
    modules: &BTreeSet<Vec<String>>,
    path: Vec<String>,
) -> Vec<String> {
    let mut base = module.to_vec();
    let mut rest = path.as_slice();
    let child = |base: &[String], name: &String| {
        let mut child = base.to_vec();
        child.push(name.clone());
        modules.contains(&child)
    };
    match rest.first().map(String::as_str) {
        Some("crate") => {
            base = root.to_vec();
            rest = &rest[1..];
        }
        Some("tollgate") => {
            base.clear();
            rest = &rest[1..];
        }
        Some(ours) if ours.starts_with("tollgate_") => {
            base = vec![ours["tollgate_".len()..].to_owned()];
            rest = &rest[1..];
        }
        Some("self") => rest = &rest[1..],
        Some("super") => {}
        Some(_) if child(&base, &rest[0]) => {}
        _ => return path,
    }
    while rest.first().is_some_and(|segment| segment == "super") {
        base.pop();
        rest = &rest[1..];
    }
    let mut resolved = vec!["crate".to_owned()];
    resolved.extend(base);
    resolved.extend(rest.iter().cloned());
    resolved
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Colons,
    Dot,
    Open,
    Close,
    Comma,
    Other(char),
}

fn tokenise(code: &str) -> Vec<(Token, usize)> {
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let word = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
            let (token, length) = match first {
                _ if word > 0 => (Token::Word(rest[..word].to_owned()), word),
                ':' if rest.starts_with("::") => (Token::Colons, 2),
                '.' => (Token::Dot, 1),
                '{' => (Token::Open, 1),
                '}' => (Token::Close, 1),
                ',' => (Token::Comma, 1),
                other => (Token::Other(other), other.len_utf8()),
            };
            if !first.is_whitespace() {
                tokens.push((token, number + 1));
            }
            rest = &rest[length..];
        }
    }
    tokens
}

struct Reader<'a> {
    tokens: &'a [(Token, usize)],
    at: usize,
    /// Within a `use`, where `as` renames; elsewhere it converts, and a path may follow it.
    imports: bool,
    found: Vec<Mention>,
}

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead).map(|(token, _)| token)
    }

    /// Reads `a::b`, `a::{b, c::d}`, `a::*` or `a as b`, and stops behind it.
    fn tree(&mut self, prefix: &[String]) {
        let mut path = prefix.to_vec();
        let line = self.tokens.get(self.at).map_or(0, |(_, line)| *line);
        loop {
            match self.peek(0) {
                Some(Token::Colons) => {}
                Some(Token::Word(word)) => {
                    // In a group, `self` is the group's own path.
                    if word != "self" || prefix.is_empty() {
                        path.push(word.clone());
                    }
                    if self.peek(1) != Some(&Token::Colons) {
                        self.at += 1;
                        break;
                    }
                }
                Some(Token::Other('*')) if !path.is_empty() => {
                    path.push("*".to_owned());
                    self.at += 1;
                    break;
                }
                Some(Token::Open) if !path.is_empty() => return self.group(&path),
                _ => break,
            }
            self.at += 1;
        }
        if self.imports && matches!(self.peek(0), Some(Token::Word(word)) if word == "as") {
            self.at += 2;
        }
        if path.len() > prefix.len() || !prefix.is_empty() {
            self.found.push(Mention { path, line });
        }
    }

    fn group(&mut self, prefix: &[String]) {
        self.at += 1;
        loop {
            match self.peek(0) {
                Some(Token::Comma) => self.at += 1,
                Some(Token::Word(_) | Token::Colons | Token::Open) => self.tree(prefix),
                Some(Token::Other('*')) => {
                    let mut path = prefix.to_vec();
                    path.push("*".to_owned());
                    self.found.push(Mention { path, line: self.tokens[self.at].1 });
                    self.at += 1;
                }
                Some(Token::Close) => {
                    self.at += 1;
                    return;
                }
                _ => return,
            }
        }
    }
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The code with comments and literals blanked, and the string literals.
fn split(text: &str) -> (String, Vec<(usize, String)>) {
    let mut code = String::with_capacity(text.len());
    let mut strings = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let behind_word = code.chars().next_back().is_some_and(is_word);
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some((length, quote)) = string(rest, behind_word) {
            strings.push((line, rest[quote..length].trim_end_matches('#').trim_matches('"').to_owned()));
            length
        } else if first == '\'' {
            character(rest)
        } else {
            code.push(first);
            line += usize::from(first == '\n');
            rest = &rest[first.len_utf8()..];
            continue;
        };
        // A blank keeps words apart, line ends keep the count.
        code.push(' ');
        let breaks = rest[..length].matches('\n').count();
        code.push_str(&"\n".repeat(breaks));
        line += breaks;
        rest = &rest[length..];
    }
    (code, strings)
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the string literal that `text` starts with, and where its quote is.
fn string(text: &str, behind_word: bool) -> Option<(usize, usize)> {
    let prefix = text.find(|c| !matches!(c, 'b' | 'c' | 'r'))?;
    if prefix > 2 || (behind_word && prefix > 0) {
        return None;
    }
    let hashes = text[prefix..].find(|c| c != '#')?;
    let raw = text[..prefix].ends_with('r');
    let quote = prefix + hashes;
    if !text[quote..].starts_with('"') || (hashes > 0 && !raw) {
        return None;
    }
    if raw {
        let end = format!("\"{}", "#".repeat(hashes));
        let body = &text[quote + 1..];
        return Some((body.find(&end).map_or(text.len(), |at| quote + 1 + at + end.len()), quote));
    }
    let mut escaped = false;
    for (at, c) in text[quote + 1..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some((quote + 1 + at + 1, quote)),
            _ => {}
        }
    }
    Some((text.len(), quote))
}

/// The length of the character literal that `text` starts with, or 1 for a lifetime's mark.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            // The escaped character may itself be a quote.
            chars.next();
            chars.find(|(_, c)| *c == '\'').map_or(text.len(), |(at, _)| at + 1)
        }
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}
