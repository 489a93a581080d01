//! Every instruction form and special register that is emulated. What is not in this list is refused by name, and the tests go through all of it.

use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Patterns: `{a,b}` stands for either, also for nothing.
const PATTERNS: &[&str] = &[
    // Integers.
    "{add,sub,mul.lo,mul.hi,mad.lo,div,rem,min,max}.{u16,s16,u32,s32,u64,s64}",
    "{add,sub}.sat.s32",
    "{mul,mad}.wide.{u16,s16,u32,s32}",
    "{mad.hi,mul24.lo,sad}.{u32,s32}",
    "dp4a.{u32.u32,s32.s32}",
    "{neg,abs}.{s16,s32,s64}",
    // Bits.
    "{and,or,xor,not}.{pred,b16,b32,b64}",
    "cnot.{b16,b32,b64}",
    "{popc,clz,brev}.{b32,b64}",
    "bfind{,.shiftamt}.{u32,s32,u64,s64}",
    "bfe.{u32,s32,u64,s64}",
    "bfi.{b32,b64}",
    "{lop3,prmt,bmsk.clamp}.b32",
    "prmt.b32.f4e",
    "szext.clamp.u32",
    "shl.{b16,b32,b64}",
    "shr.{b16,u16,s16,b32,u32,s32,b64,u64,s64}",
    "shf.{l,r}.{wrap,clamp}.b32",
    // Moves and choices.
    "mov.{pred,b16,u16,s16,f16,bf16,b32,u32,s32,f32,f16x2,bf16x2,b64,u64,s64,f64}",
    "selp.{b16,u16,s16,f16,bf16,b32,u32,s32,f32,b64,u64,s64,f64}",
    "slct.{b32,u32,s32,f32,b64,u64,s64}.s32",
    "slct.f32.f32",
    "cvta{,.to}.{global,const,shared,local,param}.u64",
    "isspacep.{global,shared,local,param}",
    // Comparisons.
    "setp.{eq,ne}{,.and,.or,.xor}.{b16,u16,s16,b32,u32,s32,b64,u64,s64,f16,bf16,f32,f64}",
    "setp.{lt,le,gt,ge}{,.and,.or,.xor}.{u16,s16,u32,s32,u64,s64,f16,bf16,f32,f64}",
    "setp.{lo,ls,hi,hs}{,.and,.or,.xor}.{u16,u32,u64}",
    "setp.{equ,neu,ltu,leu,gtu,geu,num,nan}{,.and,.or,.xor}.{f16,bf16,f32,f64}",
    "setp.{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}{,.and,.or,.xor}.ftz.f32",
    "testp.{finite,infinite,number,notanumber,normal,subnormal}.{f32,f64}",
    // Floats.
    "{add,sub,mul}{,.rn,.rz,.rm,.rp}{,.ftz}{,.sat}.f32",
    "{fma,mad}.{rn,rz,rm,rp}{,.ftz}{,.sat}.f32",
    "{div,rcp,sqrt}.{rn,rz,rm,rp}{,.ftz}.f32",
    "{neg,abs}{,.ftz}.f32",
    "{min,max}{,.ftz,.NaN}.f32",
    "{add,sub,mul}{,.rn}.f64",
    "{fma,mad,div,rcp,sqrt}.rn.f64",
    "{neg,abs,min,max}.f64",
    "copysign.{f32,f64}",
    "{ex2,lg2,rcp,rsqrt,sqrt,div,sin,cos}.approx{,.ftz}.f32",
    "div.full{,.ftz}.f32",
    "{rcp.approx.ftz,rsqrt.approx,rsqrt.approx.ftz}.f64",
    "tanh.approx.{f32,f16,bf16,f16x2,bf16x2}",
    "ex2.approx.{f16,f16x2,ftz.bf16,ftz.bf16x2}",
    "{add,sub,mul}{,.rn}.{f16,bf16,f16x2,bf16x2}",
    "fma.rn.{f16,bf16,f16x2,bf16x2}",
    "fma.rn.relu.{f16x2,bf16x2}",
    "{neg,abs,min,max}.{f16,bf16,f16x2,bf16x2}",
    // Conversions: between integers, to floats, to integers, to integral floats, to wider, to narrower, packed.
    "cvt{,.sat}.{u8,s8,u16,s16,u32,s32,u64,s64}.{u8,s8,u16,s16,u32,s32,u64,s64}",
    "cvt.{rn,rz,rm,rp}.{f16,bf16,f32,f64}.{u8,s8,u16,s16,u32,s32,u64,s64}",
    "cvt.{rni,rzi,rmi,rpi}.{u8,s8,u16,s16,u32,s32,u64,s64}.{f16,bf16,f32,f64}",
    "cvt.{rni,rzi,rmi,rpi}.ftz.{u8,s8,u16,s16,u32,s32,u64,s64}.f32",
    "cvt.{rni,rzi,rmi,rpi}{,.sat}.{f16.f16,f32.f32,f64.f64}",
    "cvt.{rni,rzi,rmi,rpi}.ftz{,.sat}.f32.f32",
    "cvt{,.sat}.{f16.f16,f32.f32,f64.f64,f32.f16,f32.bf16,f64.f16,f64.f32}",
    "cvt.ftz{,.sat}.{f32.f32,f32.f16,f64.f32}",
    "cvt.{rn,rz,rm,rp}{,.sat}.{f16.f32,bf16.f32,f16.f64,f32.f64}",
    "cvt.{rn,rz,rm,rp}.ftz{,.sat}.{f16.f32,f32.f64}",
    "cvt.{rn,rz,rn.relu}.{f16x2,bf16x2}.f32",
    "cvt.{rn,rna}.tf32.f32",
    // Memory. Qualifiers of order, scope and caching are of no consequence and not part of a form.
    "{ld,st}{,.global,.shared,.local,.param}{,.v2}.{b8,u8,s8,b16,u16,s16,b32,u32,s32,f32,b64,u64,s64,f64}",
    "{ld,st}{,.global,.shared,.local,.param}.v4.{b8,u8,s8,b16,u16,s16,b32,u32,s32,f32}",
    "{ld.const,ldu,ldu.global}{,.v2}.{b8,u8,s8,b16,u16,s16,b32,u32,s32,f32,b64,u64,s64,f64}",
    "{ld.const,ldu,ldu.global}.v4.{b8,u8,s8,b16,u16,s16,b32,u32,s32,f32}",
    "{atom,red}{,.global,.shared}.add.{u32,s32,u64,f32,f64,noftz.f16x2,noftz.bf16x2}",
    "{atom,red}{,.global,.shared}.{min,max}.{u32,s32,u64,s64}",
    "{atom,red}{,.global,.shared}.{and,or,xor}.{b32,b64}",
    "{atom,red}{,.global,.shared}.{inc,dec}.u32",
    "atom{,.global,.shared}.{exch,cas}.{b32,b64}",
    "cp.async.{ca,cg}.shared.global",
    "cp.async.{commit_group,wait_group,wait_all}",
    "ldmatrix.sync.aligned.m8n8.{x1,x2,x4}{,.trans}.shared.b16",
    "prefetch.{global,local}.{L1,L2}",
    "prefetchu.L1",
    // Tensor cores.
    "mma.sync.aligned.{m16n8k8,m16n8k16}.row.col.{f32.f16.f16.f32,f32.bf16.bf16.f32}",
    "mma.sync.aligned.{m16n8k4,m16n8k8}.row.col.f32.tf32.tf32.f32",
    // Control, barriers, warps.
    "{bra,call,ret}{,.uni}",
    "brx.idx{,.uni}",
    "{exit,trap,brkpt}",
    "bar.{sync,arrive,warp.sync,red.popc.u32,red.and.pred,red.or.pred}",
    "membar.{cta,gl,sys}",
    "fence{,.sc,.acq_rel}.{cta,cluster,gpu,sys}",
    "griddepcontrol.{launch_dependents,wait}",
    "nanosleep.u32",
    "activemask.b32",
    "shfl.sync.{up,down,bfly,idx}.b32",
    "vote.sync.{ballot.b32,all.pred,any.pred,uni.pred}",
    "match.{any,all}.sync.{b32,b64}",
    "redux.sync.{add,min,max}.{u32,s32}",
    "redux.sync.{and,or,xor}.b32",
    // Special registers.
    "%{tid,ntid,ctaid,nctaid,cluster_ctaid,cluster_nctaid}.{x,y,z}",
    "%{laneid,warpid,nwarpid,smid,nsmid,cluster_ctarank,cluster_nctarank}",
    "%{dynamic,total}_smem_size",
    "%lanemask_{eq,lt,le,gt,ge}",
    "%clock{,_hi,64}",
    "%globaltimer{,_lo,_hi}",
];

