//! Imports point one way: no file of a folder leads back to itself through its neighbours, and no module at the top of
//! a crate imports from one above it. A file and the files in the folder of its name count as one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::visit::Visit;
use syn::{Attribute, File, Item, UseTree, Visibility};

/// The modules of `rejoinder-core`, each line above those that it may import from.
const CORE: &[&[&str]] = &[
    &["wire"],
    &[
        "client",
        "compaction",
        "dialect",
        "ids",
        "json_schema",
        "large_buffer",
        "quirk",
        "responses_profile",
        "sealing",
    ],
    &["error", "item_views", "options", "stored_items"],
    &["limits"],
    &["fields"],
    &["notes"],
    &["tools"],
    &["reply_plan"],
    &["request", "response"],
    &["lib"],
];

/// The modules of `rejoinder`.
const PROXY: &[&[&str]] = &[
    &["hex"],
    &["wake_flag", "descriptors", "heavy", "panics", "scope", "service_manager", "signals", "buffer_pool"],
    &["budget", "client_keys", "keyring", "sse"],
    &["config"],
    &["store", "telemetry"],
    &["upstream"],
    &["doctor", "driver", "setup"],
    &["server"],
    &["cli"],
    &["lib", "main"],
];

/// No finding.
const NONE: [&str; 0] = [];

/// `a::b` to the module that it is in, and its parsed source.
type Modules = BTreeMap<Vec<String>, File>;

fn read(root: &Path, into: &mut Modules, above: &[String]) {
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut name = above.to_vec();
        if path.is_dir() {
            name.push(stem);
            read(&path, into, &name);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            if stem != "mod" {
                name.push(stem);
            }
            into.insert(name, parse(&std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Without its tests: they may look anywhere.
fn parse(source: &str) -> File {
    let mut file = syn::parse_file(source).unwrap();
    file.items.retain(|item| !attributes(item).iter().any(is_for_tests));
    file
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        _ => &[],
    }
}

fn is_for_tests(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
}

/// All paths of a file, as written.
#[derive(Default)]
struct Paths {
    found: Vec<Vec<String>>,
    /// Those that it gives on under a name of its own.
    given_on: BTreeMap<String, Vec<String>>,
}

impl Paths {
    fn flatten(&mut self, tree: &UseTree, above: &[String], public: bool) {
        let joined = |name: &dyn ToString| [above, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.flatten(&path.tree, &joined(&path.ident), public),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.flatten(tree, above, public)),
            UseTree::Glob(_) => self.found.push(above.to_vec()),
            UseTree::Name(name) => self.add(joined(&name.ident), name.ident.to_string(), public),
            UseTree::Rename(name) => self.add(joined(&name.ident), name.rename.to_string(), public),
        }
    }

    fn add(&mut self, path: Vec<String>, name: String, public: bool) {
        if public {
            self.given_on.insert(name, path.clone());
        }
        self.found.push(path);
    }
}

impl<'a> Visit<'a> for Paths {
    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        let public = !matches!(item.vis, Visibility::Inherited);
        self.flatten(&item.tree, &[], public);
    }

    // `pub(crate)` imports nothing
    fn visit_vis_restricted(&mut self, _: &'a syn::VisRestricted) {}

    fn visit_path(&mut self, path: &'a syn::Path) {
        self.found.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }
}

/// From which modules each module imports, whoever gives it on.
fn imports(modules: &Modules) -> BTreeMap<&[String], BTreeSet<&[String]>> {
    let paths: BTreeMap<&[String], Paths> = modules
        .iter()
        .map(|(name, file)| {
            let mut paths = Paths::default();
            paths.visit_file(file);
            (name.as_slice(), paths)
        })
        .collect();
    let mut imports = BTreeMap::new();
    for (name, of) in &paths {
        let sources = of.found.iter().filter_map(|path| source(&paths, name, path, 8));
        // the names live in `modules`
        let sources = sources.filter(|source| source != name).map(|source| key(modules, source)).collect();
        imports.insert(key(modules, name), sources);
    }
    imports
}

fn key<'m>(modules: &'m Modules, name: &[String]) -> &'m [String] {
    modules.get_key_value(name).unwrap().0
}

