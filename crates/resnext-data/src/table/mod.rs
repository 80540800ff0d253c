//! Images and labels in parquet files, as the Hugging Face hub stores image sets.

pub mod columns;
pub mod files;
pub mod labels;
pub mod opened;
pub mod order;
pub mod rows;
