//! Compiling a kernel when it is first used, and launching it.

use crate::devices::cuda::log::{Launched, log};
use crate::devices::cuda::sources::Module;
use crate::devices::cuda::{memory, settings};
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute_enum;
use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg};
use candle_core::{CudaDevice, CudaStorage};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// PTX by the module's name and the compute capability.
type Compiled = HashMap<(String, (u32, u32)), Arc<str>>;

/// The module's PTX, compiled at most once per process.
fn compiled(module: &Module, device: &CudaDevice) -> candle_core::Result<Arc<str>> {
    static COMPILED: Mutex<Option<Compiled>> = Mutex::new(None);
    let key = (module.name(), settings::capability(device)?);
    let mut all = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let all = all.get_or_insert_with(HashMap::new);
    if let Some(ptx) = all.get(&key) {
        return Ok(ptx.clone());
    }
    let ptx: Arc<str> = module.ptx(key.1)?.into();
    all.insert(key, ptx.clone());
    Ok(ptx)
}

/// A kernel's argument, in the type of the kernel's parameter.
enum Argument {
    /// An address in device memory, or null.
    Pointer(u64),
    Int(i32),
    Long(i64),
    Float(f32),
    /// A structure of ints; the kernel's may be shorter.
    Ints([i32; 13]),
}

/// A launch of a kernel, built argument by argument.
pub(super) struct Launch<'a> {
    device: &'a CudaDevice,
    module: Module,
    function: &'static str,
    arguments: Vec<Argument>,
}

impl<'a> Launch<'a> {
    pub(super) fn new(device: &'a CudaDevice, module: Module, function: &'static str) -> Self {
        Launch { device, module, function, arguments: Vec::new() }
    }

    pub(super) fn pointer(mut self, pointer: u64) -> Self {
        self.arguments.push(Argument::Pointer(pointer));
        self
    }

    /// Passes the address of a buffer.
    pub(super) fn storage(self, storage: &CudaStorage) -> candle_core::Result<Self> {
        Ok(self.pointer(memory::pointer(storage, 0)?))
    }

    /// # Errors
    /// If it does not fit 32 bits.
    pub(super) fn int(mut self, value: usize) -> candle_core::Result<Self> {
        self.arguments.push(Argument::Int(int(value)?));
        Ok(self)
    }

    pub(super) fn long(mut self, value: usize) -> Self {
        self.arguments.push(Argument::Long(value as i64));
        self
    }

    pub(super) fn float(mut self, value: f64) -> Self {
        self.arguments.push(Argument::Float(value as f32));
        self
    }

    /// # Errors
    /// If one does not fit 32 bits.
    pub(super) fn ints(mut self, values: &[usize]) -> candle_core::Result<Self> {
        let mut ints = [0; 13];
        for (to, &from) in ints.iter_mut().zip(values) {
            *to = int(from)?;
        }
        self.arguments.push(Argument::Ints(ints));
        Ok(self)
    }

    /// Launches `grid` blocks of `threads` threads with `shared` bytes of shared memory each.
    ///
    /// # Safety
    /// The arguments must be the kernel's parameters, in order and type, and every pointer must be of memory
    /// on this device that is as long as the kernel takes it to be.
    pub(super) unsafe fn enqueue(
        self,
        grid: [usize; 3],
        threads: usize,
        shared: usize,
    ) -> candle_core::Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        if grid[0] > i32::MAX as usize || grid[1] > 65535 || grid[2] > 65535 {
            candle_core::bail!("{}: too large for CUDA: {grid:?} blocks", self.function);
        }
        let ptx = compiled(&self.module, self.device)?;
        let name = self.module.name();
        let function = self.device.get_or_load_custom_func(self.function, &name, &ptx)?;
        if shared > 48 << 10 {
            let most = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(most, shared as i32).w()?;
        }
        let mut builder = function.builder();
        for argument in &self.arguments {
            match argument {
                Argument::Pointer(value) => builder.arg(value),
                Argument::Int(value) => builder.arg(value),
                Argument::Long(value) => builder.arg(value),
                Argument::Float(value) => builder.arg(value),
                Argument::Ints(value) => builder.arg(value),
            };
        }
        let grid = grid.map(|blocks| blocks as u32);
        let config = LaunchConfig {
            grid_dim: grid.into(),
            block_dim: (threads as u32, 1, 1),
            shared_mem_bytes: shared as u32,
        };
        log(|| {
            let name = format!(
                "{}{}",
                self.function,
                name.trim_start_matches("resnext-").trim_start_matches(self.module.source.name)
            );
            Launched { name, grid, block: [threads as u32, 1, 1], shared: shared as u32 }
        });
        // SAFETY: the caller promises that the arguments are the kernel's.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }
}

/// A size as kernels take it, in 32 bits.
pub(super) fn int(value: usize) -> candle_core::Result<i32> {
    match i32::try_from(value) {
        Ok(value) => Ok(value),
        Err(_) => candle_core::bail!("too large for CUDA kernels, which count to {}: {value}", i32::MAX),
    }
}
