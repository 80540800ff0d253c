//! Which columns of a parquet file hold the images and the labels, and the names of the classes.

use parquet::basic::Type;
use parquet::file::metadata::FileMetaData;
use parquet::schema::types::{SchemaDescriptor, Type as Field};
use serde_json::Value;

/// The columns of images and labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// The index of the column of the images' bytes.
    pub image: usize,
    /// The name of the struct that the bytes are in.
    pub image_name: String,
    /// The index of the column of labels.
    pub label: usize,
    /// The column's name.
    pub label_name: String,
    /// Whether labels are the names of classes instead of their numbers.
    pub words: bool,
    /// The names of the classes, if the file has them.
    pub names: Option<Vec<String>>,
}

/// What the hub's images are.
const IMAGE: &str = "expected a struct of bytes and path, as the library datasets writes it";

/// Finds the columns of images and labels.
///
/// # Errors
/// What is wrong with the schema, in a clause that follows the file's name.
pub fn columns(file: &FileMetaData) -> Result<Columns, String> {
    let schema = file.schema_descr();
    let features = features(file)?;
    let feature = |name: &str| features.as_ref().and_then(|features| features.get(name));
    let fields: Vec<&Field> = schema.root_schema().get_fields().iter().map(AsRef::as_ref).collect();
    let (image_name, image) = image_column(schema, &fields)?;
    let label_name =
        label_name(&fields, |name| feature(name).is_some_and(|feature| feature["_type"] == "ClassLabel"))?;
    let (label, words) = label_column(schema, &label_name)?;
    let names = feature(&label_name).and_then(|feature| feature["names"].as_array()).filter(|_| !words);
    let names = names.map(|names| names.iter().map(class_name).collect::<Result<_, _>>()).transpose()?;
    Ok(Columns { image, image_name, label, label_name, words, names })
}

/// The features that the library datasets describes in the file's metadata.
fn features(file: &FileMetaData) -> Result<Option<Value>, String> {
    let entry = file.key_value_metadata().and_then(|all| all.iter().find(|entry| entry.key == "huggingface"));
    let Some(text) = entry.and_then(|entry| entry.value.as_deref()) else { return Ok(None) };
    let value: Value = serde_json::from_str(text)
        .map_err(|error| format!("has metadata huggingface that are not JSON: {error}"))?;
    Ok(value.pointer("/info/features").cloned())
}

fn class_name(name: &Value) -> Result<String, String> {
    let name = name.as_str().ok_or_else(|| format!("has the class name {name}, expected a text"))?;
    Ok(printable(name))
}

/// The name of a class, which is printed in lines and tables.
pub fn printable(name: &str) -> String {
    if name.chars().any(char::is_control) { name.escape_debug().to_string() } else { name.into() }
}

/// The names of fields, for messages.
fn listed<'a>(fields: impl IntoIterator<Item = &'a Field>) -> String {
    fields.into_iter().map(|field| shown(field.name())).collect::<Vec<_>>().join(", ")
}

/// A name from a file, which must not break a line.
fn shown(name: &str) -> String {
    name.escape_debug().to_string()
}

/// The column that is called `image`, or else the only one of images: its name and the index of its bytes.
fn image_column(schema: &SchemaDescriptor, fields: &[&Field]) -> Result<(String, usize), String> {
    let is_image =
        |field: &&&Field| field.is_group() && field.get_fields().iter().any(|f| f.name() == "bytes");
    let field = match fields.iter().find(|field| field.name() == "image") {
        Some(field) => field,
        None => match &fields.iter().filter(is_image).collect::<Vec<_>>()[..] {
            [only] => only,
            [] => {
                return Err(format!(
                    "has no column image: {IMAGE}; its columns are {}",
                    listed(fields.iter().copied())
                ));
            }
            several => {
                let several = listed(several.iter().map(|field| **field));
                return Err(format!(
                    "has several columns of images, {several}: rename the one to use to image"
                ));
            }
        },
    };
    let name = shown(field.name());
    if !field.is_group() {
        return Err(format!(
            "has in its column {name} values of the type {}: {IMAGE}",
            field.get_physical_type()
        ));
    }
    let leaf = |parts: &[String]| parts.len() == 2 && parts[0] == field.name() && parts[1] == "bytes";
    let Some(index) = schema.columns().iter().position(|column| leaf(column.path().parts())) else {
        let inner = listed(field.get_fields().iter().map(AsRef::as_ref));
        return Err(format!("has in its column {name} a struct of {inner} without bytes: {IMAGE}"));
    };
    let column = schema.column(index);
    if column.max_rep_level() > 0 {
        return Err(format!("has in its column {name} lists of images: {IMAGE}"));
    }
    if column.physical_type() != Type::BYTE_ARRAY {
        return Err(format!(
            "has in {name}.bytes values of the type {}, expected bytes",
            column.physical_type()
        ));
    }
    Ok((name, index))
}

/// The column that is called `label`, or else the only one of labels.
fn label_name(fields: &[&Field], is_class: impl Fn(&str) -> bool) -> Result<String, String> {
    if fields.iter().any(|field| field.name() == "label") {
        return Ok("label".into());
    }
    let labels = fields.iter().filter(|field| field.name() == "labels" || is_class(field.name()));
    match &labels.collect::<Vec<_>>()[..] {
        [only] => Ok(only.name().into()),
        [] => {
            let all = listed(fields.iter().copied());
            Err(format!("has no column label: expected one of integers or texts; its columns are {all}"))
        }
        several => {
            let several = listed(several.iter().map(|field| **field));
            Err(format!("has several columns of labels, {several}: rename the one to use to label"))
        }
    }
}

/// The index of the column of labels, and whether they are texts.
fn label_column(schema: &SchemaDescriptor, name: &str) -> Result<(usize, bool), String> {
    const EXPECTED: &str = "expected an integer or a text per image";
    let found = schema.columns().iter().position(|column| column.path().parts() == [name.to_string()]);
    let name = shown(name);
    let index = found.ok_or_else(|| format!("has in its column {name} lists or structs: {EXPECTED}"))?;
    match schema.column(index).physical_type() {
        _ if schema.column(index).max_rep_level() > 0 => {
            Err(format!("has in its column {name} lists: {EXPECTED}"))
        }
        Type::INT32 | Type::INT64 => Ok((index, false)),
        Type::BYTE_ARRAY => Ok((index, true)),
        other => Err(format!("has in its column {name} values of the type {other}: {EXPECTED}")),
    }
}
