//! Checks that an operation refuses bad inputs, and says why.

use super::AnyOp;
use crate::{DType, Shape, Ty};

/// Fails unless `infer` refuses each list of inputs with a message that has the given words.
pub(crate) fn assert_rejects(cases: Vec<(AnyOp, Vec<Option<Ty>>, &str)>) {
    for (op, ins, words) in cases {
        match op.infer(&ins) {
            Ok(outs) => panic!("{op:?} accepts {ins:?} and gives {outs:?}, expected an error about `{words}`"),
            Err(e) => assert!(e.to_string().contains(words), "{op:?} on {ins:?} says `{e}`, expected `{words}`"),
        }
    }
}

/// An f32 input.
pub(crate) fn f32(shape: impl Into<Shape>) -> Option<Ty> {
    Some(Ty::new(DType::F32, shape))
}

/// A bf16 input.
pub(crate) fn bf16(shape: impl Into<Shape>) -> Option<Ty> {
    Some(Ty::new(DType::Bf16, shape))
}

/// An i32 input.
pub(crate) fn i32(shape: impl Into<Shape>) -> Option<Ty> {
    Some(Ty::new(DType::I32, shape))
}
