//! Parameter structs of kernels: declared once in Rust, packed as C lays them out.

use std::fmt::Write;

/// What an address in a parameter struct points to. The runtime puts the device address there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The null address: an optional tensor that is absent.
    Null,
    /// An input of the operation, in the order of its `infer`.
    In(usize),
    /// An output of the operation.
    Out(usize),
    /// The operation's workspace, this many bytes from its start.
    Scratch(u64),
    /// An input, this many bytes from its start; see [`Slot::at`].
    InAt(usize, u64),
    /// An output, this many bytes from its start; see [`Slot::at`].
    OutAt(usize, u64),
    /// So many counters of 32 bits, which are zero before every launch, and which every launch leaves at zero.
    Counters(u32),
}

impl Slot {
    /// The same `bytes` further on. Null and counters have no further on.
    #[must_use]
    pub fn at(self, bytes: u64) -> Self {
        match self {
            Self::Null | Self::Counters(_) => self,
            Self::In(index) => Self::InAt(index, bytes),
            Self::Out(index) => Self::OutAt(index, bytes),
            Self::Scratch(start) => Self::Scratch(start + bytes),
            Self::InAt(index, start) => Self::InAt(index, start + bytes),
            Self::OutAt(index, start) => Self::OutAt(index, start + bytes),
        }
    }

    /// The input at `index` if it is there, else null.
    pub fn optional<T>(ins: &[Option<T>], index: usize) -> Self {
        if ins.get(index).is_some_and(Option::is_some) { Self::In(index) } else { Self::Null }
    }
}

/// A packed parameter struct: the bytes of C's layout, with zeros where addresses go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params {
    /// All bytes, padding included.
    pub bytes: Vec<u8>,
    /// Offsets in `bytes` of the 8-byte addresses, and what each points to.
    pub pointers: Vec<(usize, Slot)>,
}

/// Type of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// A device address.
    Address,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 32 bits.
    I32,
    /// Unsigned, 64 bits.
    U64,
    /// Floating point, 32 bits.
    F32,
    /// An array of device addresses.
    Addresses(usize),
    /// An array of unsigned numbers of 32 bits.
    U32s(usize),
    /// Another parameter struct, which the kernel file names before this one.
    Struct(&'static ParamsLayout),
}

impl FieldKind {
    /// Alignment in bytes, which is the size of one element too where there are elements.
    pub fn align(self) -> usize {
        match self {
            Self::Address | Self::Addresses(_) | Self::U64 => 8,
            Self::U32 | Self::U32s(_) | Self::I32 | Self::F32 => 4,
            Self::Struct(layout) => layout.align(),
        }
    }

    /// Size in bytes.
    pub fn size(self) -> usize {
        match (self, self.count()) {
            (Self::Struct(layout), _) => layout.size(),
            (_, Some(count)) => count * self.align(),
            (_, None) => self.align(),
        }
    }

    /// Elements of an array.
    const fn count(self) -> Option<usize> {
        match self {
            Self::Addresses(count) | Self::U32s(count) => Some(count),
            _ => None,
        }
    }

    fn c_name(self) -> &'static str {
        match self {
            Self::Address | Self::Addresses(_) => "Address",
            Self::U32 | Self::U32s(_) => "unsigned int",
            Self::I32 => "int",
            Self::U64 => "unsigned long long",
            Self::F32 => "float",
            Self::Struct(layout) => layout.name,
        }
    }
}

/// Name and fields of a parameter struct, in their order.
#[derive(Debug, PartialEq, Eq)]
pub struct ParamsLayout {
    /// The struct's name, the same in Rust and in C.
    pub name: &'static str,
    /// Names and types of the fields.
    pub fields: &'static [(&'static str, FieldKind)],
}

impl ParamsLayout {
    /// Offset of each field in bytes, with natural alignment.
    pub fn offsets(&self) -> Vec<usize> {
        let mut end = 0;
        let place = |&(_, kind): &(&str, FieldKind)| {
            let start = usize::next_multiple_of(end, kind.align());
            end = start + kind.size();
            start
        };
        self.fields.iter().map(place).collect()
    }

    /// Size in bytes, with the padding at the end.
    pub fn size(&self) -> usize {
        let end = self.fields.iter().fold(0, |end: usize, (_, kind)| end.next_multiple_of(kind.align()) + kind.size());
        end.next_multiple_of(self.align())
    }

    /// Alignment in bytes.
    pub fn align(&self) -> usize {
        self.fields.iter().map(|(_, kind)| kind.align()).max().unwrap_or(1)
    }

