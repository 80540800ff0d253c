//! The kernels in `grouped.metal`, compiled as C++ and run on the CPU with the launches that a Mac would
//! make.

use crate::devices::metal::plan::{Launch, Plan, SOURCE};
use crate::train::conv2d::{conv2d, conv2d_gradients};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use resnext_kernels::{Conv2dConfig, ConvShape};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The kernels' source without its attributes, such as `[[buffer(0)]]`, which C++ does not know.
fn without_attributes(source: &str) -> String {
    let mut parts = source.split("[[");
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |text, part| text + part.split_once("]]").expect("an attribute ends").1)
}

/// Compiles the emulator with the kernels of `source` in `folder`; `None` without a C++ compiler.
fn compiled(folder: &Path, source: &str) -> Option<PathBuf> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        eprintln!("skipped: no C++ compiler (c++, or what CXX names) to run grouped.metal with");
        return None;
    }
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("metal_stdlib", include_str!("metal_stdlib.h"));
    write("grouped.inc", &without_attributes(source));
    write("emulator.cpp", include_str!("emulator.cpp"));
    let binary = folder.join("emulator");
    let output = Command::new(compiler)
        .args(["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-I"])
        .arg(folder)
        .arg(folder.join("emulator.cpp"))
        .arg("-o")
        .arg(&binary)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(binary)
}

fn suffix(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::F16 => "f16",
        _ => "bf16",
    }
}

/// A tensor's elements in row-major order, as bytes.
fn bytes(t: &Tensor) -> Vec<u8> {
    let t = t.contiguous().unwrap().flatten_all().unwrap();
    match t.dtype() {
        DType::F32 => t.to_vec1::<f32>().unwrap().iter().flat_map(|v| v.to_ne_bytes()).collect(),
        DType::F16 => t.to_vec1::<f16>().unwrap().iter().flat_map(|v| v.to_ne_bytes()).collect(),
        _ => t.to_vec1::<bf16>().unwrap().iter().flat_map(|v| v.to_ne_bytes()).collect(),
    }
}

fn numbers(bytes: &[u8], dtype: DType) -> Vec<f64> {
    let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    match dtype {
        DType::F32 => {
            bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]) as f64).collect()
        }
        DType::F16 => pairs().map(|b| f16::from_ne_bytes(b).to_f64()).collect(),
        _ => pairs().map(|b| bf16::from_ne_bytes(b).to_f64()).collect(),
    }
}

struct Emulator<'a> {
    binary: &'a Path,
    plan: Plan,
    dtype: DType,
    backwards: bool,
}

impl Emulator<'_> {
    fn run(&self, launch: Launch, inputs: [&[u8]; 2], out_len: usize) -> Vec<u8> {
        let Launch { kernel, threadgroups, threads, memory } = launch;
        let mut request: Vec<u8> = Vec::new();
        for value in threadgroups.into_iter().chain(threads).chain([memory, usize::from(self.backwards)]) {
            request.extend((value as u32).to_ne_bytes());
        }
        request.extend(self.plan.sizes().bytes());
        for input in inputs {
            request.extend((input.len() as u64).to_ne_bytes());
            request.extend(input);
        }
        request.extend((out_len as u64).to_ne_bytes());
        let mut child = Command::new(self.binary)
            .args([kernel, suffix(self.dtype)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&request).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{kernel}: {}, {:?}", output.status, self.plan);
        assert_eq!(output.stdout.len(), out_len);
        output.stdout
    }

    /// The output, the input's gradient and the weight's gradient.
    fn all(&self, shape: &ConvShape, x: &[u8], weight: &[u8], gradient: &[u8]) -> [Vec<u8>; 3] {
        let (plan, size) = (&self.plan, self.dtype.size_in_bytes());
        let partial = self.run(plan.weight_gradient(), [x, gradient], plan.partial_len() * 4);
        [
            self.run(plan.forward(), [x, weight], shape.output_len() * size),
            self.run(plan.input_gradient(), [gradient, weight], shape.input_len() * size),
            self.run(plan.add_blocks(), [&partial, &[]], shape.weight_len() * size),
        ]
    }
}

