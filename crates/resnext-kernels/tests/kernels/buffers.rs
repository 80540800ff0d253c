//! Aligned buffers and scratch memory.

use resnext_kernels::AlignedBuffer;
use resnext_kernels::internals::Scratch;

/// The bytes of a huge page, from which on buffers are aligned to one.
const PAGE: usize = 2 << 20;

#[test]
fn every_length_is_aligned_and_whole() {
    for len in [0, 1, 15, 16, 17, 1000, PAGE / 4 - 1, PAGE / 4, PAGE, PAGE + 1] {
        let mut buffer =
            if len % 2 == 0 { AlignedBuffer::zeros(len) } else { AlignedBuffer::zeros_parallel(len) };
        assert!(buffer.len() == len && (len == 0 || buffer.as_ptr().addr().is_multiple_of(64)));
        assert!(buffer.iter().all(|v| *v == 0.0));
        buffer.iter_mut().enumerate().for_each(|(i, v)| *v = i as f32);
        let buffer = buffer.clone();
        assert!(buffer.iter().enumerate().all(|(i, v)| *v == i as f32));
    }
}

#[test]
fn scratch_is_aligned_and_grows() {
    let mut scratch = Scratch::<f64>::default();
    for len in [0, 5, 1000, 7] {
        let slice = scratch.get(len);
        assert!(slice.len() == len && slice.as_ptr().addr().is_multiple_of(64));
        slice.fill(1.0);
    }
    let place = scratch.get(1000).as_ptr().addr();
    drop(scratch);
    assert_eq!(Scratch::<f32>::default().get(2000).as_ptr().addr(), place, "it is the same memory again");
}
