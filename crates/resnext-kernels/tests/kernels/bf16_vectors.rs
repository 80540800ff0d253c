//! The conversions between f32 and bf16 in vectors.

use half::bf16;
use resnext_kernels::internals::{load_bf16, store_bf16};
use resnext_kernels::{Isa, Storage, lanes};

#[test]
fn every_instruction_set_rounds_and_widens_as_half_does() {
    // Every bf16, and values just below, at and just above the midpoint to the next: this includes ties, infinities, the
    // largest finite value, subnormals and NaN.
    let parts = [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
    let all: Vec<f32> = parts
        .into_iter()
        .flat_map(|part| (0..=u16::MAX).map(move |bits| f32::from_bits((bits as u32) << 16 | part)))
        .collect();
    let want: Vec<u16> = all.iter().map(|&v| bf16::from_f32(v).to_bits()).collect();
    let scalar: Vec<u16> = bf16::narrow_all(all.clone()).iter().map(|v| v.to_bits()).collect();
    assert_eq!(scalar, want);
    let halves: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
    for isa in Isa::available() {
        assert!(all.len().is_multiple_of(lanes::<f32>(isa)));
        let mut got = vec![bf16::ZERO; all.len()];
        store_bf16(isa, &all, &mut got);
        for ((got, want), from) in got.iter().zip(&want).zip(&all) {
            assert_eq!(got.to_bits(), *want, "{isa:?} {:x}", from.to_bits());
        }
        let mut wide = vec![0f32; halves.len()];
        load_bf16(isa, &halves, &mut wide);
        for (wide, half) in wide.iter().zip(&halves) {
            assert_eq!(wide.to_bits(), (half.to_bits() as u32) << 16, "{isa:?}");
        }
    }
}
