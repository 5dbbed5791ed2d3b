//! The tool's own kernels against the definition of a convolution, in every instruction set that the processor has.

use onnx_unlearn::kernel::{
    Axis, Chain, Convolution, Depthwise, Isa, Plan, Pool, Product, Size, Sizes, adam,
    chain::{self, Op, Step},
    layer_norm,
    lines::{BLOCK, Piece, Spread, Tap, correlate, dots, lay, take},
    pool::Alone,
    pooling,
    tile::{Factors, LANES, Pair, ROWS, tile},
    transpose::transpose,
};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Three threads that take tasks as they come.
struct Three;

impl Pool for Three {
    fn threads(&self) -> usize {
        3
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let Some(i) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < tasks) {
                        task(i);
                    }
                });
            }
        });
    }
}

fn sets() -> Vec<Isa> {
    [Isa::Avx512, Isa::Avx2, Isa::Portable].into_iter().filter(|i| i.available()).collect()
}

/// Numbers between -0.5 and 0.5 that look random.
fn any(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (f64::from(state) / f64::from(u32::MAX) - 0.5) as f32
    };
    (0..len).map(next).collect()
}

fn axis(size: usize, kernel: usize, stride: usize, dilation: usize, pads: [i64; 2]) -> Axis {
    let padded = (size as i64 + pads[0] + pads[1]) as usize;
    let out = (padded - dilation * (kernel - 1) - 1) / stride + 1;
    Axis { size, out, kernel, stride, dilation, before: pads[0], after: pads[1] }
}

/// Geometries: padding on either side and none, negative padding, strides, dilation, maps smaller than the window, one and
/// three axes.
fn geometries() -> Vec<Vec<Axis>> {
    vec![
        vec![axis(5, 3, 1, 1, [1, 1]), axis(6, 3, 1, 1, [1, 1])],
        vec![axis(7, 3, 2, 1, [1, 1]), axis(6, 3, 2, 1, [1, 0])],
        vec![axis(9, 3, 1, 2, [2, 1]), axis(5, 2, 3, 1, [0, 0])],
        vec![axis(4, 1, 2, 1, [0, 0]), axis(4, 1, 2, 1, [0, 0])],
        vec![axis(4, 1, 1, 1, [0, 0]), axis(4, 1, 1, 1, [0, 0])],
        vec![axis(1, 3, 1, 1, [1, 1]), axis(1, 3, 1, 1, [1, 1])],
        vec![axis(12, 7, 2, 1, [3, 3]), axis(12, 7, 2, 1, [3, 3])],
        vec![axis(6, 2, 1, 1, [-1, 0]), axis(6, 3, 4, 1, [-2, 0])],
        vec![axis(19, 4, 2, 1, [1, 2])],
        vec![axis(200, 5, 3, 2, [4, 1])],
        vec![axis(11, 3, 1, 1, [1, 1]), axis(13, 3, 1, 1, [1, 1])],
        vec![axis(14, 3, 2, 1, [1, 1]), axis(12, 5, 2, 1, [2, 2])],
        vec![axis(12, 3, 4, 2, [-1, 2]), axis(13, 2, 3, 1, [-2, 0])],
        vec![axis(5, 2, 1, 1, [0, 0]), axis(6, 3, 1, 1, [1, 1]), axis(7, 2, 2, 1, [0, 1])],
        vec![axis(3, 2, 1, 1, [0, 0]), axis(4, 3, 1, 1, [1, 1]), axis(5, 2, 2, 1, [0, 1])],
        // More taps than a tile has rows.
        vec![axis(41, 14, 2, 1, [3, 2])],
        // Windows of 3 x 3 one apart, on maps large enough for tiles of results.
        vec![axis(4, 3, 1, 1, [1, 1]), axis(4, 3, 1, 1, [1, 1])],
        vec![axis(9, 3, 1, 1, [0, 0]), axis(13, 3, 1, 1, [2, 1])],
        vec![axis(12, 3, 1, 1, [-1, 2]), axis(16, 3, 1, 1, [0, -3])],
        // Maps of 2 x 2 with padding around them, and with padding behind alone.
        vec![axis(2, 3, 1, 1, [1, 1]), axis(2, 3, 1, 1, [1, 1])],
        vec![axis(2, 3, 1, 1, [0, 2]), axis(2, 3, 1, 1, [1, 1])],
    ]
}