static FORMS: LazyLock<BTreeSet<String>> = LazyLock::new(|| PATTERNS.iter().flat_map(|pattern| expanded(pattern)).collect());

/// The instruction forms and special registers that are emulated, such as `add.s32` and `%tid.x`; all others are refused by name.
pub fn forms() -> &'static BTreeSet<String> {
    &FORMS
}

/// The form of an instruction: its opcode without the qualifiers that change nothing here. `None` if it is not emulated.
pub fn form_of(opcode: &str) -> Option<&'static str> {
    FORMS.get(opcode).or_else(|| FORMS.get(&plain(opcode))).map(String::as_str)
}

/// Without qualifiers of order, scope, caching and convergence, and with one name for each space.
fn plain(opcode: &str) -> String {
    let words: Vec<&str> = opcode.split('.').collect();
    let memory = matches!(words[0], "ld" | "ldu" | "st" | "atom" | "red");
    let kept = words.iter().enumerate().filter(|(at, word)| *at == 0 || !(memory && is_hint(word) || is_scope_of(words[0], word)));
    let named = kept.map(|(at, word)| match *word {
        "barrier" if at == 0 => "bar",
        "shared::cta" => "shared",
        "param::entry" | "param::func" => "param",
        other => other,
    });
    named.collect::<Vec<_>>().join(".")
}

