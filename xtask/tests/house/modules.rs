//! The module tree of every crate, and every path in its code.
//!
//! Code behind every `cfg` is read: a circle that only CUDA code closes is a circle. Code behind `cfg(test)`
//! is marked: unit tests may import anything within their crate, so their paths count for the order of crates
//! but not for circles and wings. Paths in the tokens of macros and attributes count, paths in documentation
//! do not.
//!
//! A method call names no file. Its type is imported by a path somewhere, which counts, but a method that
//! another file adds to the type goes unnoticed.

use crate::tree::Crate;
use std::collections::{BTreeMap, BTreeSet};
use syn::visit::{self, Visit};

/// The segments of a path. The first one is empty if the path begins with `::`; the last one of a glob is
/// `*`.
pub type Path = Vec<String>;

/// A source file.
#[derive(PartialEq)]
pub struct File {
    /// Index of its crate.
    pub krate: usize,
    /// Its path below `src`, such as `infer/conv.rs`.
    pub path: String,
    /// Whether it is compiled for unit tests only.
    pub test: bool,
}

/// A module: a file, or a `mod name { … }` within one.
pub struct Module {
    /// Index of its crate.
    pub krate: usize,
    /// Index of its file.
    pub file: usize,
    /// The enclosing module; `None` for a crate's root.
    pub parent: Option<usize>,
    /// The modules that it declares, by name.
    pub children: BTreeMap<String, usize>,
    /// The names of the items and macros that it defines.
    pub items: BTreeSet<String>,
    /// The paths imported under each name, privately or publicly. Code of different `cfg`s may import
    /// several.
    pub imports: BTreeMap<String, Vec<Path>>,
    /// The paths of its glob imports.
    pub globs: Vec<Path>,
}

/// A path in the code.
pub struct Reference {
    /// Index of the module that contains it.
    pub module: usize,
    /// The path.
    pub path: Path,
    /// Whether it is compiled for tests only.
    pub test: bool,
}

/// The module trees of all crates.
#[derive(Default)]
pub struct Modules {
    /// All files of the module trees.
    pub files: Vec<File>,
    /// All modules.
    pub modules: Vec<Module>,
    /// Every import, and every other path of more than one segment.
    pub references: Vec<Reference>,
    /// The root module of each crate.
    pub roots: Vec<usize>,
    /// The name of each crate in `use` lines.
    pub idents: Vec<String>,
    /// Files that cannot be read or that no module tree reaches.
    pub problems: Vec<String>,
}

impl Modules {
    /// Reads the module trees of `crates`.
    pub fn new(crates: &[Crate]) -> Modules {
        let mut all = Modules { idents: crates.iter().map(Crate::ident).collect(), ..Modules::default() };
        for (index, krate) in crates.iter().enumerate() {
            let root = all.file(krate, index, krate.root(), None, false);
            all.roots.push(root);
            let reached: Vec<&str> =
                all.files.iter().filter(|f| f.krate == index).map(|f| f.path.as_str()).collect();
            let orphans = krate.files.keys().filter(|path| !reached.contains(&path.as_str()));
            let orphans: Vec<String> =
                orphans.map(|path| format!("{}: no `mod` leads to {path}", krate.name)).collect();
            all.problems.extend(orphans);
        }
        all
    }

    /// Adds the module of a file and the modules below it. Returns its index.
    fn file(&mut self, krate: &Crate, index: usize, path: &str, parent: Option<usize>, test: bool) -> usize {
        self.files.push(File { krate: index, path: path.to_string(), test });
        let module = self.module(index, self.files.len() - 1, parent);
        let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
        let mut folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        if !["lib.rs", "main.rs", "mod.rs"].contains(&name) {
            folder += &format!("{}/", name.trim_end_matches(".rs"));
        }
        match krate.files.get(path).map(|text| syn::parse_file(text)) {
            Some(Ok(file)) => {
                Collector { all: self, krate, index, folder, module, test }.module_items(&file.items);
            }
            Some(Err(error)) => self.problems.push(format!("{}: {path}: {error}", krate.name)),
            None => self.problems.push(format!("{}: there is no {path}", krate.name)),
        }
        module
    }

