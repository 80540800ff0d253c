//! Inception-v3 (Szegedy et al., "Rethinking the Inception Architecture", arXiv 1512.00567, section 6 and table
//! 1), as torchvision and timm have it, without the auxiliary classifier.

use super::node::{ConvNode, Node, chain, max_pool, pooled};

/// Whether averages count pixels beyond the border.
const COUNT_PADDING: bool = true;

fn conv(name: &str, input: usize, output: usize, kernel: (usize, usize)) -> ConvNode {
    ConvNode::new(name, input, output, kernel)
}

/// All layers before the classifier.
pub(super) fn layers() -> Node {
    Node::Sequence(vec![
        conv("Conv2d_1a_3x3", 3, 32, (3, 3)).stride(2).into(),
        conv("Conv2d_2a_3x3", 32, 32, (3, 3)).into(),
        conv("Conv2d_2b_3x3", 32, 64, (3, 3)).same().into(),
        max_pool(),
        conv("Conv2d_3b_1x1", 64, 80, (1, 1)).into(),
        conv("Conv2d_4a_3x3", 80, 192, (3, 3)).into(),
        max_pool(),
        figure5("Mixed_5b", 192, 32),
        figure5("Mixed_5c", 256, 64),
        figure5("Mixed_5d", 288, 64),
        reduction_35("Mixed_6a", 288),
        figure6("Mixed_6b", 128),
        figure6("Mixed_6c", 160),
        figure6("Mixed_6d", 160),
        figure6("Mixed_6e", 192),
        reduction_17("Mixed_7a", 768),
        figure7("Mixed_7b", 1280),
        figure7("Mixed_7c", 2048),
    ])
}

/// The module of figure 5 at 35×35: two 3×3 in the place of a 5×5. torchvision's has a 5×5 as well.
fn figure5(module: &str, input: usize, pool: usize) -> Node {
    let name = |branch: &str| format!("{module}.{branch}");
    Node::Branches(vec![
        conv(&name("branch1x1"), input, 64, (1, 1)).into(),
        chain([
            conv(&name("branch5x5_1"), input, 48, (1, 1)),
            conv(&name("branch5x5_2"), 48, 64, (5, 5)).same(),
        ]),
        chain([
            conv(&name("branch3x3dbl_1"), input, 64, (1, 1)),
            conv(&name("branch3x3dbl_2"), 64, 96, (3, 3)).same(),
            conv(&name("branch3x3dbl_3"), 96, 96, (3, 3)).same(),
        ]),
        pooled(COUNT_PADDING, conv(&name("branch_pool"), input, pool, (1, 1))),
    ])
}

/// From 35×35 to 17×17: figure 10.
fn reduction_35(module: &str, input: usize) -> Node {
    let name = |branch: &str| format!("{module}.{branch}");
    Node::Branches(vec![
        conv(&name("branch3x3"), input, 384, (3, 3)).stride(2).into(),
        chain([
            conv(&name("branch3x3dbl_1"), input, 64, (1, 1)),
            conv(&name("branch3x3dbl_2"), 64, 96, (3, 3)).same(),
            conv(&name("branch3x3dbl_3"), 96, 96, (3, 3)).stride(2),
        ]),
        max_pool(),
    ])
}

/// The module of figure 6 at 17×17, with n = 7: a 7×7 as 1×7 and 7×1, `inner` channels wide.
fn figure6(module: &str, inner: usize) -> Node {
    let name = |branch: &str| format!("{module}.{branch}");
    let input = 768;
    Node::Branches(vec![
        conv(&name("branch1x1"), input, 192, (1, 1)).into(),
        chain([
            conv(&name("branch7x7_1"), input, inner, (1, 1)),
            conv(&name("branch7x7_2"), inner, inner, (1, 7)).same(),
            conv(&name("branch7x7_3"), inner, 192, (7, 1)).same(),
        ]),
        chain([
            conv(&name("branch7x7dbl_1"), input, inner, (1, 1)),
            conv(&name("branch7x7dbl_2"), inner, inner, (7, 1)).same(),
            conv(&name("branch7x7dbl_3"), inner, inner, (1, 7)).same(),
            conv(&name("branch7x7dbl_4"), inner, inner, (7, 1)).same(),
            conv(&name("branch7x7dbl_5"), inner, 192, (1, 7)).same(),
        ]),
        pooled(COUNT_PADDING, conv(&name("branch_pool"), input, 192, (1, 1))),
    ])
}

/// From 17×17 to 8×8.
fn reduction_17(module: &str, input: usize) -> Node {
    let name = |branch: &str| format!("{module}.{branch}");
    Node::Branches(vec![
        chain([
            conv(&name("branch3x3_1"), input, 192, (1, 1)),
            conv(&name("branch3x3_2"), 192, 320, (3, 3)).stride(2),
        ]),
        chain([
            conv(&name("branch7x7x3_1"), input, 192, (1, 1)),
            conv(&name("branch7x7x3_2"), 192, 192, (1, 7)).same(),
            conv(&name("branch7x7x3_3"), 192, 192, (7, 1)).same(),
            conv(&name("branch7x7x3_4"), 192, 192, (3, 3)).stride(2),
        ]),
        max_pool(),
    ])
}

/// The module of figure 7 at 8×8, whose filter bank is expanded: 1×3 and 3×1 side by side.
fn figure7(module: &str, input: usize) -> Node {
    let name = |branch: &str| format!("{module}.{branch}");
    let both = |branch: &str| {
        Node::Branches(vec![
            conv(&name(&format!("{branch}a")), 384, 384, (1, 3)).same().into(),
            conv(&name(&format!("{branch}b")), 384, 384, (3, 1)).same().into(),
        ])
    };
    Node::Branches(vec![
        conv(&name("branch1x1"), input, 320, (1, 1)).into(),
        Node::Sequence(vec![conv(&name("branch3x3_1"), input, 384, (1, 1)).into(), both("branch3x3_2")]),
        Node::Sequence(vec![
            conv(&name("branch3x3dbl_1"), input, 448, (1, 1)).into(),
            conv(&name("branch3x3dbl_2"), 448, 384, (3, 3)).same().into(),
            both("branch3x3dbl_3"),
        ]),
        pooled(COUNT_PADDING, conv(&name("branch_pool"), input, 192, (1, 1))),
    ])
}
