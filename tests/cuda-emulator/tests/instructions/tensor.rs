//! `ldmatrix` and `mma.sync` against the fragment layouts that the PTX ISA defines, on matrices of distinct numbers. The layouts are spelt
//! here as the ISA spells them, one formula per register, not as the machine computes them.

use crate::common::{HEAD, Rig};

/// One warp loads registers from memory (register r of lane l at word `32 r + l`), multiplies, and stores its four results likewise.
fn multiply(form: &str, a: &[u32], b: &[u32], c: &[f32]) -> Vec<f32> {
    let (na, nb) = (a.len() / 32, b.len() / 32);
    let list = |stem: &str, n: usize| (0..n).map(|i| format!("%{stem}{i}")).collect::<Vec<_>>().join(", ");
    let mut loads = String::new();
    for (stem, n) in [("a", na), ("b", nb), ("c", 4)] {
        loads += &format!("ld.param.u64 %p, [p{stem}]; add.s64 %p, %p, %off;\n");
        for i in 0..n {
            loads += &format!("ld.global.b32 %{stem}{i}, [%p+{}];\n", 128 * i);
        }
    }
    let ptx = format!(
        "{HEAD}.visible .entry k(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u64 pd)
{{
.reg .b64 %p, %off; .reg .b32 %t, %a<4>, %b<2>, %c<4>, %d<4>;
mov.u32 %t, %tid.x; mul.wide.u32 %off, %t, 4;
{loads}
mma.sync.aligned.{form} {{{}}}, {{{}}}, {{{}}}, {{{}}};
ld.param.u64 %p, [pd]; add.s64 %p, %p, %off;
st.global.b32 [%p], %d0; st.global.b32 [%p+128], %d1; st.global.b32 [%p+256], %d2; st.global.b32 [%p+384], %d3;
ret;
}}
",
        list("d", 4),
        list("a", na),
        list("b", nb),
        list("c", 4),
    );
    let rig = Rig::new(&ptx);
    let out = rig.memory.alloc(512).unwrap();
    rig.launch("k", 1, 32, 0, &[rig.upload(a), rig.upload(b), rig.upload(c), out]).unwrap_or_else(|f| panic!("{f}"));
    rig.floats(out, 128)
}

fn bf16(x: f32) -> u32 {
    assert_eq!(x.to_bits() & 0xffff, 0, "{x} is not a bf16");
    x.to_bits() >> 16
}