/// (position, window, tap) of everything that a tap connects.
fn connections(axes: &[Axis]) -> Vec<[usize; 3]> {
    let mut all = vec![[0; 3]];
    for a in axes {
        let mut next = Vec::new();
        for [p, o, t] in &all {
            for window in 0..a.out {
                for tap in 0..a.kernel {
                    let at = (window * a.stride + tap * a.dilation) as i64 - a.before;
                    if (0..a.size as i64).contains(&at) {
                        next.push([p * a.size + at as usize, o * a.out + window, t * a.kernel + tap]);
                    }
                }
            }
        }
        all = next;
    }
    all
}

#[track_caller]
fn close(got: &[f32], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*a) - b).abs() < 1e-5 * b.abs().max(10.0), "{what}: {a} at {i}, should be {b}");
    }
}

/// All three maps of a convolution of `s.c / groups` channels a group, by the definition of the operator.
struct Maps {
    y: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
}

fn by_definition(axes: &[Axis], s: Sizes, each_channel: bool, x: &[f32], w: &[f32], dy: &[f32]) -> Maps {
    let count = |f: fn(&Axis) -> usize| axes.iter().map(f).product::<usize>();
    let (positions, windows, taps) = (count(|a| a.size), count(|a| a.out), count(|a| a.kernel));
    let mut maps = Maps { y: vec![0.0; dy.len()], dx: vec![0.0; x.len()], dw: vec![0.0; w.len()] };
    for [p, o, t] in connections(axes) {
        for n in 0..s.n {
            for m in 0..s.m {
                for c in if each_channel { m..m + 1 } else { 0..s.c } {
                    let (xi, yi) = ((n * s.c + c) * positions + p, (n * s.m + m) * windows + o);
                    let wi = if each_channel { m * taps + t } else { (m * s.c + c) * taps + t };
                    maps.y[yi] += f64::from(x[xi]) * f64::from(w[wi]);
                    maps.dx[xi] += f64::from(dy[yi]) * f64::from(w[wi]);
                    maps.dw[wi] += f64::from(dy[yi]) * f64::from(x[xi]);
                }
            }
        }
    }
    maps
}

#[test]
fn convolutions() {
    // Few channels and many, whole tiles and rests, one image and more than a part of a batch; weights small and large
    // beside the images.
    let sizes = [[1, 3, 5], [3, 1, 40], [4, 3, 70], [7, 17, 33], [40, 40, 12], [2, 90, 75], [27, 33, 50]];
    let mut cases: Vec<_> = geometries().into_iter().map(|axes| (axes, sizes.to_vec())).collect();
    // More channels than every thread has sums of its own for.
    cases.push((vec![axis(4, 3, 1, 1, [1, 1]), axis(4, 3, 1, 1, [1, 1])], vec![[24, 160, 256]]));
    // The same where a thread goes without images, and where windows read nothing.
    cases.push((vec![axis(12, 3, 1, 1, [1, 1]), axis(8, 3, 1, 1, [1, 1])], vec![[4, 160, 256]]));
    cases.push((vec![axis(1, 2, 1, 2, [1, 1]), axis(1, 2, 1, 2, [1, 1])], vec![[5, 33, 20]]));
    cases.push((vec![axis(34, 15, 2, 2, [0, 0])], vec![[5, 33, 20]]));
    for (axes, sizes) in cases {
        let count = |f: fn(&Axis) -> usize| axes.iter().map(f).product::<usize>();
        for [n, c, m] in sizes {
            let s = Sizes { n, c, m };
            let x = any(n * c * count(|a| a.size), 1);
            let w = any(m * c * count(|a| a.kernel), 2);
            let (dy, bias) = (any(n * m * count(|a| a.out), 3), any(m, 4));
            let mut want = by_definition(&axes, s, false, &x, &w, &dy);
            let windows = count(|a| a.out);
            want.y.iter_mut().enumerate().for_each(|(i, y)| *y += f64::from(bias[i / windows % m]));
            for isa in sets() {
                let convolution = Convolution::new(&axes, isa);
                for pool in [&Alone as &dyn Pool, &Three] {
                    let what = format!("{isa:?}, {} threads, {axes:?} {s:?}", pool.threads());
                    let (mut y, mut dx, mut dw) = (vec![9.0; dy.len()], vec![9.0; x.len()], vec![9.0; w.len()]);
                    convolution.forward(pool, s, &x, &w, Some(&bias), &mut y);
                    convolution.input_gradient(pool, s, &dy, &w, &mut dx);
                    convolution.weight_gradient(pool, s, &x, &dy, &mut dw);
                    close(&y, &want.y, &format!("y, {what}"));
                    close(&dx, &want.dx, &format!("dx, {what}"));
                    close(&dw, &want.dw, &format!("dw, {what}"));
                }
            }
        }
    }
}

