//! What the tests share: PTX around a body, memory, launches.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub(crate) mod forms_seen;

use cuda_emulator::{Counters, DeviceModel, Fault, Launch, Memory, Module, run};

/// The head of a module for sm_80. It takes four lines, so that a kernel's first line is the fifth.
pub(crate) const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n\n";

/// A device with a module and memory.
pub(crate) struct Rig {
    pub(crate) device: DeviceModel,
    pub(crate) memory: Memory,
    pub(crate) module: Module,
}

impl Rig {
    pub(crate) fn new(ptx: &str) -> Self {
        let memory = Memory::new(1 << 30);
        let mut module = Module::parse(ptx).unwrap_or_else(|f| panic!("{f}"));
        module.load(&memory).unwrap();
        forms_seen::note(ptx);
        Self { device: DeviceModel::a100(), memory, module }
    }

    /// Device memory with a content.
    pub(crate) fn upload<T: Copy>(&self, values: &[T]) -> u64 {
        let bytes = bytes(values);
        let address = self.memory.alloc(bytes.len() as u64).unwrap();
        self.memory.write(address, &bytes).unwrap();
        address
    }

    pub(crate) fn words(&self, address: u64, count: usize) -> Vec<u32> {
        let mut bytes = vec![0; 4 * count];
        self.memory.read(address, &mut bytes).unwrap_or_else(|f| panic!("{f}"));
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    pub(crate) fn floats(&self, address: u64, count: usize) -> Vec<f32> {
        self.words(address, count).into_iter().map(f32::from_bits).collect()
    }

    /// Runs a kernel whose parameters are 64-bit.
    pub(crate) fn launch(&self, entry: &str, grid: u32, block: u32, dynamic_shared: u32, params: &[u64]) -> Result<Counters, Fault> {
        let params = bytes(params);
        let launch = Launch { module: &self.module, entry, grid: [grid, 1, 1], block: [block, 1, 1], dynamic_shared, params: &params };
        run(&self.device, &self.memory, &launch, 2)
    }
}

pub(crate) fn bytes<T: Copy>(values: &[T]) -> Vec<u8> {
    let len = std::mem::size_of_val(values);
    // SAFETY: the tests pass integers and floats, which have no padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), len) }.to_vec()
}

/// What a body leaves in its result registers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Out {
    pub(crate) wide: u64,
    pub(crate) word: u32,
    pub(crate) p: bool,
    pub(crate) q: bool,
}

/// Runs a body in one thread per row of operands. It finds them in `%a %b %c %d` (64 bits) and `%ra %rb %rc %rd` (their low 32 bits), and
/// leaves results in `%x`, `%rx`, `%p`, `%q`.
pub(crate) fn threads(body: &str, rows: &[[u64; 4]]) -> Vec<Out> {
    let ptx = format!(
        "{HEAD}.visible .entry k(.param .u64 from, .param .u64 to)
{{
.reg .b64 %a, %b, %c, %d, %x, %from, %to, %at;
.reg .b32 %ra, %rb, %rc, %rd, %rx, %t, %rp, %rq;
.reg .b16 %h<8>;
.reg .b32 %w<8>;
.reg .b64 %l<8>;
.reg .pred %p, %q, %s;
ld.param.u64 %from, [from];
ld.param.u64 %to, [to];
mov.u32 %t, %tid.x;
mul.wide.u32 %at, %t, 32;
add.s64 %from, %from, %at;
ld.global.v2.u64 {{%a, %b}}, [%from];
ld.global.v2.u64 {{%c, %d}}, [%from+16];
cvt.u32.u64 %ra, %a;
cvt.u32.u64 %rb, %b;
cvt.u32.u64 %rc, %c;
cvt.u32.u64 %rd, %d;
mov.u64 %x, 0;
mov.u32 %rx, 0;
{body}
selp.u32 %rp, 1, 0, %p;
selp.u32 %rq, 1, 0, %q;
mul.wide.u32 %at, %t, 24;
add.s64 %to, %to, %at;
st.global.u64 [%to], %x;
st.global.u32 [%to+8], %rx;
st.global.u32 [%to+12], %rp;
st.global.u32 [%to+16], %rq;
ret;
}}
"
    );
    let rig = Rig::new(&ptx);
    let from = rig.upload(rows);
    let to = rig.memory.alloc(24 * rows.len() as u64).unwrap();
    rig.memory.fill(to, &[0], 24 * rows.len() as u64).unwrap();
    rig.launch("k", 1, rows.len() as u32, 0, &[from, to]).unwrap_or_else(|f| panic!("{body}: {f}"));
    let words = rig.words(to, 6 * rows.len());
    let out = |w: &[u32]| Out { wide: u64::from(w[0]) | u64::from(w[1]) << 32, word: w[2], p: w[3] == 1, q: w[4] == 1 };
    words.chunks_exact(6).map(out).collect()
}

/// The same for one thread.
pub(crate) fn thread(body: &str, row: [u64; 4]) -> Out {
    threads(body, &[row])[0]
}

/// Operands of `n` threads: the first is the thread.
pub(crate) fn numbered(n: u64) -> Vec<[u64; 4]> {
    (0..n).map(|i| [i, 0, 0, 0]).collect()
}

/// `%rx` of each of `n` threads, where `%ra` is the thread.
pub(crate) fn each(n: u64, body: &str) -> Vec<u32> {
    threads(body, &numbered(n)).iter().map(|o| o.word).collect()
}
