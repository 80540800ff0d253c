//! The parts of the baselines: convolutions, pools, and branches whose outputs are concatenated or added.

use resnext_ops::{AvgPool2dConfig, Pool2dConfig};

/// A part of a network, from one feature map to the next.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// A convolution with what follows it.
    Conv(ConvNode),
    MaxPool(Pool2dConfig),
    AvgPool(AvgPool2dConfig),
    /// The averages over a grid with this number of cells per side, whatever the map's size.
    AdaptiveAvgPool(usize),
    /// One part after the other.
    Sequence(Vec<Node>),
    /// Parts that read the same map, and whose outputs are concatenated.
    Branches(Vec<Node>),
    /// relu(x + scale · conv(branch(x))), or without the ReLU.
    Residual {
        branch: Box<Node>,
        conv: ConvNode,
        scale: f64,
        relu: bool,
    },
}

/// A convolution, and the batch norm and ReLU after it if it has them.
#[derive(Debug, Clone)]
pub(crate) struct ConvNode {
    /// The name of the convolution, before `.weight` and `.bias`.
    pub(crate) name: String,
    /// The name of the batch norm.
    pub(crate) norm: Option<String>,
    pub(crate) bias: bool,
    pub(crate) relu: bool,
    pub(crate) input: usize,
    pub(crate) output: usize,
    /// Height and width.
    pub(crate) kernel: (usize, usize),
    pub(crate) stride: usize,
    /// Zeros above and below, and to the left and right.
    pub(crate) padding: (usize, usize),
    /// Whether the weight is stored as that of a linear layer, (output, input·height·width).
    pub(crate) linear: bool,
}

impl ConvNode {
    /// A dense convolution of stride 1 without padding, with a batch norm and ReLU after it, under the names
    /// that the Inceptions have in timm: `NAME.conv` and `NAME.bn`.
    pub(crate) fn new(name: &str, input: usize, output: usize, kernel: (usize, usize)) -> Self {
        ConvNode {
            name: format!("{name}.conv"),
            norm: Some(format!("{name}.bn")),
            bias: false,
            relu: true,
            input,
            output,
            kernel,
            stride: 1,
            padding: (0, 0),
            linear: false,
        }
    }

    /// Padded so that the map keeps its size: what Szegedy et al. leave unmarked.
    pub(crate) fn same(self) -> Self {
        let padding = (self.kernel.0 / 2, self.kernel.1 / 2);
        ConvNode { padding, ..self }
    }

    pub(crate) fn stride(self, stride: usize) -> Self {
        ConvNode { stride, ..self }
    }

    /// The pixels along the two sides of its output.
    pub(crate) fn output_size(&self, (h, w): (usize, usize)) -> (usize, usize) {
        let side = |side: usize, kernel: usize, padding: usize| {
            (side + 2 * padding).saturating_sub(kernel) / self.stride
                + usize::from(side + 2 * padding >= kernel)
        };
        (side(h, self.kernel.0, self.padding.0), side(w, self.kernel.1, self.padding.1))
    }

    /// The number of weights.
    pub(crate) fn weights(&self) -> usize {
        self.output * self.input * self.kernel.0 * self.kernel.1
    }
}

impl From<ConvNode> for Node {
    fn from(conv: ConvNode) -> Self {
        Node::Conv(conv)
    }
}

/// A 3×3 max-pool with stride 2 without padding, which halves the map in every Inception.
pub(crate) fn max_pool() -> Node {
    Node::MaxPool(Pool2dConfig { kernel: 3, stride: 2, padding: 0 })
}

/// A 3×3 average with stride 1 that keeps the map's size.
pub(crate) fn avg_pool(count_padding: bool) -> Node {
    Node::AvgPool(AvgPool2dConfig { kernel: 3, stride: 1, padding: 1, ceil: false, count_padding })
}

/// One convolution after the other.
pub(crate) fn chain(convs: impl IntoIterator<Item = ConvNode>) -> Node {
    Node::Sequence(convs.into_iter().map(Node::Conv).collect())
}

/// An average and the convolution after it.
pub(crate) fn pooled(count_padding: bool, conv: ConvNode) -> Node {
    Node::Sequence(vec![avg_pool(count_padding), Node::Conv(conv)])
}