fn fill(dims: [usize; 4], salt: u64, dtype: DType) -> Tensor {
    let len = dims.iter().product::<usize>() as u64;
    let value = |i: u64| (i * 2654435761 + salt * 40503) as u32 as f64 / 2147483648.0 - 1.0;
    let values: Vec<f64> = (0..len).map(value).collect();
    Tensor::from_vec(values, dims.as_slice(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// `x` (N, C, H, W) with NaN in the rows and columns after the last window, which no result may depend on.
fn with_unread_pixels_nan(x: &Tensor, shape: &ConvShape) -> Tensor {
    let Conv2dConfig { stride, padding, .. } = shape.config;
    let read = |out: usize, side: usize| ((out - 1) * stride + 3 - padding).min(side);
    let (h, w) = (read(shape.out_h, shape.in_h), read(shape.out_w, shape.in_w));
    let inside = x.narrow(2, 0, h).unwrap().narrow(3, 0, w).unwrap();
    let all = Tensor::full(f64::NAN, x.shape(), x.device()).unwrap().to_dtype(x.dtype()).unwrap();
    let (n, c, _, _) = x.dims4().unwrap();
    all.slice_assign(&[0..n, 0..c, 0..h, 0..w], &inside).unwrap()
}

/// Input and output channels per group, groups, stride, padding, batch, height, width.
const SHAPES: [[usize; 8]; 14] = [
    [4, 4, 32, 1, 1, 2, 9, 11],
    [4, 4, 8, 2, 1, 1, 12, 17],
    [8, 8, 4, 1, 1, 1, 4, 8],
    [8, 8, 6, 2, 1, 2, 7, 7],
    [16, 16, 3, 1, 1, 1, 5, 9],
    [16, 16, 2, 2, 1, 3, 6, 5],
    [32, 32, 2, 1, 1, 1, 7, 7],
    [32, 32, 2, 2, 1, 1, 14, 13],
    [1, 1, 40, 1, 1, 1, 3, 10],
    [3, 5, 7, 2, 0, 2, 8, 9],
    [5, 3, 11, 1, 2, 1, 6, 3],
    [10, 32, 2, 2, 3, 1, 1, 1],
    // Rows and columns that no window reads, and tiles that reach beyond the map.
    [4, 4, 8, 2, 0, 1, 8, 10],
    // More tiles than blocks in the weight's gradient.
    [17, 17, 64, 1, 1, 1, 9, 20],
];

fn shape([group_in, group_out, groups, stride, padding, batch, in_h, in_w]: [usize; 8]) -> ConvShape {
    let out = |side: usize| (side + 2 * padding - 3) / stride + 1;
    ConvShape {
        batch,
        in_channels: group_in * groups,
        in_h,
        in_w,
        out_channels: group_out * groups,
        out_h: out(in_h),
        out_w: out(in_w),
        kernel_h: 3,
        kernel_w: 3,
        config: Conv2dConfig { stride, padding, dilation: 1, groups },
    }
}

#[test]
fn the_kernels_compute_the_convolution_and_its_gradients() {
    let folder = tempfile::tempdir().unwrap();
    let Some(binary) = compiled(folder.path(), SOURCE) else { return };
    for sizes in SHAPES {
        let shape = shape(sizes);
        let ConvShape { batch: n, in_channels, in_h, in_w, out_channels, out_h, out_w, config, .. } = shape;
        let plan = Plan::new(&shape).unwrap();
        for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F16, 1e-3), (DType::BF16, 8e-3)] {
            let x = fill([n, in_channels, in_h, in_w], 1, dtype);
            let weight = fill([out_channels, shape.group_in(), 3, 3], 2, dtype);
            let gradient = fill([n, out_channels, out_h, out_w], 3, dtype);
            let nhwc = |t: &Tensor| t.permute((0, 2, 3, 1)).unwrap();
            let x_bytes = bytes(&nhwc(&with_unread_pixels_nan(&x, &shape)));
            let (w_bytes, g_bytes) = (bytes(&weight), bytes(&nhwc(&gradient)));
            let emulate = |backwards| {
                let emulator = Emulator { binary: &binary, plan, dtype, backwards };
                emulator.all(&shape, &x_bytes, &w_bytes, &g_bytes)
            };
            let got = emulate(false);
            if dtype == DType::F32 {
                assert!(got == emulate(true), "other bits in another order of threads: {shape:?}");
            }

            let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
            let (x, weight, gradient) = (wide(&x), wide(&weight), wide(&gradient));
            let y = conv2d(&x, &weight, &config).unwrap();
            let (grad_x, grad_weight) = conv2d_gradients(&x, &weight, &gradient, &config).unwrap();
            for (what, got, want) in [
                ("forward", &got[0], nhwc(&y)),
                ("input gradient", &got[1], nhwc(&grad_x)),
                ("weight gradient", &got[2], grad_weight),
            ] {
                let want: Vec<f64> = want.flatten_all().unwrap().to_vec1().unwrap();
                let got = numbers(got, dtype);
                assert_eq!(got.len(), want.len());
                let scale = want.iter().fold(1f64, |m, v| m.max(v.abs()));
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    // NaN, which marks unwritten memory, is close to nothing.
                    let close = (got - want).abs() <= tolerance * scale;
                    assert!(close, "{what} of {shape:?} in {dtype:?}, element {i}: {got}, not {want}");
                }
            }
        }
    }
}

