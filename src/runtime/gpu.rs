//! What training on an NVIDIA GPU needs beside ONNX Runtime, and what of it this machine has.

use std::ffi::{CStr, c_char, c_int, c_uint};

/// A library that the CUDA provider of ONNX Runtime loads.
#[derive(Clone, Copy, Debug)]
pub struct Needed {
    /// Its file name on Linux and on Windows.
    files: [&'static str; 2],
    /// What it belongs to, and the Python package that brings it where there is one.
    pub part_of: &'static str,
}

/// All of them; cuDNN is loaded with the first convolution only.
pub const NEEDED: [Needed; 6] = [
    Needed { files: ["libcuda.so.1", "nvcuda.dll"], part_of: "the NVIDIA driver" },
    Needed { files: ["libcudart.so.13", "cudart64_13.dll"], part_of: "CUDA 13 (pip: nvidia-cuda-runtime)" },
    Needed { files: ["libcublas.so.13", "cublas64_13.dll"], part_of: "CUDA 13 (pip: nvidia-cublas)" },
    Needed { files: ["libcublasLt.so.13", "cublasLt64_13.dll"], part_of: "CUDA 13 (pip: nvidia-cublas)" },
    Needed { files: ["libcurand.so.10", "curand64_10.dll"], part_of: "CUDA 13 (pip: nvidia-curand)" },
    Needed { files: ["libcudnn.so.9", "cudnn64_9.dll"], part_of: "cuDNN 9 (pip: nvidia-cudnn-cu13)" },
];

impl Needed {
    /// File name on this system.
    pub fn file(&self) -> &'static str {
        self.files[usize::from(cfg!(windows))]
    }

    /// What the system's loader says where it does not find the library.
    pub fn missing(&self) -> Option<String> {
        load(self.file()).err().map(|e| {
            let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
            cause.lines().next().unwrap_or_default().to_owned()
        })
    }
}

#[expect(unsafe_code, reason = "whether the loader finds a library can only be tried")]
fn load(file: &str) -> Result<libloading::Library, libloading::Error> {
    // SAFETY: loading runs the library's initialisers, as ONNX Runtime does for these very names.
    unsafe { libloading::Library::new(file) }
}

/// What the driver says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// The newest CUDA that it runs: major and minor.
    pub cuda: (u32, u32),
    /// Names of the GPUs and their memory in bytes.
    pub gpus: Vec<(String, usize)>,
}

type Call<A, B> = unsafe extern "C" fn(A, B) -> c_int;

/// Asks the driver through its C interface ("CUDA Driver API"); an error says what it could not answer.
#[expect(unsafe_code, reason = "a C library can only be asked through its C interface")]
pub fn driver() -> Result<Driver, String> {
    let file = NEEDED[0].file();
    let library = load(file).map_err(|_| format!("{file} is not there: no NVIDIA driver"))?;
    let answered = |what: &str, code: c_int| match code {
        0 => Ok(()),
        100 => Err("the driver finds no GPU".to_owned()),
        code => Err(format!("{what} answers with error {code}")),
    };
    // ONNX Runtime uses the driver next, which does not like to be unloaded in between.
    let library = std::mem::ManuallyDrop::new(library);
    // SAFETY: the types are those of the functions in cuda.h, every pointer is to a place of this function that is large
    // enough, and the library stays loaded.
    unsafe {
        let symbol = |e: libloading::Error| format!("{file}: {e}");
        let init = library.get::<extern "C" fn(c_uint) -> c_int>(c"cuInit").map_err(symbol)?;
        answered("cuInit", init(0))?;
        let version =
            library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(c"cuDriverGetVersion").map_err(symbol)?;
        let count = library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(c"cuDeviceGetCount").map_err(symbol)?;
        let device = library.get::<Call<*mut c_int, c_int>>(c"cuDeviceGet").map_err(symbol)?;
        let name = library
            .get::<unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int>(c"cuDeviceGetName")
            .map_err(symbol)?;
        let memory = library.get::<Call<*mut usize, c_int>>(c"cuDeviceTotalMem_v2").map_err(symbol)?;
        let (mut number, mut gpus) = (0, 0);
        answered("cuDriverGetVersion", version(&raw mut number))?;
        answered("cuDeviceGetCount", count(&raw mut gpus))?;
        let number = number.unsigned_abs();
        let mut found = Driver { cuda: (number / 1000, number % 1000 / 10), gpus: Vec::new() };
        for i in 0..gpus {
            let (mut handle, mut bytes, mut text) = (0, 0, [0; 256]);
            answered("cuDeviceGet", device(&raw mut handle, i))?;
            answered("cuDeviceGetName", name(text.as_mut_ptr(), 256, handle))?;
            answered("cuDeviceTotalMem", memory(&raw mut bytes, handle))?;
            found.gpus.push((CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned(), bytes));
        }
        Ok(found)
    }
}
