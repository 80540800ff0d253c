//! Vectors that hold several groups of channels.

/// Whether vectors of `lanes` hold several whole groups: then a permute brings a lane its group's
/// channel, where wider groups broadcast it. Forward, its input gradient and the weight's agree on this.
pub fn spans_groups(lanes: usize, groups: usize, group_src: usize, group_dst: usize) -> bool {
    group_src == group_dst
        && group_dst < lanes
        && lanes.is_multiple_of(group_dst)
        && (groups * group_dst).is_multiple_of(lanes)
}
