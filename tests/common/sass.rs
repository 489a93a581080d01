//! Machine code as `nvdisasm` prints it: where its main loops are, and what they are made of.

use std::collections::{BTreeMap, HashMap};

/// The loops with tensor-core instructions of the kernel `entry` in the output of `nvdisasm --print-code`, in their order; one in another
/// comes after it and is part of it. With them comes what the whole kernel is made of.
pub(crate) fn main_loops(listing: &str, entry: &str) -> Result<(Vec<Mix>, Mix), String> {
    let code = instructions(listing, entry)?;
    let at: HashMap<&str, usize> = code.iter().enumerate().flat_map(|(i, line)| line.labels.iter().map(move |l| (*l, i))).collect();
    // a loop goes from where a branch leads back to, to the last such branch
    let mut ends: BTreeMap<usize, usize> = BTreeMap::new();
    for (i, line) in code.iter().enumerate().filter(|(_, line)| line.opcode == "BRA") {
        let target = line.target.ok_or_else(|| format!("a branch without a target: {}", line.text))?;
        let start = *at.get(target).ok_or_else(|| format!("no label {target}"))?;
        if start <= i && code[start..=i].iter().any(|line| line.opcode.starts_with("HMMA")) {
            ends.insert(start, i);
        }
    }
    let loops = ends.into_iter().map(|(start, end)| Mix::of(&code[start..=end])).collect::<Result<_, _>>()?;
    Ok((loops, Mix::of(&code)?))
}

/// One instruction: its labels, its name with all modifiers, where it branches to.
struct Line<'a> {
    labels: Vec<&'a str>,
    opcode: &'a str,
    target: Option<&'a str>,
    text: &'a str,
}

/// All instructions of one kernel. A line is `/*0a40*/ @!P2 HMMA.16816.F32.BF16 R4, R8, R12, R4 ;`, a label `.L_x_3:`.
fn instructions<'a>(listing: &'a str, entry: &str) -> Result<Vec<Line<'a>>, String> {
    let start = format!(".text.{entry}:");
    let mut lines = listing.lines().skip_while(|line| *line != start).skip(1);
    let (mut code, mut labels) = (Vec::new(), Vec::new());
    for line in lines.by_ref().take_while(|line| !line.starts_with("//---")) {
        let line = line.trim();
        if let Some(label) = line.strip_suffix(':') {
            labels.push(label);
        } else if let Some((_, text)) = line.strip_prefix("/*").and_then(|rest| rest.split_once("*/")) {
            let text = text.trim().trim_end_matches(';').trim_end();
            // the assembler fills up with instructions that never run: `@!PT LDS RZ, [RZ]`
            if text.starts_with("@!PT ") {
                continue;
            }
            // a guard comes first: `@P0`, `@!UP1`
            let opcode = text.split_whitespace().find(|word| !word.starts_with('@')).ok_or_else(|| format!("no instruction: {line}"))?;
            let target = text.split_once("`(").and_then(|(_, rest)| rest.split_once(')')).map(|(name, _)| name);
            code.push(Line { labels: std::mem::take(&mut labels), opcode, target, text });
        }
    }
    if code.is_empty() { Err(format!("no kernel {entry}")) } else { Ok(code) }
}

/// Warp instructions of some stretch of code by kind, each counted once, whether a branch leads around it or not.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Mix {
    counts: BTreeMap<Kind, usize>,
}

/// Kinds of instructions, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// `HMMA`: one `mma.sync`.
    Tensor,
    /// `LDSM`: `ldmatrix`, 16 bytes for each row that it reads.
    Matrix,
    /// `LDGSTS` of 16 bytes: `cp.async`.
    AsyncWide,
    AsyncNarrow,
    /// `LDG`, `STG` of 16 bytes.
    GlobalWide,
    GlobalNarrow,
    /// `LDS`, `STS` of 16 bytes.
    SharedWide,
    SharedNarrow,
    /// `LDL`, `STL`: what spilled, or an array that is no register.
    Local,
    /// `MUFU`: exponentials, reciprocals.
    Special,
    Float,
    /// Integer arithmetic, addresses, predicates and moves.
    Integer,
    /// Branches, barriers, shuffles, waits.
    Rest,
}

