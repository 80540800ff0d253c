//! VGG-16 and VGG-19 (Simonyan and Zisserman, arXiv 1409.1556, table 1, columns D and E) with the batch norms
//! that torchvision adds: the network whose design rules, stacked 3×3 and doubled widths, ResNeXt inherits.

use super::node::{ConvNode, Node};
use resnext_ops::Pool2dConfig;

/// All layers before the last one, for a network with `depths` convolutions between its max-pools.
pub(super) fn layers(depths: [usize; 5]) -> Node {
    let mut nodes = Vec::new();
    // torchvision numbers convolutions, batch norms, ReLUs and pools together.
    let (mut number, mut input) = (0, 3);
    for (stage, depth) in depths.into_iter().enumerate() {
        let output = (64 << stage).min(512);
        for _ in 0..depth {
            let conv = ConvNode::new("", input, output, (3, 3)).same();
            let (name, norm) = (format!("features.{number}"), format!("features.{}", number + 1));
            nodes.push(Node::Conv(ConvNode { name, norm: Some(norm), bias: true, ..conv }));
            (number, input) = (number + 3, output);
        }
        nodes.push(Node::MaxPool(Pool2dConfig { kernel: 2, stride: 2, padding: 0 }));
        number += 1;
    }
    nodes.push(Node::AdaptiveAvgPool(7));
    // The two hidden layers, as the convolutions that they are (section 3.2).
    for (name, input, kernel) in [("classifier.0", 512, (7, 7)), ("classifier.3", 4096, (1, 1))] {
        let conv = ConvNode::new("", input, 4096, kernel);
        nodes.push(Node::Conv(ConvNode { name: name.into(), norm: None, bias: true, linear: true, ..conv }));
    }
    Node::Sequence(nodes)
}
