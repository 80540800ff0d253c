//! Reads arbitrary bytes as a recipe, and asks for everything that a run takes from it. The files are the program's own.

#![no_main]
#![allow(dead_code)] // the program uses the rest

#[path = "../../xtask/src/class_weights_arg.rs"]
mod class_weights_arg;
#[path = "../../xtask/src/dataset_arg.rs"]
mod dataset_arg;
#[path = "../../xtask/src/mix_options.rs"]
mod mix_options;
#[path = "../../xtask/src/named_recipes.rs"]
mod named_recipes;
#[path = "../../xtask/src/photo_options.rs"]
mod photo_options;
#[path = "../../xtask/src/photo_overrides.rs"]
mod photo_overrides;
#[path = "../../xtask/src/recipe.rs"]
mod recipe;

use libfuzzer_sys::fuzz_target;
use recipe::Recipe;

fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("fuzz-recipe-{}.toml", std::process::id()));
    std::fs::write(&path, bytes).expect("the temporary folder is writable");
    let recipe = match Recipe::read(&path) {
        Ok(recipe) => recipe,
        Err(error) => return assert!(!format!("{error:#}").contains('\n'), "{error:#}"),
    };
    let _ = (recipe.network(10), recipe.training(&[2; 10]));
    if let Some(photos) = &recipe.photos {
        let _ = (photos.evaluation(), photos.training(recipe.augment), photos.split());
    }
    // A run writes its recipe down and reads it again.
    let written = toml::to_string(&recipe).expect("a recipe that was read can be written");
    std::fs::write(&path, &written).expect("the temporary folder is writable");
    let again = Recipe::read(&path).expect("a recipe that was written can be read");
    assert_eq!(toml::to_string(&again).expect("it can be written again"), written);
});
