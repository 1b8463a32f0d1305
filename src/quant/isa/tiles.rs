//! Tiles of AMX: sixteen rows times sixteen vectors in one step.
//!
//! ```text
//!          numbers ..64             vector 0  1  ..  15              vector 0  1  ..  15
//! row 0    a a a a ..    x     0..4    b  b      b       =   row 0     sum
//!  ..                          4..8    b                      ..              32 bits each
//! row 15   a                    ..     fours of numbers      row 15
//!          tile of a           tile of b                     tile of sums
//! ```
//!
//! Both are signed bytes. The rows of weights are the first factor, for of these a tile is what a row has, number by
//! number; the vectors are laid out in fours once ([`Fours`]) and meet all rows.
//!
//! That a processor names AMX is no proof that a program may use it, and one that may not is stopped. So the first use
//! is tried in a child process. Linux besides wants to be asked for the registers.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18, and volume 2: `LDTILECFG`
//! `TDPBSSD`; Linux, Documentation/arch/x86/xstate.rst.

#![allow(unsafe_code, reason = "the instructions have no functions in Rust yet")]

use std::{
    arch::{asm, x86_64::*},
    sync::LazyLock,
};

use super::Isa;

/// Rows of a tile, and vectors that meet them.
pub(crate) const TILE: usize = 16;

/// Four numbers of each vector, in one line of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Fours(pub [[i8; 4]; TILE]);

/// What rows and vectors sum to: `[row][vector]`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Sums(pub [[i32; TILE]; TILE]);

impl AsMut<[[i8; 4]]> for Fours {
    fn as_mut(&mut self) -> &mut [[i8; 4]] {
        &mut self.0
    }
}

impl Sums {
    /// Nothing yet.
    pub(crate) const ZERO: Sums = Sums([[0; TILE]; TILE]);
}

/// Numbers of a row that are laid out beside each other: what a super-block has.
pub(crate) const ROW: usize = 256;
/// Sixteen rows.
pub(crate) type Strip = [[i8; ROW]; TILE];

/// A machine whose AMX was tried, beside AVX-512 with VNNI: the value is the proof.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles(());

static TRIED: LazyLock<bool> = LazyLock::new(|| named() && granted() && tried());

impl Isa {
    /// The tiles of this set, where it has them and they work.
    ///
    /// Asked for the first time this tries them, in a process of its own.
    pub(crate) fn tiles(self) -> Option<Tiles> {
        (self.tiles && *TRIED).then_some(Tiles(()))
    }
}

/// Whether the processor names tiles and their products of bytes.
pub(super) fn named() -> bool {
    // Leaf 7: EDX has AMX-TILE in bit 24 and AMX-INT8 in bit 25.
    let both = 0b11 << 24;
    __cpuid_count(7, 0).edx & both == both
}

/// Asks Linux for the registers of tiles, which it gives to those alone who ask.
fn granted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XTILEDATA: libc::c_long = 18;
    // SAFETY: two numbers in, one out; a system that does not know the request returns an error.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0 }
}

/// Multiplies in a child process, which may die of it.
fn tried() -> bool {
    // SAFETY: between `fork` and `_exit` the child calls nothing but what signal handlers may call, and the
    // instructions that it is there to try; it leaves no core file and meets no handler of this process.
    unsafe {
        match libc::fork() {
            -1 => false,
            0 => {
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
                libc::signal(libc::SIGILL, libc::SIG_DFL);
                libc::_exit(i32::from(!right()));
            }
            child => {
                let mut status = -1;
                // A signal that a handler of this process takes ends the wait too early.
                while libc::waitpid(child, &raw mut status, 0) == -1 {
                    if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
                        return false;
                    }
                }
                libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
            }
        }
    }
}

/// Whether a product of tiles is what it should be.
fn right() -> bool {
    let (rows, mut sums) = ([[3; ROW]; TILE], [Sums::ZERO; 2]);
    let tiles = Tiles(()).configured();
    tiles.super_block([&rows, &rows], &[Fours([[-2; 4]; TILE]); ROW / 4], &mut sums);
    sums[1].0.as_flattened().iter().all(|sum| *sum == 3 * -2 * 256)
}

impl Tiles {
    /// Sets the registers of this thread up, until the value is dropped.
    pub(crate) fn configured(self) -> Configured {
        // Palette 1; bytes of a row of each register from byte 16 on, two each; rows from byte 48 on.
        let mut shapes = [0u8; 64];
        shapes[0] = 1;
        // Sums are tmm0 to tmm3. Of super-blocks 64 numbers are taken at a time, tmm4 and tmm5 times tmm6; blocks have
        // 32, tmm7 times tmm3.
        for register in 0..8 {
            shapes[16 + 2 * register] = 64;
            shapes[48 + register] = 16;
        }
        shapes[16 + 2 * 7] = 32;
        shapes[48 + 3] = 8;
        // SAFETY: the machine has AMX, and 64 bytes are read.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, readonly)) }
        Configured(())
    }
}

/// Words of 14 bits as two bytes each: `64 * upper + lower`, with `lower` from 0 to 63.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    pub upper: [i8; 32],
    pub lower: [i8; 32],
}

