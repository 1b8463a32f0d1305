//! Keys and values of the tokens so far, which later tokens attend to.

/// Room for `context` positions in every layer, in float32.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Key heads of a layer.
    heads: usize,
    /// Numbers of one position in one head.
    head: usize,
    context: usize,
    /// Keys of each head of each layer, position after position, as attention reads them.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    len: usize,
}

impl Cache {
    /// An empty cache. Memory is taken as positions fill.
    pub fn new(layers: usize, heads: usize, head: usize, context: usize) -> Cache {
        let empty = vec![Vec::new(); layers * heads];
        Cache { heads, head, context, keys: empty.clone(), values: empty, len: 0 }
    }

    /// Positions filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that are still free.
    pub fn free(&self) -> usize {
        self.context - self.len
    }

    /// Adds keys and values of new positions to `layer`: `[position][heads * head]` each.
    pub fn extend(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        for (all, new) in [(&mut self.keys, keys), (&mut self.values, values)] {
            for (h, all) in all[layer * self.heads..][..self.heads].iter_mut().enumerate() {
                all.truncate(self.len * self.head);
                for position in new.chunks_exact(self.heads * self.head) {
                    all.extend_from_slice(&position[h * self.head..][..self.head]);
                }
            }
        }
    }

    /// Counts `n` positions, whose keys and values every layer now has.
    pub fn advance(&mut self, n: usize) {
        self.len += n;
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The keys of key head `h` of `layer`: `[position][head]`.
    pub fn keys(&self, layer: usize, h: usize) -> &[f32] {
        &self.keys[layer * self.heads + h]
    }

    /// The values of key head `h` of `layer`: `[position][head]`.
    pub fn values(&self, layer: usize, h: usize) -> &[f32] {
        &self.values[layer * self.heads + h]
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.keys.iter().chain(&self.values).map(|v| v.capacity() * size_of::<f32>()).sum()
    }
}
