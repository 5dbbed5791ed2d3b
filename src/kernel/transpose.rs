//! Turning matrices round.

use super::isa::Isa;

/// out[c][r] = v[r][c] for `rows` rows and `columns` columns, whose rows are `from` and `to` floats apart.
///
/// # Panics
/// When an element would be outside its slice.
pub fn transpose(isa: Isa, v: &[f32], from: usize, out: &mut [f32], to: usize, rows: usize, columns: usize) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!((rows - 1) * from + columns <= v.len(), "a matrix of {rows} rows ends behind its slice");
    assert!((columns - 1) * to + rows <= out.len(), "a matrix of {columns} rows ends behind its slice");
    match isa {
        _ if columns == 1 && from == 1 => out[..rows].copy_from_slice(&v[..rows]),
        _ if rows == 1 && to == 1 => out[..columns].copy_from_slice(&v[..columns]),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::transpose(v, from, out, to, rows, columns),
        _ => plain(v, from, out, to, rows, columns),
    }
}

/// Floats of a cache line.
const SIDE: usize = 16;

fn plain(v: &[f32], from: usize, out: &mut [f32], to: usize, rows: usize, columns: usize) {
    for c0 in (0..columns).step_by(SIDE) {
        for r0 in (0..rows).step_by(SIDE) {
            for c in c0..columns.min(c0 + SIDE) {
                for r in r0..rows.min(r0 + SIDE) {
                    out[c * to + r] = v[r * from + c];
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Isa, SIDE};
    use std::arch::x86_64::{
        __m512, _MM_HINT_T0, _mm_prefetch, _mm512_castpd_ps, _mm512_castps_pd, _mm512_loadu_ps, _mm512_mask_storeu_ps,
        _mm512_maskz_loadu_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd,
        _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };

    #[expect(unsafe_code, reason = "the compiler cannot see that the processor has the instructions")]
    pub fn transpose(v: &[f32], from: usize, out: &mut [f32], to: usize, rows: usize, columns: usize) {
        assert!(Isa::Avx512.available(), "no AVX-512");
        for c0 in (0..columns).step_by(SIDE) {
            for r0 in (0..rows).step_by(SIDE) {
                let (height, width) = (SIDE.min(rows - r0), SIDE.min(columns - c0));
                // SAFETY: the instructions are there; the caller has checked the last element of both matrices, and masks
                // keep a block inside them.
                unsafe {
                    let (v, out) = (&v[r0 * from + c0..], &mut out[c0 * to + r0..]);
                    match (height, width) {
                        (SIDE, SIDE) => block::<true>(v, from, out, to, SIDE, SIDE),
                        _ => block::<false>(v, from, out, to, height, width),
                    }
                }
            }
        }
    }

    /// A block of at most SIDE rows and columns, or of so many where it is a whole one.
    ///
    /// # Safety
    /// The processor has AVX-512F and all elements are inside their slices.
    #[expect(unsafe_code, reason = "vector registers are loaded through pointers")]
    #[target_feature(enable = "avx512f")]
    unsafe fn block<const WHOLE: bool>(
        v: &[f32],
        from: usize,
        out: &mut [f32],
        to: usize,
        height: usize,
        width: usize,
    ) {
        unsafe {
            let ones = |n: usize| ((1u32 << n) - 1) as u16;
            let mut x: [__m512; SIDE] = [_mm512_setzero_ps(); SIDE];
            if WHOLE {
                for (r, x) in x.iter_mut().enumerate() {
                    *x = _mm512_loadu_ps(v.as_ptr().add(r * from));
                }
                // Rows lie too far apart for the processor to see where this leads: mostly to as many rows further on. What is
                // fetched may lie behind the slice, as it is not read.
                for r in SIDE..2 * SIDE {
                    _mm_prefetch::<_MM_HINT_T0>(v.as_ptr().wrapping_add(r * from).cast());
                }
            } else {
                for (r, x) in x.iter_mut().enumerate().take(height) {
                    *x = _mm512_maskz_loadu_ps(ones(width), v.as_ptr().add(r * from));
                }
            }
            // Rows change places with columns in steps of 1, 2, 4 and 8.
            let mut y = x;
            for i in 0..8 {
                y[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
                y[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
            }
            for i in 0..4 {
                let pd = |k: usize| _mm512_castps_pd(y[4 * i + k]);
                x[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(0), pd(2)));
                x[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(0), pd(2)));
                x[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(1), pd(3)));
                x[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(1), pd(3)));
            }
            // Each register now holds, per quarter q, column 4 q + j of four rows.
            for i in 0..2 {
                for j in 0..4 {
                    y[8 * i + j] = _mm512_shuffle_f32x4::<0x88>(x[8 * i + j], x[8 * i + 4 + j]);
                    y[8 * i + 4 + j] = _mm512_shuffle_f32x4::<0xdd>(x[8 * i + j], x[8 * i + 4 + j]);
                }
            }
            for j in 0..4 {
                x[j] = _mm512_shuffle_f32x4::<0x88>(y[j], y[8 + j]);
                x[8 + j] = _mm512_shuffle_f32x4::<0xdd>(y[j], y[8 + j]);
                x[4 + j] = _mm512_shuffle_f32x4::<0x88>(y[4 + j], y[12 + j]);
                x[12 + j] = _mm512_shuffle_f32x4::<0xdd>(y[4 + j], y[12 + j]);
            }
            for (c, x) in x.iter().enumerate().take(width) {
                let at = out.as_mut_ptr().add(c * to);
                if WHOLE { _mm512_storeu_ps(at, *x) } else { _mm512_mask_storeu_ps(at, ones(height), *x) }
            }
        }
    }
}
