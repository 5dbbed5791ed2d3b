//! Which vector instructions there are, and how a function is compiled for them.

use std::sync::OnceLock;

/// Which instructions the processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512: registers of 16 floats.
    Avx512,
    /// AVX2 with fused multiply-add: registers of 8 floats.
    Avx2,
    /// Whatever the compiler makes of plain loops.
    Portable,
}

impl Isa {
    /// The best one that this processor has.
    pub fn detect() -> Self {
        static FOUND: OnceLock<Isa> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let best = [Self::Avx512, Self::Avx2].into_iter().find(|isa| isa.available());
            best.unwrap_or(Self::Portable)
        })
    }

    /// True when the processor has these instructions.
    pub fn available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }
}

/// `compiled!(name, Isa::Avx512, "avx512f,fma", of(a: A, b: B))` is a safe function `name(a, b)` that holds `of`, which has
/// to be inlined always, compiled for these instructions.
#[cfg(target_arch = "x86_64")]
macro_rules! compiled {
    ($name:ident, $isa:expr, $features:literal, $of:path, ($($arg:ident: $type:ty),*)) => {
        #[expect(unsafe_code, reason = "the compiler cannot see that the processor has the instructions")]
        pub fn $name($($arg: $type),*) {
            #[target_feature(enable = $features)]
            fn wide($($arg: $type),*) {
                $of($($arg),*);
            }
            assert!($isa.available(), "the processor lacks {}", $features);
            // SAFETY: the instructions are there.
            unsafe { wide($($arg),*) }
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use compiled;

/// `on_each!(name, of, (a: A, b: B))` is a function `name(isa, a, b)` that holds `of`, which has to be inlined always, compiled
/// for every instruction set, without fused multiply-add: the numbers are the same on all.
/// It wants `Isa` in scope, and on x86-64 `compiled`.
macro_rules! on_each {
    ($name:ident, $of:path, ($($arg:ident: $type:ty),*)) => {
        fn $name(isa: Isa, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                compiled!(wide, Isa::Avx512, "avx512f", $of, ($($arg: $type),*));
                compiled!(narrow, Isa::Avx2, "avx2", $of, ($($arg: $type),*));
                match isa {
                    Isa::Avx512 => return wide($($arg),*),
                    Isa::Avx2 => return narrow($($arg),*),
                    Isa::Portable => (),
                }
            }
            let _ = isa;
            $of($($arg),*);
        }
    };
}
pub(super) use on_each;