    /// The C declaration, with an assertion that the compiler gives it the same size. NVRTC has no `offsetof`; but where sizes and
    /// alignments of the fields' types agree, which the header asserts, C's rules leave one layout only.
    pub fn c_declaration(&self) -> String {
        let mut text = format!("struct {} {{\n", self.name);
        for (name, kind) in self.fields {
            let extent = kind.count().map_or(String::new(), |count| format!("[{count}]"));
            let _ = writeln!(text, "    {} {name}{extent};", kind.c_name());
        }
        text += "};\n";
        let _ = writeln!(text, "static_assert(sizeof({}) == {}, \"size\");", self.name, self.size());
        text
    }

    /// Puts values, one for each field, where C expects them.
    pub fn pack(&self, values: &[FieldValue]) -> Params {
        let mut params = Params { bytes: vec![0; self.size()], pointers: Vec::new() };
        for (offset, value) in self.offsets().into_iter().zip(values) {
            let mut put = |bytes: &[u8]| params.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
            match *value {
                FieldValue::Address(slot) => params.pointers.push((offset, slot)),
                FieldValue::Addresses(ref slots) => {
                    params.pointers.extend(slots.iter().enumerate().map(|(i, slot)| (offset + 8 * i, *slot)))
                }
                FieldValue::U32s(ref values) => put(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()),
                FieldValue::Struct(ref inner) => {
                    put(&inner.bytes);
                    params.pointers.extend(inner.pointers.iter().map(|&(within, slot)| (offset + within, slot)));
                }
                FieldValue::U32(x) => put(&x.to_le_bytes()),
                FieldValue::I32(x) => put(&x.to_le_bytes()),
                FieldValue::U64(x) => put(&x.to_le_bytes()),
                FieldValue::F32(x) => put(&x.to_le_bytes()),
            }
        }
        params
    }
}

/// Value of one field.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue {
    /// A device address, not known yet.
    Address(Slot),
    /// Unsigned, 32 bits.
    U32(u32),
    /// Signed, 32 bits.
    I32(i32),
    /// Unsigned, 64 bits.
    U64(u64),
    /// Floating point, 32 bits.
    F32(f32),
    /// As many device addresses as the array has.
    Addresses(Vec<Slot>),
    /// As many numbers as the array has.
    U32s(Vec<u32>),
    /// A packed parameter struct.
    Struct(Params),
}