impl Tiles {
    /// Parts words of -8192 to 8191.
    #[inline(always)]
    pub(crate) fn parts(self, words: &[i16; 32]) -> Parts {
        // SAFETY: AVX-512 as above; 64 bytes are read, and both registers are 32 bytes, of which any value is one.
        unsafe {
            let words = _mm512_loadu_si512(words.as_ptr().cast());
            let upper = _mm512_cvtepi16_epi8(_mm512_srai_epi16::<6>(words));
            let lower = _mm512_cvtepi16_epi8(_mm512_and_si512(words, _mm512_set1_epi16(63)));
            let [upper, lower] = std::mem::transmute::<[__m256i; 2], [[i8; 32]; 2]>([upper, lower]);
            Parts { upper, lower }
        }
    }
}

/// Registers of this thread that are set up for [`Sums`].
#[derive(Debug)]
pub(crate) struct Configured(());

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: the machine has AMX, or there were no value. Without tiles in use the system has less to keep.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

impl Configured {
    /// The sums of two strips' products with the same 256 numbers of vectors, into `out[0]` and `out[1]`.
    #[inline(always)]
    pub(crate) fn super_block(
        &self,
        strips: [&Strip; 2],
        xs: &[Fours; ROW / 4],
        out: &mut [Sums; 2],
    ) {
        // SAFETY: AMX as above. Four times 64 numbers of sixteen rows, `ROW` bytes apart, and of the vectors sixteen
        // lines of 64 bytes are read, 1,024 bytes apart; sixteen lines are written to each of `out`. No code that is
        // compiled keeps anything in a tile.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm6, [{x} + {line}]",
                "tileloadd tmm4, [{a} + {row}]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{b} + {row}]",
                "tdpbssd tmm1, tmm5, tmm6",
                "tileloadd tmm6, [{x} + {line} + 1024]",
                "tileloadd tmm4, [{a} + {row} + 64]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{b} + {row} + 64]",
                "tdpbssd tmm1, tmm5, tmm6",
                "tileloadd tmm6, [{x} + {line} + 2048]",
                "tileloadd tmm4, [{a} + {row} + 128]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{b} + {row} + 128]",
                "tdpbssd tmm1, tmm5, tmm6",
                "tileloadd tmm6, [{x} + {line} + 3072]",
                "tileloadd tmm4, [{a} + {row} + 192]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{b} + {row} + 192]",
                "tdpbssd tmm1, tmm5, tmm6",
                "tilestored [{out} + {line}], tmm0",
                "tilestored [{out} + {line} + 1024], tmm1",
                a = in(reg) strips[0].as_ptr(),
                b = in(reg) strips[1].as_ptr(),
                x = in(reg) xs.as_ptr(),
                out = in(reg) out.as_mut_ptr(),
                line = in(reg) size_of::<Fours>(),
                row = in(reg) ROW,
                options(nostack),
            );
        }
    }

    /// The sums of 32 numbers of each row with those of each vector, of two blocks from number `32 * first` of a row
    /// on.
    #[inline(always)]
    pub(crate) fn two_blocks(
        &self,
        rows: &Strip,
        first: usize,
        xs: &[Fours; ROW / 4],
        out: &mut [Sums; 2],
    ) {
        assert!(first < ROW / 32 - 1, "two blocks of a strip");
        // SAFETY: AMX as above. Twice 32 numbers of sixteen rows, `ROW` bytes apart, and of the vectors eight lines of
        // 64 bytes are read, all inside by what was asserted; sixteen lines are written to each of `out`.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm3, [{x} + {line}]",
                "tileloadd tmm7, [{a} + {row}]",
                "tdpbssd tmm0, tmm7, tmm3",
                "tilestored [{out} + {line}], tmm0",
                "tileloadd tmm3, [{x} + {line} + 512]",
                "tileloadd tmm7, [{a} + {row} + 32]",
                "tdpbssd tmm1, tmm7, tmm3",
                "tilestored [{out} + {line} + 1024], tmm1",
                a = in(reg) rows.as_ptr().cast::<i8>().add(32 * first),
                x = in(reg) xs.as_ptr().add(8 * first),
                out = in(reg) out.as_mut_ptr(),
                line = in(reg) size_of::<Fours>(),
                row = in(reg) ROW,
                options(nostack),
            );
        }
    }
}

/// Defines `fn NAME(tiles: Tiles, args…)` that runs `BODY(isa, tiles, args…)` compiled for AVX-512 with VNNI.
macro_rules! with_tiles {
    ($vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:path;) => {
        #[allow(unsafe_code, reason = "see quant::isa")]
        $vis fn $name(tiles: $crate::quant::isa::tiles::Tiles, $($arg: $ty),*) {
            $crate::per_isa! { @vnni (tiles: $crate::quant::isa::tiles::Tiles, $($arg: $ty),*)
                = [isa] $body; }
            // SAFETY: `Tiles` exist only where the machine has AVX-512 with VNNI as well.
            unsafe { bytes(tiles, $($arg),*) }
        }
    };
}
pub(crate) use with_tiles;
