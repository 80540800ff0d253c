//! The parts of a network that are not trained.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The frozen parts by name: `stem`, `layer1`, `layer2`, … They must be the first ones of the network, because
/// a gradient that passes through a part costs as much as training it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Freeze(Vec<String>);

impl Freeze {
    /// Whether nothing is frozen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of frozen stages after the frozen stem, of a network with this many `stages`; `None` if
    /// the whole network is trained. This is what [`ResNext::freeze`](resnext_model::ResNext::freeze) takes.
    ///
    /// # Errors
    /// If a name is not a part of the network, or a part is missing before one that is named.
    pub fn stages(&self, stages: usize) -> Result<Option<usize>> {
        let parts: Vec<String> =
            std::iter::once("stem".into()).chain((1..=stages).map(|s| format!("layer{s}"))).collect();
        let mut last = None;
        for name in &self.0 {
            let at = parts.iter().position(|part| part == name).ok_or_else(|| {
                Error::Config(format!("cannot freeze `{name}`: the parts are {}", parts.join(", ")))
            })?;
            last = last.max(Some(at));
        }
        let Some(last) = last else { return Ok(None) };
        match parts[..last].iter().find(|part| !self.0.contains(part)) {
            None => Ok(Some(last)),
            Some(missing) => Err(Error::Config(format!(
                "cannot freeze `{}` without `{missing}`, which is before it: use {}",
                parts[last],
                parts[..=last].join(",")
            ))),
        }
    }
}

/// As on the command line: names with commas between them, or `none`.
impl FromStr for Freeze {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "" | "none" => Ok(Freeze::default()),
            _ => Ok(Freeze(text.split(',').map(|name| name.trim().to_string()).collect())),
        }
    }
}

impl fmt::Display for Freeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_empty() {
            true => f.write_str("none"),
            false => f.write_str(&self.0.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_parts_can_be_frozen_and_no_others() {
        let stages = |text: &str| text.parse::<Freeze>().unwrap().stages(3).map_err(|e| e.to_string());
        assert_eq!(stages("none"), Ok(None));
        assert_eq!(stages("stem"), Ok(Some(0)));
        assert_eq!(stages("layer1, stem"), Ok(Some(1)));
        assert_eq!(stages("stem,layer1,layer2,layer3"), Ok(Some(3)));
        assert_eq!(
            stages("stem,layer2"),
            Err("cannot freeze `layer2` without `layer1`, which is before it: use stem,layer1,layer2".into())
        );
        assert!(stages("layer4").unwrap_err().contains("the parts are stem, layer1, layer2, layer3"));
        assert_eq!("stem,layer1".parse::<Freeze>().unwrap().to_string(), "stem,layer1");
    }
}
