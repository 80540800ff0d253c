//! The photos that the subcommands of `data` look at, and how they are prepared.

use crate::dataset_arg::DatasetName;
use crate::open_data::OpenData;
use crate::photo_defaults;
use crate::photo_options::PhotoOptions;
use crate::photo_sets::PhotoSets;
use crate::recipe::{Overrides, Recipe};
use anyhow::{Result, bail};
use resnext_data::{ImageLoader, ImageLoaderConfig, Preparation};

#[derive(clap::Args)]
pub struct PhotoArgs {
    #[command(flatten)]
    overrides: Overrides,
    /// Recipe, a name or a TOML file [default: chosen by what is in the folder, as train does]
    #[arg(long)]
    recipe: Option<String>,
}

/// Photos with the settings that `train` would use.
pub struct Photos {
    pub sets: PhotoSets,
    options: PhotoOptions,
    recipe: Recipe,
}

impl PhotoArgs {
    /// Opens the photos.
    pub fn open(&self) -> Result<Photos> {
        let (mut recipe, listed) = match (&self.recipe, &self.overrides.data) {
            (Some(path), _) => (Recipe::open(path)?, None),
            (None, Some(folder)) => {
                let (recipe, _, sets) = photo_defaults::choose(folder, &self.overrides, None, false)?;
                (recipe, Some(sets))
            }
            (None, None) => bail!("expected --data with a folder of photos, or --recipe"),
        };
        recipe.apply(&self.overrides)?;
        // Known by its name, before it is read.
        let dataset = recipe.dataset;
        let data = (dataset == DatasetName::Folder).then(|| OpenData::new(&recipe, listed)).transpose()?;
        data.as_ref().map_or(Ok(()), |data| data.check_split(&self.overrides.photos))?;
        match data {
            Some(OpenData::Photos(sets, options, _)) => {
                sets.print_left_out();
                Ok(Photos { sets: *sets, options: *options, recipe })
            }
            Some(OpenData::Memory(_)) | None => bail!("data set {dataset} has no photos"),
        }
    }
}

impl Photos {
    /// A loader of training batches.
    pub fn train(&self, threads: usize) -> Result<ImageLoader> {
        let preparation = Preparation::Training(self.options.training(self.recipe.augment)?);
        Ok(ImageLoader::new(self.sets.train.clone(), preparation, self.config(threads))?)
    }

    /// A loader of validation batches.
    pub fn validation(&self, threads: usize) -> Result<ImageLoader> {
        let preparation = Preparation::Evaluation(self.options.evaluation()?);
        Ok(ImageLoader::new(self.sets.validation.clone(), preparation, self.config(threads))?)
    }

    fn config(&self, threads: usize) -> ImageLoaderConfig {
        let mix = self.recipe.mix.map(Into::into);
        self.options.loader(self.recipe.batch_size, mix, self.recipe.seed, threads)
    }
}
