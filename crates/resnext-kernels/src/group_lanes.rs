//! How output channels are laid into vectors, and vectors into panels.

/// Whether vectors of `lanes` hold several whole groups: then a permute brings each lane its group's
/// channel, where wider groups broadcast it. Forward, its input gradient and the weight's agree on this.
pub fn spans_groups(lanes: usize, groups: usize, group_src: usize, group_dst: usize) -> bool {
    group_src == group_dst
        && group_dst < lanes
        && lanes.is_multiple_of(group_dst)
        && (groups * group_dst).is_multiple_of(lanes)
}

/// The output channels of one panel, which a register tile computes together.
#[derive(Debug, Clone, Copy)]
pub struct ChannelPanel {
    /// The first channel it reads of a source pixel.
    pub src_channel: usize,
    /// The first channel it writes.
    pub dst_channel: usize,
    /// Channels it writes.
    pub width: usize,
    /// Vectors they take.
    pub vectors: usize,
    /// Whether its one vector spans several groups.
    pub spanning: bool,
}

/// Lays `groups` times `group_dst` output channels into panels of at most `vectors` vectors. A panel has channels of one
/// group, or, where [`spans_groups`] says so, one vector of several groups.
pub fn channel_panels(
    lanes: usize,
    vectors: usize,
    groups: usize,
    group_src: usize,
    group_dst: usize,
) -> impl Iterator<Item = ChannelPanel> {
    let spanning = spans_groups(lanes, groups, group_src, group_dst);
    let (blocks, block_width) = if spanning { (1, groups * group_dst) } else { (groups, group_dst) };
    let step = if spanning { lanes } else { vectors * lanes };
    (0..blocks).flat_map(move |block| {
        (0..block_width).step_by(step).map(move |first| {
            let width = step.min(block_width - first);
            ChannelPanel {
                src_channel: if spanning { first } else { block * group_src },
                dst_channel: block * group_dst + first,
                width,
                vectors: width.div_ceil(lanes),
                spanning,
            }
        })
    })
}
