//! Sums over long lines of numbers, shifted by a different distance for every tap.

use super::{isa::Isa, tile::Pair};

/// What a line's length is a multiple of.
pub const BLOCK: usize = 64;
/// Sums that [`dots`] keeps for a tap; their sum is the product.
pub const LANES: usize = 32;

/// A line of partial sums.
pub type Lanes = [f32; LANES];

/// How far a line is shifted, and what it is multiplied with.
#[derive(Clone, Copy, Debug)]
pub struct Tap {
    /// Where in a the line begins.
    pub at: usize,
    /// The factor.
    pub weight: f32,
}

/// Neighbours along the last axis of a plane, and where they are in the lines of its phases.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// The first one in the plane.
    pub at: usize,
    /// Distance of two in the plane.
    pub step: usize,
    /// Which line they are in.
    pub phase: usize,
    /// The first one there.
    pub place: usize,
    /// How many they are, at least one.
    pub len: usize,
}

/// Planes one behind the other, each on a line of its own for every phase.
#[derive(Clone, Copy, Debug)]
pub struct Spread<'p> {
    /// Where everything of a plane is.
    pub pieces: &'p [Piece],
    /// Floats of a plane.
    pub size: usize,
    /// Number of planes.
    pub count: usize,
    /// Distance of two phases.
    pub line: usize,
    /// Distance of the phases of two planes.
    pub apart: usize,
}

/// Copies planes to where they are in their lines.
///
/// # Panics
/// As [`take`]: when something would be read or written outside its slice, or the processor lacks the instructions.
pub fn lay(isa: Isa, s: Spread<'_>, planes: &[f32], lines: &mut [f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::lay512(s, planes, lines),
        _ => lay_any(s, planes, lines, |from, to| to.copy_from_slice(from)),
    }
}

/// Copies them back.
pub fn take(isa: Isa, s: Spread<'_>, lines: &[f32], planes: &mut [f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::take512(s, lines, planes),
        _ => take_any(s, lines, planes, |from, to| to.copy_from_slice(from)),
    }
}

/// out[l] = sum over taps of weight * a[at + l].
///
/// # Panics
/// When a line would be read outside a, the length of `out` is no multiple of [`BLOCK`], or the processor lacks the
/// instructions.
pub fn correlate(isa: Isa, taps: &[Tap], a: &[f32], out: &mut [f32]) {
    assert!(out.len().is_multiple_of(BLOCK), "a line of {} floats", out.len());
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::correlate512(taps, a, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::correlate256(taps, a, out),
        _ => correlate_any::<false>(taps, a, out),
    }
}

/// Adds to `sums[k]` the products of `b` with the line of a that begins at `at[k]`, lane by lane.
///
/// # Panics
/// When a line would be read outside a, the length of `b` is no multiple of [`BLOCK`], `at` and `sums` differ in length, or
/// the processor lacks the instructions.
pub fn dots(isa: Isa, at: &[usize], a: &[f32], b: &[f32], sums: &mut [Lanes]) {
    assert!(b.len().is_multiple_of(BLOCK), "a line of {} floats", b.len());
    assert_eq!(at.len(), sums.len());
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::dots512(at, a, b, sums),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::dots256(at, a, b, sums),
        _ => dots_any::<false>(at, a, b, sums),
    }
}

/// out[l] = sum over pairs of a[pair.a + l] b[pair.b + l].
///
/// # Panics
/// When a factor would be read outside its slice, or the processor lacks the instructions.
pub fn products(isa: Isa, pairs: &[Pair], a: &[f32], b: &[f32], out: &mut [f32]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::products512(pairs, a, b, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::products256(pairs, a, b, out),
        _ => products_any::<false>(pairs, a, b, out),
    }
}

// All of these are inlined so that they are compiled for the instructions of their callers.