    fn module(&mut self, krate: usize, file: usize, parent: Option<usize>) -> usize {
        self.modules.push(Module {
            krate,
            file,
            parent,
            children: BTreeMap::new(),
            items: BTreeSet::new(),
            imports: BTreeMap::new(),
            globs: Vec::new(),
        });
        self.modules.len() - 1
    }
}

/// Collects items, imports and paths of one module.
struct Collector<'a> {
    all: &'a mut Modules,
    krate: &'a Crate,
    index: usize,
    /// The folder of the module's children, with a trailing `/`; empty for `src` itself.
    folder: String,
    module: usize,
    test: bool,
}

impl Collector<'_> {
    /// Adds the module's items, then every path in them.
    fn module_items(&mut self, items: &[syn::Item]) {
        for item in items {
            if let Some(name) = name(item) {
                self.all.modules[self.module].items.insert(name);
            }
        }
        for item in items {
            self.visit_item(item);
        }
    }

    fn refer(&mut self, path: Path) {
        self.all.references.push(Reference { module: self.module, path, test: self.test });
    }

    /// Adds every import of a `use` tree below `prefix`.
    fn import(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        let (name, path) = match tree {
            syn::UseTree::Path(tree) => return self.import(&with(&tree.ident), &tree.tree),
            syn::UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.import(prefix, tree));
            }
            syn::UseTree::Glob(_) => {
                self.all.modules[self.module].globs.push(prefix.to_vec());
                return self.refer([prefix, &["*".to_string()]].concat());
            }
            syn::UseTree::Name(name) if name.ident == "self" => {
                (prefix.last().cloned().unwrap_or_default(), prefix.to_vec())
            }
            syn::UseTree::Rename(name) if name.ident == "self" => (name.rename.to_string(), prefix.to_vec()),
            syn::UseTree::Name(name) => (name.ident.to_string(), with(&name.ident)),
            syn::UseTree::Rename(name) => (name.rename.to_string(), with(&name.ident)),
        };
        self.all.modules[self.module].imports.entry(name).or_default().push(path.clone());
        self.refer(path);
    }

    /// Adds the paths in the tokens of a macro or an attribute: `a::b` and `a::{b, c::d}`, below `prefix`.
    fn tokens(&mut self, mut at: syn::buffer::Cursor, prefix: &[String]) {
        // Whether the previous token is `$`, or a `::` that does not follow an identifier.
        let (mut variable, mut continued) = (false, false);
        while !at.eof() {
            if let Some((inside, _, _, next)) = at.any_group() {
                self.tokens(inside, &[]);
                (variable, continued, at) = (false, false, next);
            } else if let Some((first, next)) = at.ident() {
                if first == "as" && !prefix.is_empty() {
                    // Skip the new name.
                    at = next.ident().map_or(next, |(_, next)| next);
                    continue;
                }
                let mut path = [prefix, &[first.to_string()]].concat();
                at = next;
                while let Some(next) = colons(at) {
                    at = next;
                    if let Some((segment, next)) = at.ident() {
                        path.push(segment.to_string());
                        at = next;
                    } else if let Some((inside, _, _, next)) = at.any_group() {
                        self.tokens(inside, &path);
                        at = next;
                    } else {
                        break;
                    }
                }
                if path.len() > 1 && !continued && (!variable || path[0] == "crate") {
                    self.refer(path);
                }
                (variable, continued) = (false, false);
            } else if let Some(next) = colons(at) {
                (variable, continued, at) = (false, true, next);
            } else if let Some((punct, next)) = at.punct() {
                (variable, continued, at) = (punct.as_char() == '$', false, next);
            } else if let Some((_, next)) = at.token_tree() {
                (variable, continued, at) = (false, false, next);
            } else {
                return;
            }
        }
    }
}

