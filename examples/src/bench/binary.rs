//! Looking at a program's file.

use std::fs;
use std::path::Path;

use crate::{LabError, Result};

/// A program's file.
#[derive(Debug, Clone)]
pub struct Binary {
    /// For people.
    pub name: &'static str,
    /// In bytes.
    pub size: usize,
    /// Whether it needs no other program and no library to be loaded.
    pub is_static: bool,
}

impl Binary {
    /// Reads the file.
    pub fn look(name: &'static str, path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(LabError::file("read", path))?;
        let is_static = !asks_for_loader(&bytes)
            .ok_or_else(|| LabError::Unexpected(format!("{} is no 64-bit ELF file", path.display())))?;
        Ok(Self { name, size: bytes.len(), is_static })
    }
}

/// Whether an ELF file has a program header of type PT_INTERP (System V ABI, chapter 5).
fn asks_for_loader(bytes: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    if bytes.get(..5)? != b"\x7fELF\x02" {
        return None;
    }
    let short = |at: usize| Some(usize::from(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?)));
    let offset = usize::try_from(u64::from_ne_bytes(bytes.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (short(54)?, short(56)?);
    for index in 0..count {
        let at = offset + index * size;
        if u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?) == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}
