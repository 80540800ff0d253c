//! The trained network that a user names: a run folder, a file, another folder, or a repository of the hub.

use crate::run_folder::{BEST, LAST, RECIPE};
use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use resnext_model::Pretrained;
use resnext_model::hub::{Hub, RepoId};
use std::path::Path;
use std::sync::Mutex;

/// Opens the trained network that `text` names: a file or folder if it exists, else a repository.
pub fn pretrained(text: &str) -> Result<Pretrained> {
    let path = Path::new(text);
    let run = path.join(BEST);
    Ok(if run.is_file() {
        Pretrained::open(&run)?
    } else if path.join(RECIPE).is_file() {
        match path.join(LAST).is_file() {
            true => bail!(
                "{text}: this run has no {BEST} until its first epoch ends: name {text}/{LAST}, or continue it \
                 with train --resume"
            ),
            false => bail!("{text}: this run has no checkpoint yet: continue it with train --resume"),
        }
    } else if path.exists() {
        Pretrained::open(path)?
    } else if looks_like_a_path(text) {
        bail!("{text}: no such file or folder");
    } else {
        let repo: RepoId = text.parse()?;
        Pretrained::from_hub(&Hub::from_env()?.with_progress(progress_bar()), &repo)?
    })
}

/// Whether a text that names no existing file was meant as a path rather than as a repository.
fn looks_like_a_path(text: &str) -> bool {
    let endings = [".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar"];
    text.starts_with(['.', '/', '~']) || endings.iter().any(|ending| text.ends_with(ending))
}

/// Shows a progress bar per downloaded file.
fn progress_bar() -> resnext_model::hub::Progress {
    let shown: Mutex<Option<(String, ProgressBar)>> = Mutex::new(None);
    Box::new(move |file, done, total| {
        let Ok(mut shown) = shown.lock() else { return };
        if shown.as_ref().is_none_or(|(name, _)| name != file) {
            let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {eta}");
            let bar = ProgressBar::new(total).with_message(file.to_string());
            *shown = Some((file.to_string(), style.map_or(bar.clone(), |style| bar.with_style(style))));
        }
        if let Some((_, bar)) = shown.as_ref() {
            bar.set_position(done);
            if done == total {
                bar.finish_and_clear();
            }
        }
    })
}
