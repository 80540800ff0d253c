//! The studies by name.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The networks that a study compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Equal complexity, growing cardinality (section 5.1, table 3 and figure 5).
    Cardinality,
    /// Twice the complexity by depth, by width and by cardinality (table 4).
    Capacity,
    /// With and without residual connections (section 5.1).
    Shortcuts,
}

impl Kind {
    /// The question of the study, as the title of its report.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Cardinality => "Does error fall as cardinality grows, at equal complexity?",
            Kind::Capacity => "Depth, width or cardinality: what to spend twice the complexity on?",
            Kind::Shortcuts => "What are residual connections worth, with and without cardinality?",
        }
    }

    /// The difference between the networks, as the horizontal axis of charts.
    pub fn axis(self) -> &'static str {
        match self {
            Kind::Cardinality => "cardinality C, at equal complexity",
            Kind::Capacity | Kind::Shortcuts => "network",
        }
    }
}

/// As on the command line.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Kind::Cardinality => "cardinality",
            Kind::Capacity => "capacity",
            Kind::Shortcuts => "shortcuts",
        })
    }
}