/// sum + a * b, in one instruction where the processor has it: elsewhere that would be a call.
#[allow(clippy::inline_always)]
#[inline(always)]
fn plus<const FUSED: bool>(sum: f32, a: f32, b: f32) -> f32 {
    if FUSED { a.mul_add(b, sum) } else { sum + a * b }
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn correlate_any<const FUSED: bool>(taps: &[Tap], a: &[f32], out: &mut [f32]) {
    for (i, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        let mut sums = [0.0; BLOCK];
        for tap in taps {
            let a: &[f32; BLOCK] = a[tap.at + i * BLOCK..].first_chunk().expect("a ends within a line");
            for (sum, a) in sums.iter_mut().zip(a) {
                *sum = plus::<FUSED>(*sum, *a, tap.weight);
            }
        }
        *out = sums;
    }
}

/// As many whole blocks as there are, then smaller ones.
#[allow(clippy::inline_always)]
#[inline(always)]
fn products_any<const FUSED: bool>(pairs: &[Pair], a: &[f32], b: &[f32], out: &mut [f32]) {
    let at = blocks_of::<BLOCK, FUSED>(pairs, a, b, out, 0);
    let at = blocks_of::<16, FUSED>(pairs, a, b, out, at);
    blocks_of::<1, FUSED>(pairs, a, b, out, at);
}

/// The sums of as many blocks of this width as there are from `at` on; gives the end of the last one.
#[allow(clippy::inline_always)]
#[inline(always)]
fn blocks_of<const WIDTH: usize, const FUSED: bool>(
    pairs: &[Pair],
    a: &[f32],
    b: &[f32],
    out: &mut [f32],
    at: usize,
) -> usize {
    let (blocks, _) = out[at..].as_chunks_mut::<WIDTH>();
    let end = at + blocks.len() * WIDTH;
    for (i, out) in blocks.iter_mut().enumerate() {
        let mut sums = [0.0f32; WIDTH];
        for p in pairs {
            let (a, b) = (&a[p.a + at + i * WIDTH..][..WIDTH], &b[p.b + at + i * WIDTH..][..WIDTH]);
            for l in 0..WIDTH {
                sums[l] = plus::<FUSED>(sums[l], a[l], b[l]);
            }
        }
        *out = sums;
    }
    end
}

/// Four taps at a time share what is read of b.
#[allow(clippy::inline_always)]
#[inline(always)]
fn dots_any<const FUSED: bool>(at: &[usize], a: &[f32], b: &[f32], sums: &mut [Lanes]) {
    let line = |at: usize| a[at..][..b.len()].as_chunks::<LANES>().0;
    let b = b.as_chunks::<LANES>().0;
    let (fours, rest) = at.as_chunks::<4>();
    let (sums, sums_of_rest) = sums.as_chunks_mut::<4>();
    for (at, [sum0, sum1, sum2, sum3]) in fours.iter().zip(sums) {
        let [a0, a1, a2, a3] = at.map(line);
        let mut all = [*sum0, *sum1, *sum2, *sum3];
        for ((((b, a0), a1), a2), a3) in b.iter().zip(a0).zip(a1).zip(a2).zip(a3) {
            let [s0, s1, s2, s3] = &mut all;
            add::<FUSED>(s0, a0, b);
            add::<FUSED>(s1, a1, b);
            add::<FUSED>(s2, a2, b);
            add::<FUSED>(s3, a3, b);
        }
        [*sum0, *sum1, *sum2, *sum3] = all;
    }
    for (at, sum) in rest.iter().zip(sums_of_rest) {
        let mut all = *sum;
        for (b, a) in b.iter().zip(line(*at)) {
            add::<FUSED>(&mut all, a, b);
        }
        *sum = all;
    }
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn add<const FUSED: bool>(sums: &mut Lanes, a: &Lanes, b: &Lanes) {
    for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
        *sum = plus::<FUSED>(*sum, *a, *b);
    }
}

/// Single numbers, neighbours and every second one are common enough to be written down for themselves.
#[allow(clippy::inline_always)]
#[inline(always)]
fn lay_any(s: Spread<'_>, planes: &[f32], lines: &mut [f32], copy: impl Fn(&[f32], &mut [f32])) {
    for (i, plane) in planes[..s.count * s.size].chunks_exact(s.size).enumerate() {
        for p in s.pieces {
            let to = &mut lines[i * s.apart + p.phase * s.line + p.place..][..p.len];
            match (p.len, p.step) {
                (1, _) => to[0] = plane[p.at],
                (_, 1) => copy(&plane[p.at..][..p.len], to),
                (_, 2) => {
                    let (pairs, last) = plane[p.at..][..2 * p.len - 1].as_chunks::<2>();
                    for (to, [v, _]) in to.iter_mut().zip(pairs) {
                        *to = *v;
                    }
                    to[p.len - 1] = last[0];
                }
                _ => to.iter_mut().zip(plane[p.at..].iter().step_by(p.step)).for_each(|(to, v)| *to = *v),
            }
        }
    }
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn take_any(s: Spread<'_>, lines: &[f32], planes: &mut [f32], copy: impl Fn(&[f32], &mut [f32])) {
    for (i, plane) in planes[..s.count * s.size].chunks_exact_mut(s.size).enumerate() {
        for p in s.pieces {
            let from = &lines[i * s.apart + p.phase * s.line + p.place..][..p.len];
            match (p.len, p.step) {
                (1, _) => plane[p.at] = from[0],
                (_, 1) => copy(from, &mut plane[p.at..][..p.len]),
                (_, 2) => {
                    let (pairs, last) = plane[p.at..][..2 * p.len - 1].as_chunks_mut::<2>();
                    for ([to, _], v) in pairs.iter_mut().zip(from) {
                        *to = *v;
                    }
                    last[0] = from[p.len - 1];
                }
                _ => plane[p.at..].iter_mut().step_by(p.step).zip(from).for_each(|(to, v)| *to = *v),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{
        super::isa::{Isa, compiled},
        Lanes, Pair, Spread, Tap, correlate_any, dots_any, lay_any, products_any, take_any,
    };
    use std::arch::x86_64::{_mm512_mask_storeu_ps, _mm512_maskz_loadu_ps};

    compiled!(products512, Isa::Avx512, "avx512f,fma", products_any::<true>, (
        pairs: &[Pair], a: &[f32], b: &[f32], out: &mut [f32]
    ));
    compiled!(products256, Isa::Avx2, "avx2,fma", products_any::<true>, (
        pairs: &[Pair], a: &[f32], b: &[f32], out: &mut [f32]
    ));
    compiled!(correlate512, Isa::Avx512, "avx512f,fma", correlate_any::<true>, (taps: &[Tap], a: &[f32], out: &mut [f32]));
    compiled!(correlate256, Isa::Avx2, "avx2,fma", correlate_any::<true>, (taps: &[Tap], a: &[f32], out: &mut [f32]));
    compiled!(dots512, Isa::Avx512, "avx512f,fma", dots_any::<true>, (at: &[usize], a: &[f32], b: &[f32], sums: &mut [Lanes]));
    compiled!(dots256, Isa::Avx2, "avx2,fma", dots_any::<true>, (at: &[usize], a: &[f32], b: &[f32], sums: &mut [Lanes]));

    #[expect(unsafe_code, reason = "the compiler cannot see that the processor has the instructions")]
    pub fn lay512(s: Spread<'_>, planes: &[f32], lines: &mut [f32]) {
        #[target_feature(enable = "avx512f")]
        fn wide(s: Spread<'_>, planes: &[f32], lines: &mut [f32]) {
            lay_any(s, planes, lines, |from, to| copy(from, to));
        }
        assert!(Isa::Avx512.available(), "no AVX-512");
        // SAFETY: the instructions are there.
        unsafe { wide(s, planes, lines) }
    }

    #[expect(unsafe_code, reason = "the compiler cannot see that the processor has the instructions")]
    pub fn take512(s: Spread<'_>, lines: &[f32], planes: &mut [f32]) {
        #[target_feature(enable = "avx512f")]
        fn wide(s: Spread<'_>, lines: &[f32], planes: &mut [f32]) {
            take_any(s, lines, planes, |from, to| copy(from, to));
        }
        assert!(Isa::Avx512.available(), "no AVX-512");
        // SAFETY: the instructions are there.
        unsafe { wide(s, lines, planes) }
    }

    /// Copies short stretches without a call.
    #[expect(unsafe_code, reason = "vector registers are loaded through pointers")]
    #[target_feature(enable = "avx512f")]
    fn copy(from: &[f32], to: &mut [f32]) {
        let len = from.len();
        assert_eq!(len, to.len());
        for at in (0..len).step_by(16) {
            let mask = u16::MAX >> 16usize.saturating_sub(len - at);
            // SAFETY: the mask ends where both slices do.
            unsafe {
                let v = _mm512_maskz_loadu_ps(mask, from.as_ptr().add(at));
                _mm512_mask_storeu_ps(to.as_mut_ptr().add(at), mask, v);
            }
        }
    }
}