/// Qualifiers of loads, stores and atomics: order, scope, caches. One thread after the other sees what any order allows.
fn is_hint(word: &str) -> bool {
    matches!(word, "volatile" | "weak" | "relaxed" | "acquire" | "release" | "acq_rel" | "cta" | "cluster" | "gpu" | "sys")
        || matches!(word, "nc" | "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt")
        || matches!(word.strip_prefix("L1::"), Some("evict_normal" | "evict_unchanged" | "evict_first" | "evict_last" | "no_allocate"))
        || is_prefetch_size(word)
}

fn is_prefetch_size(word: &str) -> bool {
    matches!(word, "L2::64B" | "L2::128B" | "L2::256B")
}

fn is_scope_of(base: &str, word: &str) -> bool {
    match base {
        "bar" | "barrier" => matches!(word, "cta" | "aligned"),
        "cp" => is_prefetch_size(word),
        _ => false,
    }
}

/// All that a pattern stands for.
fn expanded(pattern: &str) -> Vec<String> {
    let Some((head, rest)) = pattern.split_once('{') else { return vec![pattern.to_string()] };
    let Some((choices, tail)) = rest.split_once('}') else { return vec![pattern.to_string()] };
    let tails = expanded(tail);
    choices.split(',').flat_map(|choice| tails.iter().map(move |tail| format!("{head}{choice}{tail}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_expanded() {
        assert_eq!(expanded("a{,.b}.{c,d}"), ["a.c", "a.d", "a.b.c", "a.b.d"]);
        assert!(FORMS.iter().all(|form| !form.contains(['{', '}', ','])));
    }

    #[test]
    fn qualifiers_are_no_part_of_a_form() {
        assert_eq!(form_of("ld.global.nc.L1::no_allocate.L2::128B.v4.u32"), Some("ld.global.v4.u32"));
        assert_eq!(form_of("ld.volatile.shared::cta.f32"), Some("ld.shared.f32"));
        assert_eq!(form_of("atom.acq_rel.gpu.global.add.u32"), Some("atom.global.add.u32"));
        assert_eq!(form_of("barrier.cta.sync.aligned"), Some("bar.sync"));
        for refused in ["add.rn.rz.f32", "setp.lo.s32", "ld.global.v4.f64", "min.rn.f32", "redux.sync.add.b32", "shared", "ld"] {
            assert_eq!(form_of(refused), None, "{refused}");
        }
    }
}
