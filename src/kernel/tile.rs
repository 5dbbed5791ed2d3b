//! The innermost loop of every product: a tile of sums that stays in registers.
//!
//! out[r][l] = sum over pairs, sum over k of a[pair.a + r row + k step] b[pair.b + k next + l]
//!
//! A convolution is such a sum with a pair for every tap, a product of matrices one with a single pair. Nothing is
//! copied for it: strides say where the factors lie. One function checks all bounds, once a tile; the loops behind it are
//! the only unchecked code of the module.

use super::isa::Isa;

/// Columns of a tile.
pub const LANES: usize = 32;
/// Rows of a tile at most.
pub const ROWS: usize = 12;

/// The sums of a tile, row by row.
pub type Tile = [[f32; LANES]; ROWS];

/// Where the two factors of one part of the sum begin.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// In a.
    pub a: usize,
    /// In b.
    pub b: usize,
}

/// The factors of a tile.
#[derive(Clone, Copy)]
pub struct Factors<'f> {
    /// Parts of the sum.
    pub pairs: &'f [Pair],
    /// Left factor.
    pub a: &'f [f32],
    /// Distance of two rows of a.
    pub row: usize,
    /// Distance of two terms of a.
    pub step: usize,
    /// Right factor; every term is [`LANES`] floats long.
    pub b: &'f [f32],
    /// Distance of two terms of b.
    pub next: usize,
    /// Terms of a pair.
    pub depth: usize,
}

/// Writes `rows` rows of sums to out, where they are `wide` floats apart, or adds to them.
///
/// # Panics
/// When something would be read or written outside its slice, `rows` is not 1 to [`ROWS`], or the processor lacks the
/// instructions.
pub fn tile(isa: Isa, rows: usize, f: Factors<'_>, out: &mut [f32], wide: usize, add: bool) {
    assert!((1..=ROWS).contains(&rows), "a tile of {rows} rows");
    assert!(rows == 1 || wide >= LANES, "rows of {LANES} that are {wide} apart");
    let end = (rows - 1).saturating_mul(wide).saturating_add(LANES);
    assert!(end <= out.len(), "{rows} rows {wide} apart in {} floats", out.len());
    if f.depth == 0 || f.pairs.is_empty() {
        if !add {
            out.chunks_mut(wide.max(1)).take(rows).for_each(|row| row[..LANES].fill(0.0));
        }
        return;
    }
    let reach = |n: usize, apart: usize| (n - 1).saturating_mul(apart);
    let a_reach = reach(rows, f.row).saturating_add(reach(f.depth, f.step));
    let b_reach = reach(f.depth, f.next).saturating_add(LANES - 1);
    let (a_max, b_max) = f.pairs.iter().fold((0, 0), |(a, b), p| (a.max(p.a), b.max(p.b)));
    assert!(a_max.saturating_add(a_reach) < f.a.len(), "the left factor ends at {}", f.a.len());
    assert!(b_max.saturating_add(b_reach) < f.b.len(), "the right factor ends at {}", f.b.len());
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::avx512(rows, f, out, wide, add),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::avx2(rows, f, out, wide, add),
        _ => portable(rows, f, out, wide, add),
    }
}

/// The same for any number of rows.
pub fn tiles(isa: Isa, rows: usize, f: Factors<'_>, out: &mut [f32], wide: usize) {
    for r in (0..rows).step_by(ROWS) {
        // Without pairs nothing is read, however many rows there are.
        let a = if f.pairs.is_empty() { f.a } else { &f.a[r * f.row..] };
        tile(isa, ROWS.min(rows - r), Factors { a, ..f }, &mut out[r * wide..], wide, false);
    }
}

