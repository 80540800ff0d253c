//! Inception-ResNet-v2 (Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections",
//! arXiv 1602.07261, section 3.2 and figure 15), as timm has it: with Inception-v3's stem.

use super::node::{ConvNode, Node, chain, max_pool, pooled};

fn conv(name: &str, input: usize, output: usize, kernel: (usize, usize)) -> ConvNode {
    ConvNode::new(name, input, output, kernel)
}

/// All layers before the classifier.
pub(super) fn layers() -> Node {
    // Residuals are scaled down before they are added (section 3.3).
    let repeat = |name: &str, times: usize, block: &dyn Fn(&str) -> Node| {
        Node::Sequence((0..times).map(|i| block(&format!("{name}.{i}"))).collect())
    };
    Node::Sequence(vec![
        conv("conv2d_1a", 3, 32, (3, 3)).stride(2).into(),
        conv("conv2d_2a", 32, 32, (3, 3)).into(),
        conv("conv2d_2b", 32, 64, (3, 3)).same().into(),
        max_pool(),
        conv("conv2d_3b", 64, 80, (1, 1)).into(),
        conv("conv2d_4a", 80, 192, (3, 3)).into(),
        max_pool(),
        mixed_5b("mixed_5b"),
        repeat("repeat", 10, &|name| inception_resnet_a(name, 0.17)),
        reduction_a("mixed_6a"),
        repeat("repeat_1", 20, &|name| inception_resnet_b(name, 0.10)),
        reduction_b("mixed_7a"),
        repeat("repeat_2", 9, &|name| inception_resnet_c(name, 0.20, true)),
        inception_resnet_c("block8", 1.0, false),
        conv("conv2d_7b", 2080, 1536, (1, 1)).into(),
    ])
}

/// The Inception module at 35×35 that the released network starts with.
fn mixed_5b(name: &str) -> Node {
    let name = |part: &str| format!("{name}.{part}");
    Node::Branches(vec![
        conv(&name("branch0"), 192, 96, (1, 1)).into(),
        chain([conv(&name("branch1.0"), 192, 48, (1, 1)), conv(&name("branch1.1"), 48, 64, (5, 5)).same()]),
        chain([
            conv(&name("branch2.0"), 192, 64, (1, 1)),
            conv(&name("branch2.1"), 64, 96, (3, 3)).same(),
            conv(&name("branch2.2"), 96, 96, (3, 3)).same(),
        ]),
        pooled(false, conv(&name("branch3.1"), 192, 64, (1, 1))),
    ])
}

/// relu(x + scale · conv(branches)), where the convolution is linear and brings back the channels of x.
fn residual(
    name: &str,
    branches: Vec<Node>,
    (inner, channels): (usize, usize),
    scale: f64,
    relu: bool,
) -> Node {
    let conv = ConvNode {
        name: format!("{name}.conv2d"),
        norm: None,
        bias: true,
        relu: false,
        ..ConvNode::new("", inner, channels, (1, 1))
    };
    Node::Residual { branch: Box::new(Node::Branches(branches)), conv, scale, relu }
}

/// Inception-ResNet-A at 35×35 (figure 16).
fn inception_resnet_a(block: &str, scale: f64) -> Node {
    let name = |part: &str| format!("{block}.{part}");
    let branches = vec![
        conv(&name("branch0"), 320, 32, (1, 1)).into(),
        chain([conv(&name("branch1.0"), 320, 32, (1, 1)), conv(&name("branch1.1"), 32, 32, (3, 3)).same()]),
        chain([
            conv(&name("branch2.0"), 320, 32, (1, 1)),
            conv(&name("branch2.1"), 32, 48, (3, 3)).same(),
            conv(&name("branch2.2"), 48, 64, (3, 3)).same(),
        ]),
    ];
    residual(block, branches, (128, 320), scale, true)
}

/// From 35×35 to 17×17 (figure 7, with the sizes of table 1).
fn reduction_a(name: &str) -> Node {
    let name = |part: &str| format!("{name}.{part}");
    Node::Branches(vec![
        conv(&name("branch0"), 320, 384, (3, 3)).stride(2).into(),
        chain([
            conv(&name("branch1.0"), 320, 256, (1, 1)),
            conv(&name("branch1.1"), 256, 256, (3, 3)).same(),
            conv(&name("branch1.2"), 256, 384, (3, 3)).stride(2),
        ]),
        max_pool(),
    ])
}

/// Inception-ResNet-B at 17×17 (figure 17).
fn inception_resnet_b(block: &str, scale: f64) -> Node {
    let name = |part: &str| format!("{block}.{part}");
    let branches = vec![
        conv(&name("branch0"), 1088, 192, (1, 1)).into(),
        chain([
            conv(&name("branch1.0"), 1088, 128, (1, 1)),
            conv(&name("branch1.1"), 128, 160, (1, 7)).same(),
            conv(&name("branch1.2"), 160, 192, (7, 1)).same(),
        ]),
    ];
    residual(block, branches, (384, 1088), scale, true)
}

/// From 17×17 to 8×8 (figure 18).
fn reduction_b(name: &str) -> Node {
    let name = |part: &str| format!("{name}.{part}");
    Node::Branches(vec![
        chain([
            conv(&name("branch0.0"), 1088, 256, (1, 1)),
            conv(&name("branch0.1"), 256, 384, (3, 3)).stride(2),
        ]),
        chain([
            conv(&name("branch1.0"), 1088, 256, (1, 1)),
            conv(&name("branch1.1"), 256, 288, (3, 3)).stride(2),
        ]),
        chain([
            conv(&name("branch2.0"), 1088, 256, (1, 1)),
            conv(&name("branch2.1"), 256, 288, (3, 3)).same(),
            conv(&name("branch2.2"), 288, 320, (3, 3)).stride(2),
        ]),
        max_pool(),
    ])
}

/// Inception-ResNet-C at 8×8 (figure 19).
fn inception_resnet_c(block: &str, scale: f64, relu: bool) -> Node {
    let name = |part: &str| format!("{block}.{part}");
    let branches = vec![
        conv(&name("branch0"), 2080, 192, (1, 1)).into(),
        chain([
            conv(&name("branch1.0"), 2080, 192, (1, 1)),
            conv(&name("branch1.1"), 192, 224, (1, 3)).same(),
            conv(&name("branch1.2"), 224, 256, (3, 1)).same(),
        ]),
    ];
    residual(block, branches, (448, 2080), scale, relu)
}
