//! How output channels are laid into vectors and panels.

use resnext_kernels::internals::{channel_panels, spans_groups};

#[test]
fn panels_are_all_channels_once_in_order() {
    for (lanes, vectors, groups, group) in [(8, 2, 4, 4), (16, 2, 3, 40), (8, 1, 2, 20), (4, 2, 5, 3)] {
        let panels: Vec<_> = channel_panels(lanes, vectors, groups, group, group).collect();
        let mut next = 0;
        for panel in &panels {
            assert_eq!(panel.dst_channel, next);
            assert!(panel.width <= panel.vectors * lanes && panel.vectors <= vectors);
            assert_eq!(panel.src_channel, if panel.spanning { next } else { next / group * group });
            next += panel.width;
        }
        assert_eq!(next, groups * group);
        assert_eq!(panels.iter().any(|panel| panel.spanning), spans_groups(lanes, groups, group, group));
    }
}
