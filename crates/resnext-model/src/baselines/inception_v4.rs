//! Inception-v4 (Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections",
//! arXiv 1602.07261, section 3.1 and figure 9), as timm has it.

use super::node::{ConvNode, Node, chain, max_pool, pooled};

/// Whether averages count pixels beyond the border.
const COUNT_PADDING: bool = false;

fn conv(name: &str, input: usize, output: usize, kernel: (usize, usize)) -> ConvNode {
    ConvNode::new(name, input, output, kernel)
}

/// All layers before the classifier.
pub(super) fn layers() -> Node {
    type Module = fn(&str) -> Node;
    // Figure 9, with the stem of figure 3 in six parts.
    let modules: [(Module, usize); 11] = [
        (|name| conv(name, 3, 32, (3, 3)).stride(2).into(), 1),
        (|name| conv(name, 32, 32, (3, 3)).into(), 1),
        (|name| conv(name, 32, 64, (3, 3)).same().into(), 1),
        (stem_73, 1),
        (stem_71, 1),
        (stem_35, 1),
        (inception_a, 4),
        (reduction_a, 1),
        (inception_b, 7),
        (reduction_b, 1),
        (inception_c, 3),
    ];
    let repeated = modules.into_iter().flat_map(|(module, times)| std::iter::repeat_n(module, times));
    Node::Sequence(repeated.enumerate().map(|(i, module)| module(&format!("features.{i}"))).collect())
}

/// The stem's first filter concatenation, to 73×73 (figure 3).
fn stem_73(name: &str) -> Node {
    Node::Branches(vec![max_pool(), conv(&format!("{name}.conv"), 64, 96, (3, 3)).stride(2).into()])
}

/// The stem's second filter concatenation, to 71×71 (figure 3).
fn stem_71(name: &str) -> Node {
    let name = |part: &str| format!("{name}.{part}");
    Node::Branches(vec![
        chain([conv(&name("branch0.0"), 160, 64, (1, 1)), conv(&name("branch0.1"), 64, 96, (3, 3))]),
        chain([
            conv(&name("branch1.0"), 160, 64, (1, 1)),
            conv(&name("branch1.1"), 64, 64, (1, 7)).same(),
            conv(&name("branch1.2"), 64, 64, (7, 1)).same(),
            conv(&name("branch1.3"), 64, 96, (3, 3)),
        ]),
    ])
}

/// The stem's third filter concatenation, to 35×35 (figure 3).
fn stem_35(name: &str) -> Node {
    Node::Branches(vec![conv(&format!("{name}.conv"), 192, 192, (3, 3)).stride(2).into(), max_pool()])
}

/// Inception-A at 35×35 (figure 4).
fn inception_a(name: &str) -> Node {
    let name = |part: &str| format!("{name}.{part}");
    Node::Branches(vec![
        conv(&name("branch0"), 384, 96, (1, 1)).into(),
        chain([conv(&name("branch1.0"), 384, 64, (1, 1)), conv(&name("branch1.1"), 64, 96, (3, 3)).same()]),
        chain([
            conv(&name("branch2.0"), 384, 64, (1, 1)),
            conv(&name("branch2.1"), 64, 96, (3, 3)).same(),
            conv(&name("branch2.2"), 96, 96, (3, 3)).same(),
        ]),
        pooled(COUNT_PADDING, conv(&name("branch3.1"), 384, 96, (1, 1))),
    ])
}

/// From 35×35 to 17×17 (figure 7, with the sizes of table 1).
fn reduction_a(name: &str) -> Node {
    let name = |part: &str| format!("{name}.{part}");
    Node::Branches(vec![
        conv(&name("branch0"), 384, 384, (3, 3)).stride(2).into(),
        chain([
            conv(&name("branch1.0"), 384, 192, (1, 1)),
            conv(&name("branch1.1"), 192, 224, (3, 3)).same(),
            conv(&name("branch1.2"), 224, 256, (3, 3)).stride(2),
        ]),
        max_pool(),
    ])
}

/// Inception-B at 17×17 (figure 5).
fn inception_b(name: &str) -> Node {
    let name = |part: &str| format!("{name}.{part}");
    Node::Branches(vec![
        conv(&name("branch0"), 1024, 384, (1, 1)).into(),
        chain([
            conv(&name("branch1.0"), 1024, 192, (1, 1)),
            conv(&name("branch1.1"), 192, 224, (1, 7)).same(),
            conv(&name("branch1.2"), 224, 256, (7, 1)).same(),
        ]),
        chain([
            conv(&name("branch2.0"), 1024, 192, (1, 1)),
            conv(&name("branch2.1"), 192, 192, (7, 1)).same(),
            conv(&name("branch2.2"), 192, 224, (1, 7)).same(),
            conv(&name("branch2.3"), 224, 224, (7, 1)).same(),
            conv(&name("branch2.4"), 224, 256, (1, 7)).same(),
        ]),
        pooled(COUNT_PADDING, conv(&name("branch3.1"), 1024, 128, (1, 1))),
    ])
}

/// From 17×17 to 8×8 (figure 8).
fn reduction_b(name: &str) -> Node {
    let name = |part: &str| format!("{name}.{part}");
    Node::Branches(vec![
        chain([
            conv(&name("branch0.0"), 1024, 192, (1, 1)),
            conv(&name("branch0.1"), 192, 192, (3, 3)).stride(2),
        ]),
        chain([
            conv(&name("branch1.0"), 1024, 256, (1, 1)),
            conv(&name("branch1.1"), 256, 256, (1, 7)).same(),
            conv(&name("branch1.2"), 256, 320, (7, 1)).same(),
            conv(&name("branch1.3"), 320, 320, (3, 3)).stride(2),
        ]),
        max_pool(),
    ])
}

/// Inception-C at 8×8 (figure 6).
fn inception_c(name: &str) -> Node {
    let name = |part: &str| format!("{name}.{part}");
    let both = |branch: &str, input: usize| {
        Node::Branches(vec![
            conv(&name(&format!("{branch}a")), input, 256, (1, 3)).same().into(),
            conv(&name(&format!("{branch}b")), input, 256, (3, 1)).same().into(),
        ])
    };
    Node::Branches(vec![
        conv(&name("branch0"), 1536, 256, (1, 1)).into(),
        Node::Sequence(vec![conv(&name("branch1_0"), 1536, 384, (1, 1)).into(), both("branch1_1", 384)]),
        Node::Sequence(vec![
            conv(&name("branch2_0"), 1536, 384, (1, 1)).into(),
            conv(&name("branch2_1"), 384, 448, (3, 1)).same().into(),
            conv(&name("branch2_2"), 448, 512, (1, 3)).same().into(),
            both("branch2_3", 512),
        ]),
        pooled(COUNT_PADDING, conv(&name("branch3.1"), 1536, 256, (1, 1))),
    ])
}