/// The module in which what `path` names in `here` is defined; none where that is in another crate.
fn source<'p>(
    paths: &BTreeMap<&'p [String], Paths>,
    here: &[String],
    path: &[String],
    depth: u32,
) -> Option<&'p [String]> {
    let crate_root = ["lib", "main"].contains(&here.last()?.as_str());
    let here = if crate_root { &[] } else { here };
    let (first, mut rest) = path.split_first()?;
    let mut at = match first.as_str() {
        "crate" => Vec::new(),
        "self" => here.to_vec(),
        "super" => {
            let ups = 1 + rest.iter().take_while(|name| *name == "super").count();
            rest = &rest[ups - 1..];
            here[..here.len().checked_sub(ups)?].to_vec()
        }
        // a child by its name
        name => {
            let child = [here, &[name.to_owned()]].concat();
            if !paths.contains_key(child.as_slice()) {
                return None;
            }
            child
        }
    };
    while let Some((name, further)) = rest.split_first() {
        let below = [at.as_slice(), std::slice::from_ref(name)].concat();
        if !paths.contains_key(below.as_slice()) {
            break;
        }
        (at, rest) = (below, further);
    }
    let at = if at.is_empty() { vec!["lib".to_owned()] } else { at };
    let (module, of) = paths.get_key_value(at.as_slice())?;
    match rest.first().and_then(|name| of.given_on.get(name)).filter(|_| depth > 0) {
        Some(given_on) => source(paths, module, given_on, depth - 1).or(Some(module)),
        None => Some(module),
    }
}

/// A way through the neighbours of each folder that leads back to where it began.
fn circles(modules: &Modules) -> Vec<String> {
    let mut folders: BTreeMap<&[String], BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    for (from, sources) in imports(modules) {
        for to in sources {
            let shared = from.iter().zip(to).take_while(|(a, b)| a == b).count();
            if let (Some(a), Some(b)) = (from.get(shared), to.get(shared)) {
                folders.entry(&from[..shared]).or_default().entry(a).or_default().insert(b);
            }
        }
    }
    let mut circles = Vec::new();
    for (folder, neighbours) in &folders {
        // what imports nothing that is left is taken away, until nothing goes any more
        let mut left = neighbours.clone();
        loop {
            let before = left.len();
            let names: BTreeSet<&str> = left.keys().copied().collect();
            left.retain(|_, to| to.iter().any(|to| names.contains(to)));
            if left.len() == before {
                break;
            }
        }
        if !left.is_empty() {
            circles.push(format!("{}: {left:?}", folder.join("::")));
        }
    }
    circles
}

/// Imports of modules at the top from such as do not stand below them.
fn upward(modules: &Modules, floors: &[&[&str]]) -> Vec<String> {
    let floor = |name: &str| floors.iter().position(|floor| floor.contains(&name));
    let mut wrong = Vec::new();
    for (from, sources) in imports(modules) {
        let Some(own) = floor(&from[0]) else {
            wrong.push(format!("{} stands on no floor", from[0]));
            continue;
        };
        for to in sources.into_iter().filter(|to| to[0] != from[0]) {
            if floor(&to[0]).is_none_or(|other| other >= own) {
                wrong.push(format!("{} imports {}", from.join("::"), to.join("::")));
            }
        }
    }
    wrong
}

fn modules(root: &str) -> Modules {
    let mut modules = Modules::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(root), &mut modules, &[]);
    assert!(modules.len() > 30, "the sources were not found");
    modules
}

#[test]
fn no_import_leads_back_or_up() {
    for (root, floors) in [("core/src", CORE), ("src", PROXY)] {
        let modules = modules(root);
        assert_eq!(circles(&modules), NONE, "{root}");
        assert_eq!(upward(&modules, floors), NONE, "{root}");
    }
}

#[test]
fn what_leads_back_or_up_is_found() {
    let made = |files: &[(&str, &str)]| -> Modules {
        let path = |name: &str| name.split("::").map(str::to_owned).collect();
        files.iter().map(|(name, source)| (path(name), parse(source))).collect()
    };
    // by a use, by a path in an expression, by what another gives on
    let circle = made(&[
        ("lib", ""),
        ("a", "use crate::b::{c::{D as E}, F};"),
        ("b", "pub use crate::g::F;"),
        ("b::c", "fn f() { super::super::a::g() }"),
        ("g", ""),
    ]);
    assert_eq!(circles(&circle), [r#": {"a": {"b", "g"}, "b": {"a", "g"}}"#]);
    let floors: &[&[&str]] = &[&["g"], &["b"], &["a", "lib"]];
    assert_eq!(upward(&circle, floors), ["b::c imports a"]);
    // tests, and a file with the folder of its name, are left alone
    let fine = made(&[
        ("lib", "pub use a::A;"),
        ("a", "mod c; use self::c::C; #[cfg(test)] mod tests { use crate::b::B; }"),
        ("a::c", "use super::A;"),
        ("b", "use crate::A;"),
    ]);
    assert_eq!(circles(&fine), NONE);
    assert_eq!(upward(&fine, &[&["a"], &["b"], &["lib"]]), NONE);
    assert_eq!(upward(&fine, &[&["b"], &["a"], &["lib"]]), ["b imports a"]);
}
