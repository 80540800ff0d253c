//! Every kernel in every form that it is compiled in.

use crate::devices::cuda::conv::job::Direction;
use crate::devices::cuda::conv::{general, grouped, weights};
use crate::devices::cuda::memory::width;
use crate::devices::cuda::sources::{Module, SGD};
use crate::devices::cuda::{batch_norm, cross_entropy, pointwise, pool};
use candle_core::DType;
use std::collections::BTreeMap;

/// The name and PTX of every module that some input needs, compiled for a compute capability. For tests;
/// needs no GPU.
///
/// # Errors
/// The errors of the compiler.
#[doc(hidden)]
pub fn ptx_of_all(capability: (u32, u32)) -> candle_core::Result<Vec<(String, String)>> {
    const TYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];
    let mut modules = Vec::new();
    for dtype in TYPES {
        for parameter in [dtype, DType::F32] {
            for group in grouped::GROUPS {
                for stride in [1, 2] {
                    for direction in Direction::ALL {
                        for cores in [dtype != DType::F32, true] {
                            let module = grouped::module(direction, dtype, parameter, group, stride, cores)?;
                            modules.push(module);
                        }
                    }
                }
            }
            for direction in Direction::ALL {
                modules.push(general::module(direction, dtype, parameter)?);
            }
            for width in [width(dtype, 64), width(dtype, 2), 1] {
                for (relu, residual) in [(false, false), (true, false), (true, true)] {
                    modules.push(batch_norm::module(dtype, parameter, width, relu, residual)?);
                }
                modules.push(pointwise::module(dtype, parameter, width)?);
                modules.push(pool::module(dtype, width, "u8")?);
                modules.push(pool::module(dtype, width, "u32")?);
            }
            modules.push(weights::module(dtype, parameter)?);
        }
        modules.push(weights::sum_parts_module(dtype)?);
        modules.push(cross_entropy::module(dtype)?);
    }
    modules.push(Module::new(&SGD));
    let mut named = BTreeMap::new();
    for module in modules {
        named.entry(module.name()).or_insert(module);
    }
    named.into_iter().map(|(name, module)| Ok((name, module.ptx(capability)?))).collect()
}