/// Few images go through the plain sum, many through tiles of results.
#[test]
#[allow(clippy::print_stdout, clippy::float_cmp)] // it shows the figures; equal ones would be those of one way
fn tiles_round_little_worse_than_sums() {
    let error = |got: &[f32], want: &[f64]| {
        let squares = |v: &mut dyn Iterator<Item = f64>| v.map(|d| d * d).sum::<f64>();
        let off = squares(&mut got.iter().zip(want).map(|(a, b)| f64::from(*a) - b));
        (off / squares(&mut want.iter().copied())).sqrt()
    };
    for (side, n) in [(8, 8), (2, 24)] {
        let axes = [axis(side, 3, 1, 1, [1, 1]), axis(side, 3, 1, 1, [1, 1])];
        let (c, m) = (64 * side * side, 48 * side * side);
        let s = |n| Sizes { n, c: 64, m: 48 };
        let (x, w, dy) = (any(n * c, 1), any(64 * 48 * 9, 2), any(n * m, 3));
        let want = by_definition(&axes, s(n), false, &x, &w, &dy);
        for isa in sets() {
            let k = Convolution::new(&axes, isa);
            let maps = |images: usize| {
                let (mut y, mut dx) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
                for i in (0..n).step_by(images) {
                    let (xs, ys) = (i * c..(i + images) * c, i * m..(i + images) * m);
                    k.forward(&Alone, s(images), &x[xs.clone()], &w, None, &mut y[ys.clone()]);
                    k.input_gradient(&Alone, s(images), &dy[ys], &w, &mut dx[xs]);
                }
                [error(&y, &want.y), error(&dx, &want.dx)]
            };
            let (sums, tiles) = (maps(1), maps(n));
            for (of, i) in [("y", 0), ("dx", 1)] {
                let (sums, tiles) = (sums[i], tiles[i]);
                println!("{side} x {side}, {isa:?}: relative error of {of}: {sums:.1e} as sums, {tiles:.1e} by tiles");
            }
            assert!(sums != tiles && (0..2).all(|i| tiles[i] < 4.0 * sums[i]), "{isa:?}: {sums:?} {tiles:?}");
        }
    }
}

/// y = alpha a' b' + bias, whole tiles and rests, a few terms and more than are laid out at a time.
#[test]
fn products() {
    for [m, k, n] in [[1, 1, 1], [13, 5, 33], [250, 40, 70], [40, 700, 20], [30, 6000, 40], [3, 0, 2]] {
        let (a, b, bias) = (any(m * k, 1), any(k * n, 2), any(n, 3));
        for (transposed_a, transposed_b) in [(false, false), (false, true), (true, false), (true, true)] {
            let at = |i: usize, t: usize| if transposed_a { a[t * m + i] } else { a[i * k + t] };
            let bt = |t: usize, j: usize| if transposed_b { b[j * k + t] } else { b[t * n + j] };
            let term = |i, j, t| f64::from(at(i, t)) * f64::from(bt(t, j));
            let element = |e: usize| {
                let (i, j) = (e / n, e % n);
                0.5 * (0..k).map(|t| term(i, j, t)).sum::<f64>() + f64::from(bias[j])
            };
            let want: Vec<f64> = (0..m * n).map(element).collect();
            for isa in sets() {
                for pool in [&Alone as &dyn Pool, &Three] {
                    let product = Product { isa, transposed_a, transposed_b, alpha: 0.5 };
                    let mut y = vec![9.0; m * n];
                    product.run(pool, Size { m, k, n }, &a, &b, Some(&bias), &mut y);
                    close(&y, &want, &format!("{product:?}, {} threads, {m} {k} {n}", pool.threads()));
                }
            }
        }
    }
}