type Half = (&'static str, fn(f32) -> u32);
const HALVES: [Half; 2] = [("bf16", bf16), ("f16", f16)];

/// Of small integers only.
fn f16(x: f32) -> u32 {
    if x == 0.0 {
        return 0;
    }
    let bits = x.abs().to_bits();
    assert_eq!(bits & 0x1fff, 0, "{x} is not an f16");
    u32::from(x < 0.0) << 15 | ((bits >> 23) - 112) << 10 | (bits >> 13 & 0x3ff)
}

/// Distinct small integers, so that every sum is exact.
fn factor_a(i: usize, k: usize) -> f32 {
    (i * 16 + k) as f32 - 100.0
}

fn factor_b(k: usize, n: usize) -> f32 {
    (k * 8 + n) as f32 - 37.0
}

fn term_c(i: usize, n: usize) -> f32 {
    (i * 8 + n) as f32 * 1000.0
}

fn expect(depth: usize, found: &[f32]) {
    for lane in 0..32 {
        let (group, thread) = (lane / 4, lane % 4);
        for r in 0..4 {
            // C and D: row = group for c0, c1 and group + 8 for c2, c3; column = 2 * thread + (r & 1).
            let row = if r < 2 { group } else { group + 8 };
            let column = thread * 2 + (r & 1);
            let exact: f32 = (0..depth).map(|k| factor_a(row, k) * factor_b(k, column)).sum::<f32>() + term_c(row, column);
            assert_eq!(found[32 * r + lane], exact, "d{r} of lane {lane}: row {row}, column {column}");
        }
    }
}

fn sums() -> Vec<f32> {
    let mut c = vec![0.0; 128];
    for r in 0..4 {
        for lane in 0..32 {
            c[32 * r + lane] = term_c(lane / 4 + if r < 2 { 0 } else { 8 }, lane % 4 * 2 + (r & 1));
        }
    }
    c
}

/// PTX ISA, fragments of mma.m16n8k16 for 16-bit factors. Element i of a0..a7: row = group where i is 0, 1, 4 or 5, else group + 8; column =
/// 2 * thread + (i & 1), plus 8 from i = 4 on. Element i of b0..b3: row = 2 * thread + (i & 1), plus 8 from i = 2 on; column = group.
#[test]
fn m16n8k16_of_halves() {
    for (name, half) in HALVES {
        let (mut a, mut b) = (vec![0u32; 128], vec![0u32; 64]);
        for lane in 0..32 {
            let (group, thread) = (lane / 4, lane % 4);
            for i in 0..8 {
                let row = if matches!(i, 0 | 1 | 4 | 5) { group } else { group + 8 };
                let column = thread * 2 + (i & 1) + if i >= 4 { 8 } else { 0 };
                a[32 * (i / 2) + lane] |= half(factor_a(row, column)) << (16 * (i & 1));
            }
            for i in 0..4 {
                let row = thread * 2 + (i & 1) + if i >= 2 { 8 } else { 0 };
                b[32 * (i / 2) + lane] |= half(factor_b(row, group)) << (16 * (i & 1));
            }
        }
        expect(16, &multiply(&format!("m16n8k16.row.col.f32.{name}.{name}.f32"), &a, &b, &sums()));
    }
}

/// m16n8k8 for 16-bit factors: row = group for a0, a1, group + 8 for a2, a3; column = 2 * thread + (i & 1). b: row = 2 * thread + i.
#[test]
fn m16n8k8_of_halves() {
    for (name, half) in HALVES {
        let (mut a, mut b) = (vec![0u32; 64], vec![0u32; 32]);
        for lane in 0..32 {
            let (group, thread) = (lane / 4, lane % 4);
            for i in 0..4 {
                let row = if i < 2 { group } else { group + 8 };
                a[32 * (i / 2) + lane] |= half(factor_a(row, thread * 2 + (i & 1))) << (16 * (i & 1));
            }
            for i in 0..2 {
                b[lane] |= half(factor_b(thread * 2 + i, group)) << (16 * i);
            }
        }
        expect(8, &multiply(&format!("m16n8k8.row.col.f32.{name}.{name}.f32"), &a, &b, &sums()));
    }
}

/// m16n8k8 for tf32: row = group for a0, a2, group + 8 for a1, a3; column = thread for a0, a1, thread + 4 for a2, a3. b: row = thread, thread
/// + 4; column = group. m16n8k4: the first two and the first.
#[test]
fn m16n8k8_and_k4_of_tf32() {
    let (mut a, mut b) = (vec![0u32; 128], vec![0u32; 64]);
    for lane in 0..32 {
        let (group, thread) = (lane / 4, lane % 4);
        for i in 0..4 {
            let row = if i % 2 == 0 { group } else { group + 8 };
            let column = if i < 2 { thread } else { thread + 4 };
            // Bits below tf32's are not read.
            a[32 * i + lane] = factor_a(row, column).to_bits() | 0x0fff;
        }
        for i in 0..2 {
            b[32 * i + lane] = factor_b(thread + 4 * i, group).to_bits();
        }
    }
    expect(8, &multiply("m16n8k8.row.col.f32.tf32.tf32.f32", &a, &b, &sums()));
    expect(4, &multiply("m16n8k4.row.col.f32.tf32.tf32.f32", &a[..64], &b[..32], &sums()));
}

#[test]
fn sums_run_in_f32_in_ascending_order() {
    // Row 0 of A is 2^12 (k = 0), then ones; B is 2^12 at k = 0 and ones: 2^24 + 1 stays 2^24 each time.
    let (mut a, mut b) = (vec![0u32; 128], vec![0u32; 64]);
    for k in 0..16 {
        let x = if k == 0 { 4096.0 } else { 1.0 };
        let (thread, register, half) = (k % 8 / 2, k / 8, k % 2);
        a[32 * 2 * register + thread] |= bf16(x) << (16 * half);
        b[32 * register + thread] |= bf16(x) << (16 * half);
    }
    let found = multiply("m16n8k16.row.col.f32.bf16.bf16.f32", &a, &b, &[0.0; 128]);
    assert_eq!(found[0], 16_777_216.0);
}

/// Four 8 x 8 matrices in shared memory, element (m, r, c) being 64 m + 8 r + c, row r of matrix m at address 16 (8 m + r); lane 8 m + r gives
/// that address. The ISA: lane l receives elements 2 (l % 4) and the next of row l / 4; with .trans of column l / 4.
#[test]
fn ldmatrix_in_all_forms() {
    for count in [1usize, 2, 4] {
        for trans in ["", ".trans"] {
            let list = (0..count).map(|i| format!("%r{i}")).collect::<Vec<_>>().join(", ");
            let stores: String = (0..count).map(|i| format!("st.global.b32 [%out+{}], %r{i};\n", 128 * i)).collect();
            let ptx = format!(
                "{HEAD}.visible .entry k(.param .u64 out)
{{
.shared .align 16 .b8 tile[512];
.reg .b64 %out, %off; .reg .b32 %t, %s, %v, %w, %i, %r<4>; .reg .pred %p;
mov.u32 %t, %tid.x;
mov.u32 %s, tile;
mov.u32 %i, 0;
fill:
// Row t holds 8 t .. 8 t + 7.
shl.b32 %v, %t, 3; add.u32 %v, %v, %i; add.u32 %w, %v, 1; shl.b32 %w, %w, 16; or.b32 %v, %v, %w;
shl.b32 %w, %t, 4; add.u32 %w, %w, %s; shl.b32 %r0, %i, 1; add.u32 %w, %w, %r0;
st.shared.b32 [%w], %v;
add.u32 %i, %i, 2; setp.lt.u32 %p, %i, 8;
@%p bra fill;
bar.sync 0;
shl.b32 %w, %t, 4; add.u32 %w, %w, %s;
ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{list}}}, [%w];
ld.param.u64 %out, [out]; mul.wide.u32 %off, %t, 4; add.s64 %out, %out, %off;
{stores}ret;
}}
"
            );
            let rig = Rig::new(&ptx);
            let out = rig.memory.alloc(512).unwrap();
            let counters = rig.launch("k", 1, 32, 0, &[out]).unwrap_or_else(|f| panic!("{f}"));
            let found = rig.words(out, 32 * count);
            for m in 0..count {
                for lane in 0..32 {
                    let (row, column) = (lane / 4, lane % 4 * 2);
                    let element = |r: usize, c: usize| (64 * m + 8 * r + c) as u32;
                    let (low, high) = match trans {
                        "" => (element(row, column), element(row, column + 1)),
                        _ => (element(column, row), element(column + 1, row)),
                    };
                    assert_eq!(found[32 * m + lane], low | high << 16, "x{count}{trans}: matrix {m}, lane {lane}");
                }
            }
            // Rows of 16 bytes one after the other: each matrix is one pass over the banks; the stores that fill, 4 bytes at a stride of 16,
            // meet 8 banks and take 4 passes each.
            assert_eq!(counters.shared_wavefronts, 4 * 4 + count as u64);
            assert_eq!(counters.shared_wavefronts_min, 4 + count as u64);
        }
    }
}