/// If a kernel reads threadgroup memory that it has not written, its results become NaN here, as kernels that
/// do not write the zeros around a map show.
#[test]
fn memory_that_was_not_written_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let write = "tile[i] = value;";
    assert!(SOURCE.contains(write));
    let Some(binary) =
        compiled(folder.path(), &SOURCE.replace(write, "if (value != 0) { tile[i] = value; }"))
    else {
        return;
    };
    let shape = shape([4, 4, 8, 1, 1, 1, 5, 9]);
    let (plan, dtype) = (Plan::new(&shape).unwrap(), DType::F32);
    let ones = |len: usize| vec![1f32; len].iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<_>>();
    let (x, weight, gradient) = (ones(shape.input_len()), ones(shape.weight_len()), ones(shape.output_len()));
    let emulator = Emulator { binary: &binary, plan, dtype, backwards: false };
    for (what, got) in ["forward", "input gradient", "weight gradient"]
        .iter()
        .zip(emulator.all(&shape, &x, &weight, &gradient))
    {
        assert!(numbers(&got, dtype).iter().any(|v| v.is_nan()), "{what}");
    }
}

#[test]
fn other_convolutions_are_left_to_candle() {
    let config = Conv2dConfig { padding: 1, groups: 2, ..Default::default() };
    let shape = |kernel: usize, channels: usize, config: Conv2dConfig| ConvShape {
        batch: 1,
        in_channels: channels,
        in_h: 9,
        in_w: 9,
        out_channels: channels,
        out_h: 9,
        out_w: 9,
        kernel_h: kernel,
        kernel_w: kernel,
        config,
    };
    assert!(Plan::new(&shape(3, 64, config)).is_some());
    assert!(Plan::new(&shape(1, 64, config)).is_none());
    assert!(Plan::new(&shape(3, 66, config)).is_none());
    assert!(Plan::new(&shape(3, 64, Conv2dConfig { stride: 3, ..config })).is_none());
    assert!(Plan::new(&shape(3, 64, Conv2dConfig { dilation: 2, ..config })).is_none());
    // Every threadgroup fits in the 32 KiB of any Apple GPU.
    for stride in [1, 2] {
        let plan = Plan::new(&shape(3, 64, Conv2dConfig { stride, ..config })).unwrap();
        for launch in [plan.forward(), plan.input_gradient(), plan.weight_gradient(), plan.add_blocks()] {
            assert!(
                launch.memory <= 32 << 10 && launch.threads.iter().product::<usize>() <= 512,
                "{launch:?}"
            );
        }
    }
}
