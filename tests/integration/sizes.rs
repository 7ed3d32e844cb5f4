//! Files and functions of the sources stay short enough to be read at once. Tests are not counted.

use std::path::Path;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItemFn, Item, ItemFn, ItemMod, TraitItemFn};

const FOLDERS: [&str; 3] = ["src", "core/src", "heap/src"];
const MOST_LINES_OF_A_FILE: usize = 450;
const MOST_LINES_OF_A_FUNCTION: usize = 60;

/// The functions of a file that are too long, and the number of its lines that are tests.
#[derive(Default)]
struct Lengths {
    long: Vec<String>,
    tests: usize,
}

fn lines(of: &impl Spanned) -> usize {
    let span = of.span();
    span.end().line + 1 - span.start().line
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

impl Lengths {
    /// From `fn` to the brace at the end: attributes and the comment above are not counted.
    fn add(&mut self, signature: &syn::Signature, end: usize) {
        let lines = end + 1 - signature.span().start().line;
        if lines > MOST_LINES_OF_A_FUNCTION {
            self.long.push(format!("{} {lines}", signature.ident));
        }
    }
}

impl<'a> Visit<'a> for Lengths {
    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if is_for_tests(&item.attrs) {
            self.tests += lines(item);
        } else {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'a ItemFn) {
        if is_for_tests(&item.attrs) {
            self.tests += lines(item);
        } else {
            self.add(&item.sig, item.block.span().end().line);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item(&mut self, item: &'a Item) {
        match item {
            Item::Use(use_) if is_for_tests(&use_.attrs) => self.tests += lines(use_),
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'a ImplItemFn) {
        self.add(&item.sig, item.block.span().end().line);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'a TraitItemFn) {
        if let Some(block) = &item.default {
            self.add(&item.sig, block.span().end().line);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

/// What of a file is too long, a line each.
fn findings(name: &str, source: &str) -> Vec<String> {
    let mut lengths = Lengths::default();
    lengths.visit_file(&syn::parse_file(source).unwrap());
    let mut found: Vec<String> = lengths.long.iter().map(|long| format!("{name}: fn {long}")).collect();
    let lines = source.lines().count() - lengths.tests;
    if lines > MOST_LINES_OF_A_FILE {
        found.push(format!("{name}: {lines}"));
    }
    found
}

fn read(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(root, &path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            files.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn files_and_functions_are_short() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    FOLDERS.iter().for_each(|folder| read(root, &root.join(folder), &mut files));
    assert!(files.len() > 100, "the sources were not found");
    let found: Vec<String> = files.iter().flat_map(|(name, source)| findings(name, source)).collect();
    assert!(found.is_empty(), "too long: {found:#?}");
}

#[test]
fn what_is_too_long_is_found() {
    let function = |lines: usize| format!("fn f() {{\n{}}}\n", "g();\n".repeat(lines - 2));
    assert!(findings("a", &function(60)).is_empty());
    assert_eq!(findings("a", &function(61)), ["a: fn f 61"]);
    let comment = "/// Comment.\n".repeat(20);
    assert!(findings("a", &format!("{comment}{}", function(60))).is_empty());
    for kind in ["impl A", "trait A", "mod a", "impl A for B"] {
        assert_eq!(findings("a", &format!("{kind} {{ {} }}", function(61))), ["a: fn f 61"], "{kind}");
    }
    assert_eq!(findings("a", &format!("fn f() {{ impl A {{ {} }} }}", function(59))), Vec::<String>::new());
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function(450));
    assert!(findings("a", &tests).is_empty());
    let file = "const A: u8 = 1;\n".repeat(450);
    assert!(findings("a", &format!("{file}{tests}")).is_empty());
    assert_eq!(findings("a", &format!("{file}const B: u8 = 1;\n{tests}")), ["a: 451"]);
}
