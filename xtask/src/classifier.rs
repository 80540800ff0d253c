//! A trained network with what its use requires: how images are prepared, and what its classes are called.

use crate::checkpoint;
use crate::error_line::error_line;
use crate::input_options::InputOptions;
use crate::open_data::OpenData;
use crate::weights_source::pretrained;
use anyhow::{Context, Result, bail};
use resnext_data::{EvalTransform, Interpolation, Normalization, Resize, Splits, imagenet};
use resnext_model::{Architecture, CropMode, Description, Preprocessing, Pretrained};

/// A trained network, with the preparation of its input images and the names of its classes.
pub struct Classifier {
    pub pretrained: Pretrained,
    pub transform: EvalTransform,
    /// The names of the classes, if they are known.
    labels: Option<Vec<String>>,
}

impl Classifier {
    /// Opens the network that `text` names, and finds out how its input images are prepared.
    pub fn open(text: &str, options: &InputOptions) -> Result<Self> {
        let mut pretrained = pretrained(text)?;
        if pretrained.preprocessing_is_assumed && !options.normalizes() {
            describe_by_its_data(&mut pretrained)?;
        }
        options.apply(&mut pretrained)?;
        let mut labels = pretrained.labels.clone();
        let imagenet = imagenet::class_names();
        let unnamed = labels.is_none() && pretrained.network.classes() == imagenet.len();
        if unnamed {
            labels = Some(imagenet.into_iter().map(String::from).collect());
        }
        if pretrained.preprocessing_is_assumed {
            let names = if unnamed { ", and the names of ImageNet's classes" } else { "" };
            pretrained.notes.push(format!(
                "it does not say how its images are prepared: assumed {}{names}; --mean, --std, --resize and \
                 --labels override this",
                pretrained.preprocessing
            ));
        }
        let transform = transform(&pretrained.preprocessing)
            .with_context(|| format!("the configuration of {}", pretrained.source))?;
        Ok(Classifier { pretrained, transform, labels })
    }

    /// The name of a class.
    pub fn label(&self, class: usize) -> String {
        let known = self.labels.as_ref().and_then(|labels| labels.get(class));
        known.cloned().unwrap_or_else(|| format!("class {class}"))
    }

    /// The description that goes into a file for other programs, beside the weights. `None` if nothing is known of the
    /// network's images: values that were only assumed must not be passed on as known.
    pub fn description(&self) -> Option<Description> {
        let Pretrained { preprocessing, preprocessing_is_assumed, labels, network, .. } = &self.pretrained;
        let (preprocessing, network) = (preprocessing.clone(), network.clone());
        let description = Description { preprocessing, class_names: labels.clone(), network };
        (!preprocessing_is_assumed).then_some(description)
    }
}

/// Prints what a user should know about a network before its results.
pub fn print_notes(pretrained: &Pretrained) {
    for note in &pretrained.notes {
        eprintln!("note: {}: {note}", pretrained.source);
    }
}

/// The description of images and classes in the checkpoints of a run.
pub fn describe(data: &OpenData, network: impl Into<Architecture>) -> Description {
    let network = network.into();
    let usual = network.preprocessing();
    let normalization = data.normalization();
    let preprocessing = match data {
        OpenData::Memory(splits) => Preprocessing { size: splits.test.size(), crop_pct: 1.0, ..usual },
        OpenData::Photos(_, photos, _) => Preprocessing {
            size: (photos.test_size, photos.test_size),
            crop_pct: photos.crop_pct,
            interpolation: photos.interpolation.name().into(),
            ..usual
        },
    };
    let preprocessing = Preprocessing {
        crop_mode: CropMode::Center,
        mean: normalization.mean,
        std: normalization.std,
        ..preprocessing
    };
    let class_names = Some(data.class_names().to_vec());
    Description { preprocessing, class_names, network }
}

/// Takes preprocessing and names of a run from its data set, if its checkpoint is of a version that did not
/// keep them.
fn describe_by_its_data(pretrained: &mut Pretrained) -> Result<()> {
    let Some(recipe) = checkpoint::recipe(&pretrained.weights)? else { return Ok(()) };
    match OpenData::new(&recipe, None) {
        Ok(data) => {
            take(pretrained, describe(&data, &pretrained.network));
            Ok(())
        }
        Err(error) => bail!(
            "{}: this checkpoint does not say how its images are normalised, and its data set cannot be read \
             ({}): pass --mean and --std",
            pretrained.source,
            error_line(&error)
        ),
    }
}

fn take(pretrained: &mut Pretrained, description: Description) {
    pretrained.preprocessing = description.preprocessing;
    pretrained.labels = description.class_names;
    pretrained.preprocessing_is_assumed = false;
}

/// The images of a data set as the network wants them: with its own normalisation, resized and cropped if its
/// input has another size. Where nothing says what it wants, it takes the data set's images as they are.
pub fn fit_to_network(
    data: OpenData,
    pretrained: &mut Pretrained,
    options: &InputOptions,
) -> Result<OpenData> {
    if pretrained.preprocessing_is_assumed {
        let described = describe(&data, &pretrained.network);
        pretrained.preprocessing = described.preprocessing;
        if checkpoint::recipe(&pretrained.weights)?.is_none() && !options.normalizes() {
            pretrained.notes.push(format!(
                "it does not say how its images are prepared: assumed the data set's own normalisation, mean \
                 {:?}, std {:?}; --mean and --std override this",
                data.normalization().mean,
                data.normalization().std
            ));
        }
    }
    options.apply(pretrained)?;
    let names = data.class_names();
    if let Some(own) = &pretrained.labels
        && let Some(class) = own.iter().zip(names).position(|(own, name)| own != name)
    {
        pretrained.notes.push(format!(
            "class {class} is called {} in the data set, and {} in the weights",
            names[class], own[class]
        ));
    }
    let transform = transform(&pretrained.preprocessing)
        .with_context(|| format!("the configuration of {}", pretrained.source))?;
    let splits = match data {
        OpenData::Memory(splits) => splits,
        OpenData::Photos(sets, photos, _) => return Ok(OpenData::Photos(sets, photos, transform)),
    };
    let (train, test) = match transform.keeps(splits.test.size()) {
        true => (splits.train, splits.test),
        false => (transform.crop_all(&splits.train), transform.crop_all(&splits.test)),
    };
    Ok(Splits { train, test, normalization: transform.normalization }.into())
}

fn transform(preprocessing: &Preprocessing) -> Result<EvalTransform> {
    let name = &preprocessing.interpolation;
    let interpolation = Interpolation::named(name)
        .with_context(|| format!("interpolation must be bilinear or bicubic, got {name}"))?;
    let (height, width) = preprocessing.scaled();
    let transform = EvalTransform {
        resize: match preprocessing.crop_mode {
            CropMode::Center if height == width => Resize::Shorter(height),
            CropMode::Center => Resize::Cover(height, width),
            CropMode::Squash => Resize::Squash(height, width),
            CropMode::Border => Resize::Fit(height, width),
        },
        crop: preprocessing.size,
        interpolation,
        normalization: Normalization { mean: preprocessing.mean, std: preprocessing.std },
    };
    transform.validate()?;
    Ok(transform)
}