/// Against the formula in float64, rows longer and shorter than what is summed up beside each other.
#[test]
fn gradients_of_layer_normalization() {
    for [rows, len] in [[1, 1], [5, 7], [40, 32], [9, 200]] {
        let (x, scale, dy) = (any(rows * len, 1), any(len, 2), any(rows * len, 3));
        let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
        let (xs, scales, dys) = (wide(&x), wide(&scale), wide(&dy));
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let (mut dx, mut dscale, mut dbias) = (Vec::new(), vec![0.0; len], vec![0.0; len]);
        for (x, dy) in xs.chunks(len).zip(dys.chunks(len)) {
            let centred: Vec<f64> = x.iter().map(|v| v - mean(x)).collect();
            let inv = 1.0 / (mean(&centred.iter().map(|v| v * v).collect::<Vec<_>>()) + 1e-3).sqrt();
            let hat: Vec<f64> = centred.iter().map(|v| v * inv).collect();
            let g: Vec<f64> = dy.iter().zip(&scales).map(|(d, s)| d * s).collect();
            let along = mean(&g.iter().zip(&hat).map(|(g, h)| g * h).collect::<Vec<_>>());
            dx.extend(g.iter().zip(&hat).map(|(v, h)| inv * (v - mean(&g) - h * along)));
            for i in 0..len {
                dscale[i] += dy[i] * hat[i];
                dbias[i] += dy[i];
            }
        }
        for isa in sets() {
            for pool in [&Alone as &dyn Pool, &Three] {
                let what = format!("{isa:?}, {} threads, {rows} rows of {len}", pool.threads());
                let (mut a, mut b, mut c) = (vec![9.0; rows * len], vec![9.0; len], vec![9.0; len]);
                let to = layer_norm::Gradients { x: &mut a, scale: &mut b, bias: &mut c };
                layer_norm::gradient(isa, pool, 1e-3, &x, &scale, &dy, to);
                close(&a, &dx, &format!("dx, {what}"));
                close(&b, &dscale, &format!("dscale, {what}"));
                close(&c, &dbias, &format!("dbias, {what}"));
            }
        }
    }
}

#[test]
fn depthwise_convolutions() {
    for axes in geometries() {
        let count = |f: fn(&Axis) -> usize| axes.iter().map(f).product::<usize>();
        for [n, c] in [[1, 1], [2, 7], [5, 70], [1, 16], [40, 40]] {
            let s = Sizes { n, c, m: c };
            let x = any(n * c * count(|a| a.size), 1);
            let w = any(c * count(|a| a.kernel), 2);
            let (dy, bias) = (any(n * c * count(|a| a.out), 3), any(c, 4));
            let mut want = by_definition(&axes, s, true, &x, &w, &dy);
            let windows = count(|a| a.out);
            want.y.iter_mut().enumerate().for_each(|(i, y)| *y += f64::from(bias[i / windows % c]));
            for isa in sets() {
                let depthwise = Depthwise::new(&axes, isa);
                for pool in [&Alone as &dyn Pool, &Three] {
                    let what = format!("{isa:?}, {} threads, {axes:?} {n} images, {c} channels", pool.threads());
                    let (mut y, mut dx, mut dw) = (vec![9.0; dy.len()], vec![9.0; x.len()], vec![9.0; w.len()]);
                    depthwise.forward(pool, c, &x, &w, Some(&bias), &mut y);
                    depthwise.input_gradient(pool, c, &dy, &w, &mut dx);
                    depthwise.weight_gradient(pool, c, &x, &dy, &mut dw);
                    close(&y, &want.y, &format!("y, {what}"));
                    close(&dx, &want.dx, &format!("dx, {what}"));
                    close(&dw, &want.dw, &format!("dw, {what}"));
                }
            }
        }
    }
}

