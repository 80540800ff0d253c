//! The recipes of this repository, which are part of the program.

/// Name and text of each file in `recipes/`.
const RECIPES: [(&str, &str); 5] = [
    ("synthetic", include_str!("../../recipes/synthetic.toml")),
    ("cifar10", include_str!("../../recipes/cifar10.toml")),
    ("cifar100", include_str!("../../recipes/cifar100.toml")),
    ("folder", include_str!("../../recipes/folder.toml")),
    ("paper-cifar10", include_str!("../../recipes/paper-cifar10.toml")),
];

/// The text of the recipe of this name.
pub fn text(name: &str) -> Option<&'static str> {
    RECIPES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The names of all recipes.
pub fn names() -> impl Iterator<Item = &'static str> {
    RECIPES.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;

    #[test]
    fn every_file_is_a_recipe_that_says_where_it_comes_from() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../recipes");
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<String> =
            files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_string()).collect();
        files.sort();
        let mut known: Vec<&str> = names().collect();
        known.sort();
        assert_eq!(files, known);
        for name in names() {
            assert!(text(name).unwrap().starts_with("# "), "{name} does not say what it is");
            let recipe = Recipe::named(name).unwrap();
            recipe.network(10).unwrap();
            recipe.training().unwrap();
            // What a run writes down is the same recipe.
            let again: Recipe = toml::from_str(&toml::to_string(&recipe).unwrap()).unwrap();
            assert_eq!(again, recipe, "{name}");
        }
    }

    #[test]
    fn names_and_keys_that_are_unknown_are_named() {
        let error = Recipe::named("paper-cifar").unwrap_err().to_string();
        assert!(error.contains("paper-cifar") && error.contains("synthetic, cifar10, "), "{error}");
        let text = text("synthetic").unwrap().replace("augment =", "augmented =");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("my.toml");
        std::fs::write(&file, &text).unwrap();
        let error = format!("{:#}", Recipe::read(&file).unwrap_err());
        assert!(error.contains("my.toml, line 7: unknown field `augmented`"), "{error}");
        std::fs::write(&file, text.replace("augmented", "augment") + "\n[adamw]\nbetas = [0.9, 0.99]\n")
            .unwrap();
        let error = format!("{:#}", Recipe::read(&file).unwrap_err());
        assert!(error.contains("keep one of the tables [sgd], [adamw] and [lamb]"), "{error}");
    }
}
