//! torchvision's names of layers: `conv1`, `layer1.0.conv2`, `layer1.0.downsample.0`, `fc`.

/// The name of stage `s`, counted from 0: `layer1` for the first.
pub(crate) fn stage(s: usize) -> String {
    format!("layer{}", s + 1)
}

/// The name of block `i` in stage `s`, both counted from 0: `layer1.0` for the first.
pub(crate) fn block(s: usize, i: usize) -> String {
    format!("layer{}.{i}", s + 1)
}

/// Splits `layer1.0.conv2.weight` into its block, `layer1.0.`, and its name there, `conv2.weight`. `None` if
/// the weight lies outside of the blocks.
pub(crate) fn split_block(name: &str) -> Option<(&str, &str)> {
    let mut dots = name.match_indices('.').map(|(at, _)| at);
    let (first, second) = (dots.next()?, dots.next()?);
    let is_integer = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let stage = name[..first].strip_prefix("layer")?;
    (is_integer(stage) && is_integer(&name[first + 1..second])).then(|| name.split_at(second + 1))
}

/// The number in the stage's name, counted from 1 as torchvision does. `None` if the weight is in no stage.
pub(crate) fn stage_number(name: &str) -> Option<usize> {
    name.strip_prefix("layer")?.split_once('.')?.0.parse().ok()
}

/// Whether this is a weight of the last layer, `fc`.
pub(crate) fn is_head(name: &str) -> bool {
    name.starts_with("fc.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_where_the_block_ends() {
        assert_eq!((stage(0), block(3, 12)), ("layer1".into(), "layer4.12".into()));
        assert_eq!(split_block("layer4.12.conv2.weight"), Some(("layer4.12.", "conv2.weight")));
        for outside in
            ["conv1.weight", "fc.bias", "layer1", "layer1.0", "layer.0.x", "layer1.x.y", "layer1..x"]
        {
            assert_eq!(split_block(outside), None, "{outside}");
        }
        assert_eq!(stage_number("layer12.0.bn1.bias"), Some(12));
        assert_eq!((stage_number("bn1.bias"), stage_number("layers.0")), (None, None));
        assert!(is_head("fc.weight") && !is_head("fc2.weight"));
    }
}