/// Equal runs give equal bytes, whichever thread takes which task.
#[test]
fn equal_runs_are_equal() {
    let axes = [axis(8, 3, 1, 1, [1, 1]), axis(8, 3, 1, 1, [1, 1])];
    for s in [Sizes { n: 50, c: 24, m: 40 }, Sizes { n: 3, c: 90, m: 75 }, Sizes { n: 50, c: 3, m: 40 }] {
        let (x, dy) = (any(s.n * s.c * 64, 1), any(s.n * s.m * 64, 2));
        let run = || {
            let mut dw = vec![0.0; s.m * s.c * 9];
            Convolution::new(&axes, Isa::detect()).weight_gradient(&Three, s, &x, &dy, &mut dw);
            dw.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let first = run();
        assert!((0..5).all(|_| run() == first), "{s:?}");
    }
}

/// The first of equal numbers counts, as in the runtime's own operator.
#[test]
fn gradients_of_maxima() {
    let axes = vec![axis(3, 2, 1, 1, [0, 0]), axis(3, 2, 1, 1, [0, 0])];
    let x = [1.0, 5.0, 2.0, 5.0, 0.0, 7.0, 3.0, 3.0, 3.0];
    let dy = [1.0, 10.0, 100.0, 1000.0];
    for isa in sets() {
        let mut dx = [9.0; 9];
        pooling::max_gradient(&Alone, isa, &Plan::new(&axes), &x, &dy, &mut dx);
        // Windows: {1 5 5 0} -> the 5 above, {5 2 0 7} -> 7, {5 0 3 3} -> 5, {0 7 3 3} -> 7.
        close(&dx, &[0.0, 1.0, 0.0, 100.0, 0.0, 1010.0, 0.0, 0.0, 0.0], "dx");
    }
    // One map is so large that its images are looked at one by one.
    for axes in geometries().into_iter().chain([axes, vec![axis(70_000, 3, 2, 1, [1, 1])]]) {
        let count = |f: fn(&Axis) -> usize| axes.iter().map(f).product::<usize>();
        let (positions, windows) = (count(|a| a.size), count(|a| a.out));
        for images in [1, 16, 37] {
            // Whole numbers, so that many are equal.
            let x: Vec<f32> = any(images * positions, 1).iter().map(|v| (v * 4.0).round()).collect();
            let dy = any(images * windows, 2);
            let mut want = vec![0.0; x.len()];
            let mut read = vec![Vec::new(); windows];
            for [p, o, _] in connections(&axes) {
                read[o].push(p);
            }
            for (o, dy) in dy.iter().enumerate() {
                let at = |p: &usize| o / windows * positions + p;
                let largest = read[o % windows].iter().map(at).reduce(|best, p| if x[p] > x[best] { p } else { best });
                if let Some(p) = largest {
                    want[p] += f64::from(*dy);
                }
            }
            for isa in sets() {
                for pool in [&Alone as &dyn Pool, &Three] {
                    let mut dx = vec![9.0; x.len()];
                    pooling::max_gradient(pool, isa, &Plan::new(&axes), &x, &dy, &mut dx);
                    close(&dx, &want, &format!("{isa:?}, {images} images, {axes:?}"));
                }
            }
        }
    }
}

#[test]
fn sums_over_channels() {
    let (n, c, positions) = (3, 5, 70);
    let v = any(n * c * positions, 1);
    let mut want = vec![0.0; c];
    v.iter().enumerate().for_each(|(i, v)| want[i / positions % c] += f64::from(*v));
    for pool in [&Alone as &dyn Pool, &Three] {
        let mut out = vec![9.0; c];
        pooling::channel_sums(pool, n, positions, &v, &mut out);
        close(&out, &want, "sums");
    }
}

#[test]
fn sums_over_rows() {
    let (rows, c) = (150, 37);
    let v = any(rows * c, 1);
    let mut want = vec![0.0; c];
    v.iter().enumerate().for_each(|(i, v)| want[i % c] += f64::from(*v));
    for pool in [&Alone as &dyn Pool, &Three] {
        let mut out = vec![9.0; c];
        pooling::channel_sums(pool, rows, 1, &v, &mut out);
        close(&out, &want, "sums");
    }
}

/// Results that are one operator each: what it computes from a, b and c, of which b repeats along the last axis and c is the
/// same along it.
#[test]
fn chains_of_operators() {
    let (rows, columns) = (401, 53);
    let len = rows * columns;
    let (a, b, c) = (any(len, 1), any(columns, 2), any(rows, 3));
    let inputs = vec![
        chain::Spread { inner: 1, period: len },
        chain::Spread { inner: 1, period: columns },
        chain::Spread { inner: columns, period: rows },
    ];
    // Operands: a, b, c, 0.25, -0.125, then a + b, (a + b) * c and so on.
    let step = |op, from: &[usize]| {
        let mut places = [0; 3];
        places[..from.len()].copy_from_slice(from);
        Step { op, from: places }
    };
    let steps = vec![
        step(Op::Add, &[0, 1]),
        step(Op::Mul, &[5, 2]),
        step(Op::Sub, &[6, 0]),
        step(Op::Div, &[7, 3]),
        step(Op::Neg, &[8]),
        step(Op::Abs, &[9]),
        step(Op::Sqrt, &[10]),
        step(Op::Reciprocal, &[3]),
        step(Op::Relu, &[9]),
        step(Op::HardSigmoid, &[9, 3, 4]),
        step(Op::Clip, &[9, 4, 3]),
    ];
    let by_hand = |i: usize| {
        let (a, b, c) = (a[i], b[i % columns], c[i / columns]);
        let v = -(((a + b) * c - a) / 0.25);
        [a + b, (a + b) * c, v.abs().sqrt(), 4.0, v.max(0.0), (0.25 * v - 0.125).clamp(0.0, 1.0), v.clamp(-0.125, 0.25)]
    };
    let outputs = vec![5, 6, 11, 12, 13, 14, 15];
    let written = Chain { inputs, numbers: vec![0.25, -0.125], steps, outputs };
    let read = Chain::from_numbers(&written.to_numbers(), written.numbers.clone()).expect("what was written");
    assert_eq!(read, written);
    let mut list = written.to_numbers();
    list.pop();
    list.push(99);
    assert_eq!(Chain::from_numbers(&list, written.numbers.clone()), None, "an output that is no result");
    for isa in sets() {
        for pool in [&Alone as &dyn Pool, &Three] {
            let mut results = vec![vec![9.0f32; len]; 7];
            read.run(isa, pool, &[&a, &b, &c], results.iter_mut().map(Vec::as_mut_slice).collect());
            // Bit by bit: each operator rounds once.
            for (k, result) in results.iter().enumerate() {
                for (i, got) in result.iter().enumerate() {
                    let want = by_hand(i)[k];
                    assert!((got - want).abs() == 0.0, "{isa:?} output {k} at {i}: {got}, should be {want}");
                }
            }
        }
    }
}

/// Against float64, over all magnitudes; what is no number, and the largest and smallest ones.
#[test]
fn exponentials_and_errors() {
    let x: Vec<f32> = (-12000..12000).map(|i| i as f32 * 0.01).chain((0..2000).map(|i| i as f32 * 1e-5)).collect();
    let of = |op, x: &[f32], isa| {
        let steps = vec![Step { op, from: [0; 3] }];
        let inputs = vec![chain::Spread { inner: 1, period: x.len() }];
        let mut out = vec![9.0; x.len()];
        Chain { inputs, numbers: Vec::new(), steps, outputs: vec![1] }.run(isa, &Alone, &[x], vec![&mut out]);
        out
    };
    // 2 / sqrt(pi) times the integral of exp(-t^2) up to x, by Simpson's rule.
    let erf = |x: f64| {
        let (n, end) = (2000, x.clamp(-6.0, 6.0));
        let f = |i: usize| {
            let weight = if i == 0 || i == n { 1.0 } else { 2.0 + 2.0 * (i % 2) as f64 };
            weight * (-(end * i as f64 / n as f64).powi(2)).exp()
        };
        std::f64::consts::FRAC_2_SQRT_PI * end / n as f64 / 3.0 * (0..=n).map(f).sum::<f64>()
    };
    for isa in sets() {
        for (x, got) in x.iter().zip(of(Op::Exp, &x, isa)) {
            let want = f64::from(*x).exp();
            let small = want < f64::from(f32::MIN_POSITIVE);
            let large = want > f64::from(f32::MAX);
            let near = (f64::from(got) - want).abs() <= 3e-7 * want;
            assert!(
                near || (small && got <= f32::MIN_POSITIVE) || (large && got == f32::INFINITY),
                "{isa:?} exp({x}) = {got}"
            );
        }
        for (x, got) in x.iter().zip(of(Op::Sigmoid, &x, isa)) {
            let want = 1.0 / (1.0 + (-f64::from(*x)).exp());
            assert!((f64::from(got) - want).abs() <= 3e-7 * want.max(1e-30), "{isa:?} sigmoid({x}) = {got}");
        }
        for (x, got) in x.iter().zip(of(Op::Erf, &x, isa)).step_by(7) {
            let want = erf(f64::from(*x));
            let bound = if x.abs() > 0.7 { 3e-7 } else { 3e-7 * want.abs() };
            assert!((f64::from(got) - want).abs() <= bound, "{isa:?} erf({x}) = {got}, should be {want}");
        }
        let edges = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        let [none, up, down] = of(Op::Exp, &edges, isa)[..] else { panic!("three results") };
        assert!(none.is_nan() && up == f32::INFINITY && down.abs() == 0.0, "{isa:?} {none} {up} {down}");
        let [none, up, down] = of(Op::Erf, &edges, isa)[..] else { panic!("three results") };
        assert!(none.is_nan() && (up - 1.0).abs() == 0.0 && (down + 1.0).abs() == 0.0, "{isa:?} {none} {up} {down}");
        for op in [Op::Relu, Op::Sigmoid] {
            assert!(of(op, &edges, isa)[0].is_nan(), "{isa:?} {op:?}");
        }
    }
}

/// One step of Adam with M = m / (1 - beta1) and V = v / (1 - beta2), by hand.
#[test]
fn a_step_of_adam() {
    let (mut w, g, mut m, mut v) = ([1.0, -2.0], [0.5, 4.0], [2.0, 0.0], [1.0, 0.0]);
    let step = adam::Step { beta1: 0.5, beta2: 0.75, rate: 0.1, floor: 1.0 };
    adam::step(&Alone, step, &g, [&mut w, &mut m, &mut v]);
    // M' = 0.5 * 2 + 0.5 = 1.5 and 4; V' = 0.75 + 0.25 = 1 and 16; w' = 1 - 0.1 * 1.5 / 2 and -2 - 0.1 * 4 / 5.
    close(&m, &[1.5, 4.0], "M'");
    close(&v, &[1.0, 16.0], "V'");
    close(&w, &[0.925, -2.08], "w'");
}

#[test]
fn matrices_turn_round() {
    for isa in sets() {
        for (height, width) in [(1, 1), (1, 40), (40, 1), (16, 16), (17, 15), (33, 50), (5, 100)] {
            let (from, to) = (width + 3, height + 2);
            let v = any(height * from, 1);
            let mut out = vec![9.0; width * to];
            transpose(isa, &v, from, &mut out, to, height, width);
            for c in 0..width {
                for r in 0..to {
                    let want = if r < height { v[r * from + c] } else { 9.0 };
                    assert!((out[c * to + r] - want).abs() < f32::EPSILON, "{isa:?} {height} x {width} at {r}, {c}");
                }
            }
        }
    }
}

/// What lies outside a slice is refused, never read.
#[test]
fn a_tile_is_checked() {
    let refused = |f: Factors<'_>, rows: usize| {
        sets().iter().all(|&isa| {
            let attempt = || tile(isa, rows, f, &mut [0.0; LANES * ROWS], LANES, false);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(attempt)).is_err()
        })
    };
    let (a, b) = (vec![1.0; 12 * 5], vec![1.0; 5 * LANES]);
    let pairs = [Pair { a: 0, b: 0 }];
    let f = Factors { pairs: &pairs, a: &a, row: 5, step: 1, b: &b, next: LANES, depth: 5 };
    for isa in sets() {
        // Rows farther apart than they are long: what is between them stays.
        let mut out = [1.0; 40 * ROWS];
        tile(isa, 12, f, &mut out, 40, true);
        let right = |(i, v): (usize, &f32)| (*v - if i % 40 < LANES { 6.0 } else { 1.0 }).abs() < f32::EPSILON;
        assert!(out.iter().enumerate().all(right), "{isa:?}");
        let short = || tile(isa, 12, f, &mut out[..11 * 40 + LANES - 1], 40, false);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(short)).is_err(), "{isa:?}");
    }
    assert!(refused(Factors { a: &a[1..], ..f }, 12) && refused(Factors { b: &b[1..], ..f }, 12));
    assert!(refused(f, 13) && refused(f, 0) && refused(Factors { depth: 6, ..f }, 1));
    assert!(refused(Factors { pairs: &[pairs[0], Pair { a: 1, b: 0 }], ..f }, 12));
    assert!(refused(Factors { pairs: &[Pair { a: 0, b: 1 }], ..f }, 1));
}

