//! Memory for the values of sessions that run in turn: what one is done with, the next one takes.

use ort::{
    AsPointer,
    environment::Environment,
    memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType},
};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A share in the one allocator of the CPU that ONNX Runtime offers to sessions which ask for it. It goes with the last share.
pub(super) struct Arena {
    environment: Environment,
}

/// How many shares there are.
static SHARES: Mutex<usize> = Mutex::new(0);

fn shares() -> MutexGuard<'static, usize> {
    SHARES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kind() -> Result<MemoryInfo<'static>, ort::Error> {
    MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Arena, MemoryType::Default)
}

impl Arena {
    pub fn share(environment: &Environment) -> Result<Self, ort::Error> {
        let (kind, mut shares) = (kind()?, shares());
        if *shares == 0 {
            let register = ort::api().CreateAndRegisterAllocator;
            // SAFETY: both pointers live through the call; without settings the usual ones are taken.
            #[expect(unsafe_code, reason = "ort has no name for it")]
            unsafe {
                let status = register(environment.ptr().cast_mut(), kind.ptr(), std::ptr::null());
                ort::Error::result_from_status(status)?;
            }
        }
        *shares += 1;
        Ok(Self { environment: environment.clone() })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let mut shares = shares();
        *shares -= 1;
        let (0, Ok(kind)) = (*shares, kind()) else { return };
        let unregister = ort::api().UnregisterAllocator;
        // SAFETY: both pointers live through the call; the sessions that have used it are gone.
        #[expect(unsafe_code, reason = "ort has no name for it")]
        let gone = unsafe {
            let status = unregister(self.environment.ptr().cast_mut(), kind.ptr());
            ort::Error::result_from_status(status)
        };
        // One that stayed would make the next share fail, with what the library says about it.
        drop(gone);
    }
}