/// The cursor behind a `::`. The first two colons of `x: ::a` are not one.
fn colons(at: syn::buffer::Cursor) -> Option<syn::buffer::Cursor> {
    let colon = |at: syn::buffer::Cursor<'_>| at.punct().is_some_and(|(punct, _)| punct.as_char() == ':');
    let second = at.punct().filter(|_| colon(at))?.1;
    let behind = second.punct().filter(|_| colon(second))?.1;
    (!colon(behind)).then_some(behind)
}

impl<'ast> Visit<'ast> for Collector<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let outside = self.test;
        self.test |= is_test(attributes(item));
        visit::visit_item(self, item);
        self.test = outside;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        let outside = self.test;
        self.test |= is_test(&item.attrs);
        visit::visit_impl_item_fn(self, item);
        self.test = outside;
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        if item.attrs.iter().any(|attribute| attribute.path().is_ident("path")) {
            // A unit test may share a file with the integration tests.
            if !self.test {
                self.all.problems.push(format!("{}: `#[path]` of module {name}", self.krate.name));
            }
            return;
        }
        let child = match &item.content {
            Some((_, items)) => {
                let file = self.all.modules[self.module].file;
                let child = self.all.module(self.index, file, Some(self.module));
                let mut inside = Collector {
                    all: self.all,
                    krate: self.krate,
                    index: self.index,
                    folder: format!("{}{name}/", self.folder),
                    module: child,
                    test: self.test,
                };
                inside.module_items(items);
                child
            }
            None => {
                let alone = format!("{}{name}.rs", self.folder);
                let within = format!("{}{name}/mod.rs", self.folder);
                let path = if self.krate.files.contains_key(&within) { within } else { alone };
                self.all.file(self.krate, self.index, &path, Some(self.module), self.test)
            }
        };
        self.all.modules[self.module].children.insert(name, child);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let prefix = if item.leading_colon.is_some() { vec![String::new()] } else { vec![] };
        self.import(&prefix, &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 || path.leading_colon.is_some() {
            let global = path.leading_colon.map(|_| String::new());
            let segments = path.segments.iter().map(|segment| segment.ident.to_string());
            self.refer(global.into_iter().chain(segments).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        visit::visit_macro(self, call);
        self.tokens(syn::buffer::TokenBuffer::new2(call.tokens.clone()).begin(), &[]);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(syn::buffer::TokenBuffer::new2(list.tokens.clone()).begin(), &[]);
        }
    }

    /// The path of `pub(in crate::kernels)` is no import.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}
}

/// The name that an item other than a module defines.
fn name(item: &syn::Item) -> Option<String> {
    let ident = match item {
        syn::Item::Const(item) => &item.ident,
        syn::Item::Enum(item) => &item.ident,
        syn::Item::Fn(item) => &item.sig.ident,
        syn::Item::Macro(item) => item.ident.as_ref()?,
        syn::Item::Static(item) => &item.ident,
        syn::Item::Struct(item) => &item.ident,
        syn::Item::Trait(item) => &item.ident,
        syn::Item::Type(item) => &item.ident,
        syn::Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Whether an item is compiled for tests only: `cfg(test)`, or `cfg(all(…, test, …))`.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    fn needs_test(meta: &syn::Meta) -> bool {
        match meta {
            syn::Meta::Path(path) => path.is_ident("test"),
            syn::Meta::List(list) if list.path.is_ident("all") => {
                let all = syn::punctuated::Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated;
                list.parse_args_with(all).is_ok_and(|all| all.iter().any(needs_test))
            }
            _ => false,
        }
    }
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            list.parse_args::<syn::Meta>().is_ok_and(|meta| needs_test(&meta))
        }
        syn::Meta::Path(path) => path.is_ident("test"),
        _ => false,
    })
}