/// Lines too: what lies outside a slice is refused.
#[test]
fn lines_are_checked() {
    let refused = |attempt: &dyn Fn(Isa)| {
        let caught = |&isa: &Isa| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attempt(isa))).is_err();
        let refused = sets().iter().filter(|isa| caught(isa)).count();
        assert!(refused == 0 || refused == sets().len(), "one instruction set refuses what another does not");
        refused > 0
    };
    let a = any(2 * BLOCK, 1);
    let tap = |at| [Tap { at, weight: 2.0 }];
    assert!(!refused(&|isa| correlate(isa, &tap(BLOCK), &a, &mut [0.0; BLOCK])));
    assert!(refused(&|isa| correlate(isa, &tap(BLOCK + 1), &a, &mut [0.0; BLOCK])));
    assert!(refused(&|isa| correlate(isa, &tap(0), &a, &mut [0.0; BLOCK + 1])));
    let sums = || [[0.0; onnx_unlearn::kernel::lines::LANES]];
    assert!(!refused(&|isa| dots(isa, &[BLOCK], &a, &a[..BLOCK], &mut sums())));
    assert!(refused(&|isa| dots(isa, &[BLOCK + 1], &a, &a[..BLOCK], &mut sums())));
    assert!(refused(&|isa| dots(isa, &[0, 1], &a, &a[..BLOCK], &mut sums())));
    for (step, len) in [(1, 20), (1, 1), (2, 7), (3, 5)] {
        let size = 3 + (len - 1) * step + 1;
        let pieces = [Piece { at: 3, step, phase: 1, place: 2, len }];
        let s = Spread { pieces: &pieces, size, count: 2, line: 30, apart: 70 };
        let planes = any(2 * size, 2);
        let fits = 70 + 30 + 2 + len;
        assert!(!refused(&|isa| lay(isa, s, &planes, &mut vec![0.0; fits])), "{step} {len}");
        assert!(refused(&|isa| lay(isa, s, &planes, &mut vec![0.0; fits - 1])), "{step} {len}");
        assert!(refused(&|isa| lay(isa, s, &planes[1..], &mut vec![0.0; fits])), "{step} {len}");
        assert!(!refused(&|isa| take(isa, s, &vec![0.0; fits], &mut planes.clone())), "{step} {len}");
        assert!(refused(&|isa| take(isa, s, &vec![0.0; fits - 1], &mut planes.clone())), "{step} {len}");
        assert!(refused(&|isa| take(isa, s, &vec![0.0; fits], &mut planes[1..].to_vec())), "{step} {len}");
    }
}
