//! The layers, parameters and multiply-adds of a baseline.

use super::baseline::Baseline;
use super::node::{ConvNode, Node};
use crate::summary::{Layer, Summary};

impl Baseline {
    /// The layers for one image of `h`×`w` pixels and `classes` classes, as [`Summary::new`] lists those of a
    /// ResNeXt.
    pub fn summary(self, classes: usize, h: usize, w: usize) -> Summary {
        let mut layers = Vec::new();
        add(&mut layers, &self.layers(), (h, w));
        let (name, features) = self.head();
        layers.push(Layer {
            name: name.into(),
            kind: "linear".into(),
            output: (classes, 1, 1),
            parameters: (features + 1) * classes,
            multiply_adds: features * classes,
        });
        Summary { layers }
    }
}

/// Adds the layers of `node`, which reads a map of `size`, and returns the size of the map it gives.
fn add(layers: &mut Vec<Layer>, node: &Node, size: (usize, usize)) -> (usize, usize) {
    let both = |f: &dyn Fn(usize) -> usize| (f(size.0), f(size.1));
    match node {
        Node::Conv(conv) => add_conv(layers, conv, size),
        // A map that a window does not fit gives none, and the network an error.
        Node::MaxPool(pool) => both(&|side| pool.output(side).unwrap_or(0)),
        Node::AvgPool(pool) => both(&|side| pool.output(side).unwrap_or(0)),
        Node::AdaptiveAvgPool(cells) => (*cells, *cells),
        Node::Sequence(nodes) => nodes.iter().fold(size, |size, node| add(layers, node, size)),
        Node::Branches(nodes) => nodes.iter().fold(size, |_, node| add(layers, node, size)),
        Node::Residual { branch, conv, .. } => {
            let size = add(layers, branch, size);
            add_conv(layers, conv, size)
        }
    }
}

fn add_conv(layers: &mut Vec<Layer>, conv: &ConvNode, size: (usize, usize)) -> (usize, usize) {
    let (h, w) = conv.output_size(size);
    let per_channel = 2 * usize::from(conv.norm.is_some()) + usize::from(conv.bias);
    let stride = if conv.stride > 1 { format!("/{}", conv.stride) } else { String::new() };
    layers.push(Layer {
        name: conv.name.clone(),
        kind: if conv.linear {
            "linear".into()
        } else {
            format!("{}×{}{stride}", conv.kernel.0, conv.kernel.1)
        },
        output: (conv.output, h, w),
        parameters: conv.weights() + per_channel * conv.output,
        multiply_adds: conv.weights() * h * w,
    });
    (h, w)
}