impl Kind {
    pub(crate) const ALL: [(Self, &'static str); 13] = [
        (Self::Tensor, "HMMA"),
        (Self::Matrix, "LDSM"),
        (Self::AsyncWide, "LDGSTS.128"),
        (Self::AsyncNarrow, "LDGSTS narrower"),
        (Self::GlobalWide, "LDG STG .128"),
        (Self::GlobalNarrow, "LDG STG narrower"),
        (Self::SharedWide, "LDS STS .128"),
        (Self::SharedNarrow, "LDS STS narrower"),
        (Self::Local, "LDL STL"),
        (Self::Special, "MUFU"),
        (Self::Float, "float"),
        (Self::Integer, "integer"),
        (Self::Rest, "rest"),
    ];

    /// None for an instruction that no list names: it may be one that counts.
    fn of(opcode: &str) -> Option<Self> {
        let mut parts = opcode.split('.');
        let name = parts.next().unwrap_or_default();
        let wide = parts.any(|part| part == "128");
        let listed = |list: &str| list.split_whitespace().any(|known| known == name);
        Some(match name {
            "HMMA" => Self::Tensor,
            "LDSM" => Self::Matrix,
            "LDGSTS" if wide => Self::AsyncWide,
            "LDGSTS" => Self::AsyncNarrow,
            "MUFU" => Self::Special,
            _ if listed(GLOBAL) => {
                if wide {
                    Self::GlobalWide
                } else {
                    Self::GlobalNarrow
                }
            }
            _ if listed(SHARED) => {
                if wide {
                    Self::SharedWide
                } else {
                    Self::SharedNarrow
                }
            }
            _ if listed(LOCAL) => Self::Local,
            _ if listed(FLOAT) => Self::Float,
            // what starts with U runs on the warp's scalar unit
            _ if listed(INTEGER) || name.starts_with('U') => Self::Integer,
            _ if listed(REST) => Self::Rest,
            _ => return None,
        })
    }
}

const GLOBAL: &str = "LDG STG LD ST RED ATOM ATOMG";
const SHARED: &str = "LDS STS ATOMS STSM";
const LOCAL: &str = "LDL STL";
const FLOAT: &str = "FADD FMUL FFMA FMNMX FMNMX3 FSETP FSET FSEL FCHK HADD2 HMUL2 HFMA2 HMNMX2 HSETP2 HSET2 F2F F2FP F2I I2F I2FP FRND";
const INTEGER: &str = "IMAD IADD IADD3 ISETP LOP3 LEA VIADD SEL CS2R MOV SHF PRMT PLOP3 S2UR S2R P2R R2P B2R VIMNMX VIMNMX3 VIADDMNMX IMNMX R2UR \
                       IABS FLO POPC BREV SGXT BMSK LDC LDCU";
const REST: &str =
    "BRA BSSY BSYNC BREAK EXIT NOP BAR WARPSYNC SHFL VOTE DEPBAR LDGDEPBAR MEMBAR ERRBAR CGAERRBAR CCTL CALL RET YIELD REDUX MATCH";

impl Mix {
    fn of(code: &[Line<'_>]) -> Result<Self, String> {
        let mut counts = BTreeMap::new();
        for line in code {
            let kind = Kind::of(line.opcode).ok_or_else(|| format!("an instruction of no known kind: {}", line.text))?;
            *counts.entry(kind).or_default() += 1;
        }
        Ok(Self { counts })
    }

    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.counts.get(&kind).copied().unwrap_or_default()
    }

    pub(crate) fn instructions(&self) -> usize {
        self.counts.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\t.section\t.text.other,\"ax\",@progbits
.text.other:
        /*0000*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
//--------------------- .text.product    --------------------------
\t.sectionflags\t@\"SHF_BARRIERS=1\"
.text.product:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/              @!PT LDS RZ, [RZ] ;
        /*0020*/                   LDGSTS.E.BYPASS.LTC128B.128 [R4], [R2.64], P0 ;
        /*0030*/              @!P1 BRA `(.L_x_2) ;
        /*0040*/                   LDG.E R7, desc[UR4][R2.64] ;
.L_x_2:
        /*0050*/                   LDSM.16.M88.4 R8, [R44] ;
        /*0060*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0070*/              @!P0 BRA `(.L_x_1) ;
.L_x_3:
        /*0080*/                   STL.64 [R1], R4 ;
        /*0090*/               @P2 BRA `(.L_x_3) ;
        /*00a0*/                   EXIT ;
.L_x_4:
        /*00b0*/                   BRA `(.L_x_4);
";

    #[test]
    fn a_loop_is_what_a_branch_leads_back_over() {
        let (loops, whole) = main_loops(LISTING, "product").unwrap();
        assert_eq!(loops.len(), 1, "a loop without tensor-core instructions is none of the main ones");
        let counts = Kind::ALL.map(|(kind, _)| loops[0].count(kind));
        assert_eq!(counts, [1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2], "the read that never happens is left out");
        assert_eq!((whole.instructions(), whole.count(Kind::Local), whole.count(Kind::Integer)), (11, 1, 1));
        assert_eq!(main_loops(LISTING, "other").unwrap().0.len(), 0);
        assert!(main_loops(LISTING, "none").is_err());
        let unknown = main_loops(&LISTING.replace("STL.64", "NEW.64"), "product").unwrap_err();
        assert!(unknown.contains("NEW.64"), "{unknown}");
    }
}
