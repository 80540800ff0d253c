//! The options of `cargo xtask study`.

use super::budget;
use crate::dataset_arg::DatasetName;
use crate::device_arg::{self, DeviceName};
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(clap::Subcommand)]
pub enum Command {
    /// Networks of equal complexity and growing cardinality: does error fall?
    Cardinality {
        /// Numbers of paths to compare, in ascending order
        #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,32")]
        cardinalities: Vec<usize>,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// Twice the complexity by depth, by width and by cardinality: which is the best use of it?
    Capacity {
        /// Number of paths of the base network that has several
        #[arg(long, default_value = "8")]
        cardinality: usize,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// Networks with and without residual connections
    Shortcuts {
        /// Number of paths of the network that has several
        #[arg(long, default_value = "8")]
        cardinality: usize,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// Go on with a study where it stopped
    Resume {
        /// Folder of the study
        folder: PathBuf,
        /// Where the data set lies on this machine, if not where the plan says
        #[arg(long)]
        data: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
    /// Write a study's page and Markdown file anew, from the folders of its runs
    Report {
        /// Folder of the study
        folder: PathBuf,
    },
}

/// The settings of a new study.
#[derive(clap::Args)]
pub struct Options {
    /// Network whose complexity all others have [default: resnet20_1x17d on a CPU, resnet29_1x64d on a GPU; with a
    /// set of photos, resnet50]
    #[arg(long)]
    pub network: Option<String>,
    /// Data set [default: synthetic, or a folder of photos if --data is one]
    #[arg(long)]
    pub dataset: Option<DatasetName>,
    /// Archive (.tar.gz) or folder of the data set, or a tar shard, a parquet file or a pattern of them
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// TOML file with the settings of all runs, or the name of one in recipes/ [default: the one of the data set]
    #[arg(long)]
    pub recipe: Option<String>,
    /// Train on this many images only, the first ones of each class and the same number of each
    #[arg(long)]
    pub train_images: Option<usize>,
    /// Passes over the training set [default: the recipe's, or what fits into --budget]
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Runs of each network, which differ by their seeds [default: 3, or more if they fit into --budget]
    #[arg(long)]
    pub seeds: Option<usize>,
    /// Time for the whole study, such as 2h or 90m: measures some steps, and chooses epochs and seeds by them
    #[arg(long, value_parser = budget::parse)]
    pub budget: Option<Duration>,
    /// Folder for the study [default: a new one under studies/]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Only show the plan
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub place: Place,
}

/// Where a study's runs are trained.
#[derive(clap::Args)]
pub struct Place {
    /// Train only this part of the runs, such as 1/2 on one machine and 2/2 on another
    #[arg(long, value_parser = part)]
    pub part: Option<(usize, usize)>,
    #[arg(long, default_value = "auto", help = device_arg::HELP)]
    pub device: DeviceName,
}

/// `2/3`: the second of three parts.
fn part(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(own, all)| Some((own.parse().ok()?, all.parse().ok()?)));
    parts
        .filter(|&(own, all): &(usize, usize)| (1..=all).contains(&own))
        .ok_or("expected a part and the number of parts, such as 1/2".into())
}

#[cfg(test)]
mod tests {
    use super::part;

    #[test]
    fn a_part_is_one_of_as_many_as_there_are() {
        assert_eq!((part("1/2"), part("3/3")), (Ok((1, 2)), Ok((3, 3))));
        for wrong in ["", "1", "0/2", "3/2", "1/0", "a/b", "-1/2"] {
            assert!(part(wrong).is_err(), "{wrong}");
        }
    }
}
