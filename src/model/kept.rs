//! What is made of a tensor once, for as long as a thread needs it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::{error::Result, quant::product::Packed};

/// Where matrix A of a product is found again while anybody holds it. It says nothing of the product: two are
/// alike whatever is kept, and a copy keeps nothing.
#[derive(Debug, Default)]
pub struct Kept(Mutex<Weak<Packed>>);

impl Kept {
    /// What is held already, or what `make` returns; others wait for it meanwhile.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn or_made(&self, make: impl FnOnce() -> Result<Packed>) -> Result<Arc<Packed>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = kept.upgrade() {
            return Ok(held);
        }
        let made = Arc::new(make()?);
        *kept = Arc::downgrade(&made);
        Ok(made)
    }
}

impl Clone for Kept {
    fn clone(&self) -> Kept {
        Kept::default()
    }
}

impl PartialEq for Kept {
    fn eq(&self, _: &Kept) -> bool {
        true
    }
}
