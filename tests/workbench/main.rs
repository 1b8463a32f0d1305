//! The workbench: files looked into, edited, split and joined by the command, as people call it.

mod metadata;
mod shards;
mod tensors;