fn portable(rows: usize, f: Factors<'_>, out: &mut [f32], wide: usize, add: bool) {
    for r in 0..rows {
        let row = &mut out[r * wide..][..LANES];
        let mut sums = [0.0; LANES];
        if add {
            sums.copy_from_slice(row);
        }
        for p in f.pairs {
            for k in 0..f.depth {
                let a = f.a[p.a + r * f.row + k * f.step];
                let b = &f.b[p.b + k * f.next..][..LANES];
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum += a * b;
                }
            }
        }
        row.copy_from_slice(&sums);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Factors, Isa, LANES, ROWS};
    use std::arch::x86_64::{
        __m256, __m512, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    /// Calls `$f::<R>` for the number of rows at run time.
    macro_rules! by_rows {
        ($f:ident, $rows:expr, $($args:expr),*) => {
            match $rows {
                1 => $f::<1>($($args),*), 2 => $f::<2>($($args),*), 3 => $f::<3>($($args),*), 4 => $f::<4>($($args),*),
                5 => $f::<5>($($args),*), 6 => $f::<6>($($args),*), 7 => $f::<7>($($args),*), 8 => $f::<8>($($args),*),
                9 => $f::<9>($($args),*), 10 => $f::<10>($($args),*), 11 => $f::<11>($($args),*),
                _ => $f::<ROWS>($($args),*),
            }
        };
    }

    #[expect(unsafe_code, reason = "the compiler cannot see that the processor has the instructions")]
    pub fn avx512(rows: usize, f: Factors<'_>, out: &mut [f32], wide: usize, add: bool) {
        assert!(Isa::Avx512.available(), "no AVX-512");
        // SAFETY: the instructions are there, and `tile` has checked every index.
        unsafe { by_rows!(tile512, rows, f, out, wide, add) }
    }

    #[expect(unsafe_code, reason = "the compiler cannot see that the processor has the instructions")]
    pub fn avx2(rows: usize, f: Factors<'_>, out: &mut [f32], wide: usize, add: bool) {
        assert!(Isa::Avx2.available(), "no AVX2");
        // 16 registers hold six rows of 16 columns beside the factors.
        for r in (0..rows).step_by(6) {
            for half in [0, LANES / 2] {
                let shifted = Factors { a: &f.a[r * f.row..], b: &f.b[half..], ..f };
                let out = &mut out[r * wide + half..];
                // SAFETY: the instructions are there, and `tile` has checked every index.
                unsafe { by_rows!(tile256, 6.min(rows - r), shifted, out, wide, add) }
            }
        }
    }

    /// # Safety
    /// The processor has AVX-512F, and every index of `f` is inside its slices, LANES floats further in b; so are R rows of out.
    #[expect(unsafe_code, reason = "vector registers are loaded through pointers")]
    #[target_feature(enable = "avx512f")]
    unsafe fn tile512<const R: usize>(f: Factors<'_>, out: &mut [f32], wide: usize, add: bool) {
        unsafe {
            let mut sums: [[__m512; 2]; R] = [[_mm512_setzero_ps(); 2]; R];
            if add {
                for (r, sums) in sums.iter_mut().enumerate() {
                    let row = out.as_ptr().add(r * wide);
                    *sums = [_mm512_loadu_ps(row), _mm512_loadu_ps(row.add(16))];
                }
            }
            for p in f.pairs {
                // Three rows share a pointer, so that the pointers of twelve rows fit in registers.
                let mut a: [*const f32; 4] = [f.a.as_ptr().add(p.a); 4];
                for (i, a) in a.iter_mut().enumerate() {
                    *a = a.wrapping_add(3 * i * f.row);
                }
                let mut b = f.b.as_ptr().add(p.b);
                for _ in 0..f.depth {
                    let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16)));
                    for r in 0..R {
                        let x = _mm512_set1_ps(*a[r / 3].add(r % 3 * f.row));
                        sums[r][0] = _mm512_fmadd_ps(x, b0, sums[r][0]);
                        sums[r][1] = _mm512_fmadd_ps(x, b1, sums[r][1]);
                    }
                    for a in &mut a {
                        *a = a.wrapping_add(f.step);
                    }
                    b = b.wrapping_add(f.next);
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                let row = out.as_mut_ptr().add(r * wide);
                _mm512_storeu_ps(row, sums[0]);
                _mm512_storeu_ps(row.add(16), sums[1]);
            }
        }
    }

    /// Sixteen columns of up to six rows.
    ///
    /// # Safety
    /// The processor has AVX2 and FMA, and every index of `f` is inside its slices, LANES / 2 floats further in b; so are
    /// R rows of out, as long.
    #[expect(unsafe_code, reason = "vector registers are loaded through pointers")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile256<const R: usize>(f: Factors<'_>, out: &mut [f32], wide: usize, add: bool) {
        unsafe {
            let mut sums: [[__m256; 2]; R] = [[_mm256_setzero_ps(); 2]; R];
            if add {
                for (r, sums) in sums.iter_mut().enumerate() {
                    let row = out.as_ptr().add(r * wide);
                    *sums = [_mm256_loadu_ps(row), _mm256_loadu_ps(row.add(8))];
                }
            }
            for p in f.pairs {
                let mut a: [*const f32; 2] = [f.a.as_ptr().add(p.a); 2];
                a[1] = a[1].wrapping_add(3 * f.row);
                let mut b = f.b.as_ptr().add(p.b);
                for _ in 0..f.depth {
                    let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                    for r in 0..R {
                        let x = _mm256_broadcast_ss(&*a[(r / 3).min(1)].add(r % 3 * f.row));
                        sums[r][0] = _mm256_fmadd_ps(x, b0, sums[r][0]);
                        sums[r][1] = _mm256_fmadd_ps(x, b1, sums[r][1]);
                    }
                    for a in &mut a {
                        *a = a.wrapping_add(f.step);
                    }
                    b = b.wrapping_add(f.next);
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                let row = out.as_mut_ptr().add(r * wide);
                _mm256_storeu_ps(row, sums[0]);
                _mm256_storeu_ps(row.add(8), sums[1]);
            }
        }
    }
}
