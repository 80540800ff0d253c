//! Sums over processes, in the order of their ranks.

use crate::distributed::transport::Transport;
use crate::error::{Error, Result};
use half::bf16;
use std::fmt;
use std::str::FromStr;

/// The type of gradients on their way between processes. Each is added up in f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wire {
    /// Nothing is rounded but the sums.
    #[default]
    F32,
    /// Half the bytes. Each process's gradient and the sum are rounded to 8 significant bits.
    Bf16,
}

impl Wire {
    /// Bytes per element.
    pub fn bytes(self) -> usize {
        match self {
            Wire::F32 => 4,
            Wire::Bf16 => 2,
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wire::F32 => "f32",
            Wire::Bf16 => "bf16",
        })
    }
}

impl FromStr for Wire {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let named = [Wire::F32, Wire::Bf16].into_iter().find(|wire| wire.to_string() == text);
        named.ok_or_else(|| Error::Config(format!("gradients are sent as f32 or bf16, not `{text}`")))
    }
}

/// Buffers that are kept from one sum to the next.
#[derive(Default)]
pub(crate) struct Scratch {
    wide: Vec<f32>,
    narrow: [Vec<u16>; 2],
}

impl Scratch {
    /// A buffer of `len` values, whatever they are.
    pub(crate) fn wide(&mut self, len: usize) -> &mut [f32] {
        self.wide.resize(len, 0.0);
        &mut self.wide
    }
}

/// Replaces `values` by their sums over all processes, the same bits in each: ((v₀ + v₁) + v₂) + … by rank.
///
/// Each rank adds up one segment of all ranks' values, which an all-to-all brings to it, and an all-gather hands the
/// sums out. A rank sends and receives 2·(N - 1)/N times the values, as in a ring, the least that is possible.
pub(crate) fn sum_f32(
    transport: &mut dyn Transport,
    values: &mut Vec<f32>,
    wire: Wire,
    scratch: &mut Scratch,
) -> Result<()> {
    const PURPOSE: &str = "adding up gradients";
    let (size, len) = (transport.size(), values.len());
    if size == 1 || len == 0 {
        return Ok(());
    }
    let segment = len.div_ceil(size);
    match wire {
        Wire::F32 => {
            let received = &mut scratch.wide;
            values.resize(size * segment, 0.0);
            received.resize(size * segment, 0.0);
            transport.all_to_all(
                bytemuck::cast_slice(values),
                bytemuck::cast_slice_mut(received),
                PURPOSE,
            )?;
            let (sum, others) = received.split_at_mut(segment);
            for part in others.chunks_exact(segment) {
                sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
            }
            transport.all_gather(bytemuck::cast_slice(sum), bytemuck::cast_slice_mut(values), PURPOSE)?;
            values.truncate(len);
        }
        Wire::Bf16 => {
            let Scratch { wide: sum, narrow: [sent, received] } = scratch;
            let wide = |bits: u16| bf16::from_bits(bits).to_f32();
            sent.clear();
            sent.extend(values.iter().map(|&value| bf16::from_f32(value).to_bits()));
            sent.resize(size * segment, 0);
            received.resize(size * segment, 0);
            transport.all_to_all(bytemuck::cast_slice(sent), bytemuck::cast_slice_mut(received), PURPOSE)?;
            sum.clear();
            sum.resize(segment, 0.0);
            for part in received.chunks_exact(segment) {
                sum.iter_mut().zip(part).for_each(|(sum, &value)| *sum += wide(value));
            }
            sent.clear();
            sent.extend(sum.iter().map(|&sum| bf16::from_f32(sum).to_bits()));
            transport.all_gather(bytemuck::cast_slice(sent), bytemuck::cast_slice_mut(received), PURPOSE)?;
            values.iter_mut().zip(received.iter()).for_each(|(value, &sum)| *value = wide(sum));
        }
    }
    Ok(())
}

/// Values per process up to which all processes get all values and add them up themselves, which takes one exchange
/// and not two.
const FEW: usize = 4096;

/// Sums like [`sum_f32`], in f64.
pub(crate) fn sum_f64(
    transport: &mut dyn Transport,
    values: &mut [f64],
    purpose: &'static str,
) -> Result<()> {
    let (size, len) = (transport.size(), values.len());
    if size == 1 || len == 0 {
        return Ok(());
    }
    let add = |sum: &mut [f64], parts: &[f64]| {
        for part in parts.chunks_exact(sum.len()) {
            sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
    };
    if len <= FEW {
        let mut received = vec![0f64; size * len];
        transport.all_gather(
            bytemuck::cast_slice(values),
            bytemuck::cast_slice_mut(&mut received),
            purpose,
        )?;
        values.copy_from_slice(&received[..len]);
        add(values, &received[len..]);
        return Ok(());
    }
    let segment = len.div_ceil(size);
    let mut padded = values.to_vec();
    padded.resize(size * segment, 0.0);
    let mut received = vec![0f64; size * segment];
    transport.all_to_all(bytemuck::cast_slice(&padded), bytemuck::cast_slice_mut(&mut received), purpose)?;
    let (sum, others) = received.split_at_mut(segment);
    add(sum, others);
    transport.all_gather(bytemuck::cast_slice(sum), bytemuck::cast_slice_mut(&mut padded), purpose)?;
    values.copy_from_slice(&padded[..len]);
    Ok(())
}

/// The bytes of every process, by rank. They may be of different lengths.
pub(crate) fn gather(
    transport: &mut dyn Transport,
    bytes: &[u8],
    purpose: &'static str,
) -> Result<Vec<Vec<u8>>> {
    let size = transport.size();
    if size == 1 {
        return Ok(vec![bytes.to_vec()]);
    }
    let mut lengths = vec![0u64; size];
    transport.all_gather(
        bytemuck::cast_slice(&[bytes.len() as u64]),
        bytemuck::cast_slice_mut(&mut lengths),
        purpose,
    )?;
    let longest = lengths.iter().max().map_or(0, |&longest| longest as usize);
    if longest == 0 {
        return Ok(vec![Vec::new(); size]);
    }
    let mut own = bytes.to_vec();
    own.resize(longest, 0);
    let mut received = vec![0u8; size * longest];
    transport.all_gather(&own, &mut received, purpose)?;
    let parts = received.chunks_exact(longest).zip(lengths);
    Ok(parts.map(|(part, len)| part[..len as usize].to_vec()).collect())
}
