//! Runs one operation on the CPU between guard bands.

use dreamid_engine::device::cpu::{Cpu, Packed};
use dreamid_engine::ops::{AnyOp, HostIn, HostIo, HostOut};
use dreamid_engine::{Result, Tensor, Ty};

// Not a multiple of a vector: kernels must not count on more than the alignment that is promised.
const GUARD: usize = 17;
// NaN as f32 and as bf16, so a value that is read beyond an input or left unwritten in an output shows.
const POISON: u32 = u32::MAX;

/// A tensor's bytes with poison on both sides.
struct Guarded {
    words: Vec<u32>,
    bytes: usize,
}

impl Guarded {
    fn poisoned(bytes: usize) -> Self {
        Self { words: vec![POISON; bytes.div_ceil(4) + 2 * GUARD], bytes }
    }

    fn holding(tensor: &Tensor) -> Self {
        let mut guarded = Self::poisoned(tensor.bytes().len());
        guarded.data_mut().copy_from_slice(tensor.bytes());
        guarded
    }

    fn data(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[GUARD * 4..][..self.bytes]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[GUARD * 4..][..self.bytes]
    }

    fn is_intact(&self) -> bool {
        let bytes: &[u8] = bytemuck::cast_slice(&self.words);
        bytes[..GUARD * 4].iter().chain(&bytes[GUARD * 4 + self.bytes..]).all(|&b| b == 0xff)
    }
}

/// Outputs of `op`, or what went wrong. Operations that ask for packed parameters run with and without them.
pub(crate) fn run(op: &AnyOp, inputs: &[Option<Tensor>], outs: &[Ty], cpu: &Cpu) -> Result<Vec<Tensor>, String> {
    let types: Vec<Option<Ty>> = inputs.iter().map(|t| t.as_ref().map(Tensor::ty)).collect();
    let pack = |(i, tensor): (usize, &Option<Tensor>)| {
        let (spec, tensor) = (op.packing(i, &types)?, tensor.as_ref()?);
        Some(Packed::new(cpu, spec, tensor.ty().dtype, tensor.bytes()))
    };
    let packed: Vec<Option<Packed>> =
        inputs.iter().enumerate().map(|input| pack(input).transpose()).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let result = run_packed(op, inputs, &packed, outs, cpu)?;
    if packed.iter().any(Option::is_some) {
        let none: Vec<Option<Packed>> = packed.iter().map(|_| None).collect();
        let plain = run_packed(op, inputs, &none, outs, cpu)?;
        if plain.iter().zip(&result).any(|(a, b)| a.bytes() != b.bytes()) {
            return Err("packed parameters give other bits than plain ones".into());
        }
    }
    Ok(result)
}

/// Inputs that exist in packed form are passed without their bytes, as an executable does.
fn run_packed(op: &AnyOp, inputs: &[Option<Tensor>], packed: &[Option<Packed>], outs: &[Ty], cpu: &Cpu) -> Result<Vec<Tensor>, String> {
    let held: Vec<Option<Guarded>> = inputs.iter().map(|t| t.as_ref().map(Guarded::holding)).collect();
    let mut written: Vec<Guarded> = outs.iter().map(|ty| Guarded::poisoned(ty.bytes())).collect();
    {
        let mut ins: Vec<Option<HostIn<'_>>> = Vec::new();
        for ((tensor, held), packed) in inputs.iter().zip(&held).zip(packed) {
            let data = held.as_ref().filter(|_| packed.is_none()).map_or(&[][..], Guarded::data);
            ins.push(tensor.as_ref().map(|t| HostIn { ty: t.ty(), data, packed: packed.as_ref() }));
        }
        let mut outs: Vec<HostOut<'_>> = outs.iter().zip(&mut written).map(|(&ty, w)| HostOut { ty, data: w.data_mut() }).collect();
        op.cpu(&mut HostIo { ins: &ins, outs: &mut outs, cpu }).map_err(|e| e.to_string())?;
    }
    if !written.iter().all(Guarded::is_intact) {
        return Err("wrote outside its output".into());
    }
    Ok(outs.iter().zip(&written).map(|(&ty, w)| Tensor::from_bytes(ty, w.data()).unwrap()).collect())
}