/// Declares the parameter struct of a kernel for both sides:
///
/// ```text
/// kernel_params! {
///     /// Sizes and tensors of `cast`.
///     pub(crate) struct CastParams { x: ptr, y: ptr, count: u32 }
/// }
/// ```
///
/// makes the Rust struct (`ptr` is a [`Slot`]; u32, i32, u64 and f32 are themselves, `[ptr; 4]` and `[u32; 4]` arrays, `{OtherParams}` another
/// one of these structs), `CastParams::LAYOUT` for the kernel file, and `.pack()`. In the kernel a `ptr` can be assigned to a pointer of any type, and is false when null.
macro_rules! kernel_params {
    ($(#[$doc:meta])* $vis:vis struct $name:ident { $($field:ident : $kind:tt),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        $vis struct $name { $($vis $field: $crate::device::params::kernel_params!(@type $kind)),* }

        impl $name {
            /// Names, types and places of the fields.
            $vis const LAYOUT: $crate::device::ParamsLayout = $crate::device::ParamsLayout {
                name: stringify!($name),
                fields: &[$((stringify!($field), $crate::device::params::kernel_params!(@kind $kind))),*],
            };

            /// The bytes that a launch passes.
            $vis fn pack(self) -> $crate::device::Params {
                Self::LAYOUT.pack(&[$($crate::device::params::kernel_params!(@value $kind, self.$field)),*])
            }
        }
    };
    (@type [ptr; $n:tt]) => { [$crate::device::Slot; $n] };
    (@kind [ptr; $n:tt]) => { $crate::device::FieldKind::Addresses($n) };
    (@kind [u32; $n:tt]) => { $crate::device::FieldKind::U32s($n) };
    (@value [ptr; $n:tt], $value:expr) => { $crate::device::FieldValue::Addresses($value.to_vec()) };
    (@value [u32; $n:tt], $value:expr) => { $crate::device::FieldValue::U32s($value.to_vec()) };
    (@type { $inner:ident }) => { $inner };
    (@kind { $inner:ident }) => { $crate::device::FieldKind::Struct(&$inner::LAYOUT) };
    (@value { $inner:ident }, $value:expr) => { $crate::device::FieldValue::Struct($value.pack()) };
    (@type ptr) => { $crate::device::Slot };
    (@type $kind:ty) => { $kind };
    (@kind ptr) => { $crate::device::FieldKind::Address };
    (@kind u32) => { $crate::device::FieldKind::U32 };
    (@kind i32) => { $crate::device::FieldKind::I32 };
    (@kind u64) => { $crate::device::FieldKind::U64 };
    (@kind f32) => { $crate::device::FieldKind::F32 };
    (@value ptr, $value:expr) => { $crate::device::FieldValue::Address($value) };
    (@value u32, $value:expr) => { $crate::device::FieldValue::U32($value) };
    (@value i32, $value:expr) => { $crate::device::FieldValue::I32($value) };
    (@value u64, $value:expr) => { $crate::device::FieldValue::U64($value) };
    (@value f32, $value:expr) => { $crate::device::FieldValue::F32($value) };
}
pub(crate) use kernel_params;

#[cfg(test)]
mod tests {
    use super::*;

    kernel_params! {
        /// One field of each kind, with holes between them.
        struct MixedParams { rows: u32, x: ptr, eps: f32, seed: u64, shift: i32, y: ptr, last: u32 }
    }

    #[test]
    fn fields_lie_where_c_puts_them() {
        assert_eq!(MixedParams::LAYOUT.offsets(), [0, 8, 16, 24, 32, 40, 48]);
        assert_eq!(MixedParams::LAYOUT.size(), 56);
        let seed = 0x0102_0304_0506_0708;
        let mixed = MixedParams { rows: 7, x: Slot::In(2), eps: 0.5, seed, shift: -1, y: Slot::Out(0).at(64), last: 9 };
        let params = mixed.pack();
        assert_eq!(params.pointers, [(8, Slot::In(2)), (40, Slot::OutAt(0, 64))]);
        assert_eq!(params.bytes[..4], [7, 0, 0, 0]);
        assert_eq!(params.bytes[16..20], 0.5f32.to_le_bytes());
        assert_eq!(params.bytes[24..32], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(params.bytes[32..36], [0xff; 4]);
        assert_eq!((params.bytes[48], params.bytes.len()), (9, 56));
    }

    /// The same struct, laid out by a C compiler's rules as rustc implements them.
    #[test]
    fn the_size_is_that_of_repr_c() {
        #[repr(C)]
        struct Mixed(u32, u64, f32, u64, i32, u64, u32);
        assert_eq!(MixedParams::LAYOUT.size(), size_of::<Mixed>());
        kernel_params! { struct Narrow { a: u32, b: f32, c: i32 } }
        assert_eq!(Narrow::LAYOUT.size(), 12);
        assert_eq!(Narrow { a: 1, b: 2.0, c: 3 }.pack().pointers, []);
    }

    #[test]
    fn arrays_lie_element_after_element() {
        kernel_params! { struct Arrays { count: u32, x: [ptr; 2], widths: [u32; 3] } }
        assert_eq!((Arrays::LAYOUT.offsets(), Arrays::LAYOUT.size()), (vec![0, 8, 24], 40));
        let params = Arrays { count: 2, x: [Slot::In(0), Slot::In(3)], widths: [5, 6, 7] }.pack();
        assert_eq!(params.pointers, [(8, Slot::In(0)), (16, Slot::In(3))]);
        assert_eq!((params.bytes[24], params.bytes[28], params.bytes[32]), (5, 6, 7));
        assert!(Arrays::LAYOUT.c_declaration().contains("    Address x[2];\n    unsigned int widths[3];\n"));
    }

    #[test]
    fn structs_lie_within_structs() {
        kernel_params! { struct Inner { count: u32, x: ptr, last: u32 } }
        kernel_params! { struct Outer { rows: u32, inner: {Inner}, eps: f32 } }
        assert_eq!((Outer::LAYOUT.offsets(), Inner::LAYOUT.size()), (vec![0, 8, 32], 24));
        assert_eq!(Outer::LAYOUT.size(), 40);
        let params = Outer { rows: 1, inner: Inner { count: 2, x: Slot::Counters(5), last: 3 }, eps: 0.5 }.pack();
        assert_eq!(params.pointers, [(16, Slot::Counters(5))]);
        assert_eq!((params.bytes[0], params.bytes[8], params.bytes[24], params.bytes.len()), (1, 2, 3, 40));
        assert!(Outer::LAYOUT.c_declaration().contains("    Inner inner;\n"));
    }

    #[test]
    fn the_c_side_is_declared_and_checked() {
        let text = MixedParams::LAYOUT.c_declaration();
        assert!(text.starts_with("struct MixedParams {\n    unsigned int rows;\n    Address x;\n    float eps;\n"), "{text}");
        assert!(text.contains("static_assert(sizeof(MixedParams) == 56"), "{text}");
    }

    #[test]
    fn slots_move_and_stay_null() {
        assert_eq!(Slot::In(1).at(8).at(8), Slot::InAt(1, 16));
        assert_eq!(Slot::Scratch(256).at(4), Slot::Scratch(260));
        assert_eq!(Slot::Null.at(4), Slot::Null);
        assert_eq!((Slot::optional(&[Some(1), None], 0), Slot::optional(&[Some(1), None], 1)), (Slot::In(0), Slot::Null));
        assert_eq!(Slot::optional::<u8>(&[], 3), Slot::Null);
    }
}
