//! Files of `torch.save`: which tensors they hold and where the numbers of each are.
//!
//! Three layouts, told apart by their first bytes:
//!
//! | layout | written by | what is where |
//! |---|---|---|
//! | zip | torch 1.6 and later | `NAME/data.pkl`, `NAME/data/KEY` for each storage |
//! | legacy | torch 0.1.11 to 1.5 | five pickles one after the other, then the storages (`legacy`) |
//! | tar | torch before 0.1.11 | `storages`, `tensors` and `pickle` (`tar`) |

pub(crate) mod globals;
pub(crate) mod legacy;
pub(crate) mod node;
mod open;
pub mod pickle;
pub mod storage;
pub(crate) mod tar;
pub(crate) mod zip;

pub use node::Node;
pub use open::{is_torch, open};
