//! `cargo xtask data preview`: a contact sheet of the images that training and evaluation see.

use super::photos::PhotoArgs;
use crate::plural::counted;
use anyhow::{Context, Result, ensure};
use resnext_data::{ImageSet, contact_sheet};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    photos: PhotoArgs,
    /// Training crops per class
    #[arg(long, default_value_t = 8)]
    crops: usize,
    /// The most classes, which are spread over all
    #[arg(long, default_value_t = 12)]
    classes: usize,
    /// PNG file to write
    #[arg(long, default_value = "preview.png")]
    out: PathBuf,
}

pub fn run(args: Args) -> Result<()> {
    ensure!(args.crops > 0 && args.classes > 0, "--crops and --classes must be at least 1");
    let photos = args.photos.open()?;
    let (train, validation) = (photos.train(1)?, photos.validation(1)?);
    let names = train.set().class_names();
    let shown = args.classes.min(names.len());
    let mut rows = Vec::new();
    for class in (0..shown).map(|i| i * names.len() / shown) {
        let of_class = |set: &ImageSet| -> Vec<usize> {
            (0..set.len()).filter(|&i| set.label(i) as usize == class).collect()
        };
        let (own, kept) = (of_class(train.set()), of_class(validation.set()));
        let mut row = kept
            .first()
            .map(|&index| validation.view(index, 0))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        // Different photos first, then other crops of the same ones.
        for crop in 0..args.crops {
            let Some(&index) = own.get(crop % own.len().max(1)) else { break };
            row.push(train.view(index, (crop / own.len()) as u64)?);
        }
        println!("row {}: {}", rows.len() + 1, names[class]);
        rows.push(row);
    }
    contact_sheet(&rows).context("no photos")?.save(&args.out)?;
    println!(
        "{}: a validation photo of each class, then {} as the first epochs crop them",
        args.out.display(),
        counted(args.crops, "training photo")
    );
    Ok(())
}
